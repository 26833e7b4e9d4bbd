#include "cri/doctor.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "runtime/base/text.h"
#include "runtime/network/cni.h"

namespace sock::cri {

namespace {

namespace fs = std::filesystem;

std::string Slurp(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool Exists(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

bool InPath(const std::string& program) {
  for (const char* dir :
       {"/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/", "/usr/local/sbin/", "/usr/local/bin/"}) {
    if (access((dir + program).c_str(), X_OK) == 0) return true;
  }
  return false;
}

class Report {
 public:
  void Check(const std::string& what, bool good, const std::string& detail, const std::string& mend) {
    if (good) {
      fmt::print("ok       {}: {}\n", what, detail);
    } else {
      fmt::print("MISSING  {}: {}\n         mend: {}\n", what, detail, mend);
      missing_ = true;
    }
  }
  int status() const { return missing_ ? 1 : 0; }

 private:
  bool missing_ = false;
};

}  // namespace

int Doctor() {
  Report report;
  report.Check("root", geteuid() == 0, Cat("uid ", geteuid()), "sudo sockctl doctor");

  utsname name{};
  uname(&name);
  int major = 0, minor = 0;
  sscanf(name.release, "%d.%d", &major, &minor);
  // openat2 5.6, mount_setattr 5.12, cgroup.kill 5.14.
  report.Check("kernel", major > 5 || (major == 5 && minor >= 14), name.release,
               "install a kernel of version 5.14 or newer");

  const std::string cgroup = "/sys/fs/cgroup", hierarchies = Slurp("/proc/cgroups");
  const size_t memory = hierarchies.find("\nmemory\t");  // followed by the number of its v1 hierarchy
  if (Exists(cgroup + "/cgroup.controllers")) {
    const std::string have = " " + Slurp(cgroup + "/cgroup.controllers");
    for (const char* controller : {"cpu", "memory", "pids", "cpuset"}) {
      report.Check(
          Cat("cgroup ", controller), have.find(Cat(" ", controller)) != std::string::npos, "cgroup v2",
          Cat("boot without `cgroup_disable=", controller, "`, and unmount a v1 hierarchy that has it"));
    }
  } else if (memory == std::string::npos || hierarchies[memory + 8] == '0') {
    report.Check("cgroups", false, Cat(cgroup, ": no v1 is in use, and no v2 there"),
                 Cat("mount -t cgroup2 cgroup2 ", cgroup));
  } else {
    for (const char* controller : {"cpu", "memory", "pids", "cpuset", "freezer", "devices"}) {
      const std::string dir = Cat(cgroup, "/", controller);
      report.Check(Cat("cgroup ", controller), Exists(dir + "/cgroup.procs"), "cgroup v1",
                   Cat("mkdir -p ", dir, " && mount -t cgroup -o ", controller, " cgroup ", dir));
    }
  }

  for (const char* type : {"overlay", "tmpfs", "proc", "mqueue"}) {
    report.Check(Cat("file system ", type),
                 ("\n" + Slurp("/proc/filesystems")).find(Cat("\t", type, "\n")) != std::string::npos,
                 "/proc/filesystems", Cat("modprobe ", type));
  }
  for (const char* kind : {"mnt", "net", "pid", "ipc", "uts", "user"}) {
    report.Check(Cat("namespace ", kind), Exists(Cat("/proc/self/ns/", kind)), Cat("/proc/self/ns/", kind),
                 "use a kernel that is built with namespaces (CONFIG_NAMESPACES)");
  }
  report.Check("seccomp", Exists("/proc/sys/kernel/seccomp/actions_avail"), "filters",
               "use a kernel that is built with CONFIG_SECCOMP_FILTER");

  // With the places of the daemon's defaults.
  runtime::Cni cni({});
  auto config = cni.Load();
  if (!config.ok()) {
    report.Check("CNI configuration", false, std::string(config.status().message()),
                 "mend the file, or remove it to have the built-in bridge");
  } else if (*config == nullptr) {
    report.Check("pod network", Exists("/proc/sys/net/ipv4/ip_forward"), "built-in bridge",
                 "use a kernel that is built with IPv4");
  } else {
    const absl::Status plugins = cni.CheckPlugins(**config);
    report.Check(
        "CNI plugins", plugins.ok(),
        plugins.ok() ? Cat("those that ", (*config)->file, " names") : std::string(plugins.message()),
        "apt-get install containernetworking-plugins, or what else brings the plugin");
    // The built-in bridge turns it on itself.
    report.Check("ip forwarding", Slurp("/proc/sys/net/ipv4/ip_forward").starts_with("1"),
                 "net.ipv4.ip_forward", "sysctl -w net.ipv4.ip_forward=1");
  }
  report.Check("nft", InPath("nft"), "nftables", "apt-get install nftables");
  return report.status();
}

}  // namespace sock::cri
