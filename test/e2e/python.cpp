#include "test/e2e/python.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <regex>

#include "runtime/base/text.h"

namespace sock::test {

std::string PushTar(Node& node, const std::string& tar, const std::string& name) {
  const std::string image = std::regex_replace(node.image(), std::regex("busybox"), name),
                    layout = Cat(node.dir(), "/layout-", name);
  const std::string push =
      Cat(SOURCE_DIR, "/hack/images/make-image --tar ", tar, " --cmd python3 ", layout,
          " && skopeo copy -q --dest-tls-verify=false oci:", layout, ":latest docker://", image);
  if (system(push.c_str()) != 0) {
    ADD_FAILURE() << "the image can't be pushed";
    return "";
  }
  grpc::Status pulled = node.Pull(image);
  EXPECT_TRUE(pulled.ok()) << pulled.error_message();
  return pulled.ok() ? image : "";
}

std::string PushPython(Node& node, const std::map<std::string, std::string>& modules,
                       const std::string& install) {
  const std::string root = node.dir() + "/python-root", packages = root + "/usr/lib/python3/dist-packages";
  const std::string make =
      Cat("set -e; mkdir -p ", packages, " ", root, "/tmp ", root, "/proc ", root, "/sys ", root, "/dev ",
          root, "/etc ", root, "/usr/bin; cd /; cp -a --parents /usr/bin/python3.11 /usr/lib/python3.11 ",
          root, "; ln -s python3.11 ", root, "/usr/bin/python3; ",
          install.empty() ? "" : Cat(install, " ", packages, "; "),
          "{ ldd /usr/bin/python3.11; find /usr/lib/python3.11/lib-dynload ", packages,
          " -name '*.so' -exec ldd {} +; } 2>/dev/null", " | grep -v ", root,
          " | grep -o '[[:space:]]/[^ ]*\\.so[^ ):]* (' | tr -d '( \t' | sort -u | xargs -I{} cp -L "
          "--parents {} ",
          root, "; cp /usr/bin/python3.11 ", root, "/usr/bin/setuid-python; chmod 4755 ", root,
          "/usr/bin/setuid-python; chmod 1777 ", root, "/tmp; echo 'root:x:0:0:root:/root:/bin/sh' > ", root,
          "/etc/passwd");
  if (system(make.c_str()) != 0) {
    ADD_FAILURE() << "no Python can be copied";
    return "";
  }
  for (const auto& [name, source] : modules) std::ofstream(packages + "/" + name + ".py") << source;
  const std::string tar = node.dir() + "/python.tar";
  if (system(Cat("tar -C ", root, " -cf ", tar, " .").c_str()) != 0) {
    ADD_FAILURE() << "no Python can be packed";
    return "";
  }
  return PushTar(node, tar, "python");
}

}  // namespace sock::test
