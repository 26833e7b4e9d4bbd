#include "cri/doctor.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "runtime/base/text.h"

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

bool HasCniConfig(const std::string& dir) {
  std::error_code error;
  for (auto it = fs::directory_iterator(dir, error); !error && it != end(it); it.increment(error)) {
    const std::string e = it->path().extension().string();
    if (e == ".conf" || e == ".conflist" || e == ".json") return true;
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

  const std::string cgroup = "/sys/fs/cgroup";
  if (Exists(cgroup + "/cgroup.controllers")) {
    const std::string have = " " + Slurp(cgroup + "/cgroup.controllers");
    for (const char* controller : {"cpu", "memory", "pids", "cpuset"}) {
      report.Check(Cat("cgroup ", controller), have.find(Cat(" ", controller)) != std::string::npos,
                   "cgroup v2", Cat("echo +", controller, " > ", cgroup, "/cgroup.subtree_control"));
    }
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

  const bool cni = HasCniConfig("/etc/cni/net.d");
  report.Check("pod network", cni || Exists("/proc/sys/net/ipv4/ip_forward"),
               cni ? "CNI configuration in /etc/cni/net.d" : "built-in bridge",
               "use a kernel that is built with IPv4");
  if (cni) {
    report.Check("CNI plugins", Exists("/opt/cni/bin/bridge") || Exists("/usr/lib/cni/bridge"),
                 "/opt/cni/bin or /usr/lib/cni", "apt-get install containernetworking-plugins");
    // The built-in bridge turns it on itself.
    report.Check("ip forwarding", Slurp("/proc/sys/net/ipv4/ip_forward").rfind("1", 0) == 0,
                 "net.ipv4.ip_forward", "sysctl -w net.ipv4.ip_forward=1");
  }
  report.Check("nft", InPath("nft"), "nftables", "apt-get install nftables");
  return report.status();
}

}  // namespace sock::cri
