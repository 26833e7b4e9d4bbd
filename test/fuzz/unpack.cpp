// A layer unpacked where nothing else can be reached, as in cri-sock-unpack. Needs root.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "absl/cleanup/cleanup.h"
#include "oci/unpack_tar.h"
#include "runtime/base/path.h"
#include "test/fuzz/fuzz.h"

FUZZ(unpack) {
  if (geteuid() != 0) return;
  std::string dir = "/dev/shm/cri-sock-fuzz.XXXXXX";
  CHECK(mkdtemp(dir.data()) != nullptr);
  sock::Fd outside(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)),
      cwd(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  sock::Fd layer(memfd_create("layer", MFD_CLOEXEC));
  CHECK(sock::WriteAll(layer.get(), input).ok() && lseek(layer.get(), 0, SEEK_SET) == 0);
  CHECK(mkdir((dir + "/root").c_str(), 0755) == 0 && mkdir((dir + "/root/layer").c_str(), 0755) == 0);
  CHECK(chroot((dir + "/root").c_str()) == 0 && chdir("/") == 0);
  {
    sock::Fd root(open("/layer", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    sock::oci::UnpackOptions options;
    options.max_bytes = 1 << 20;
    auto unpacked = sock::oci::UnpackTar(layer.get(), root.get(), options);
    if (unpacked.ok()) CHECK(unpacked->diff_id.size() == 71);
  }
  CHECK(fchdir(outside.get()) == 0 && chroot(".") == 0 && fchdir(cwd.get()) == 0);
  struct stat st;
  CHECK(stat((dir + "/root").c_str(), &st) == 0 && st.st_nlink == 3);  // "layer" is all that is there
  CHECK(sock::RemoveTree(dir).ok());
}
