// The types of the OCI runtime specification (config.md, config-linux.md, version 1.2) that a container is
// made from. Plain data, named as the specification names them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace sock::oci {

struct IdMapping {
  uint32_t container_id = 0, host_id = 0, size = 0;
  bool operator==(const IdMapping&) const = default;
};

struct Mount {
  std::string destination;  // absolute, in the container
  std::string
      type;  // "bind", or a file system's name: "proc", "tmpfs", "sysfs", "mqueue", "devpts", "cgroup"
  std::string source;  // bind: a host path, symlinks followed on the host
  std::vector<std::string>
      options;  // mount(8) words: ro, rro, nosuid, nodev, noexec, rbind, rprivate, rslave, rshared, mode=…
  std::vector<IdMapping> uid_mappings, gid_mappings;  // not empty: idmapped so (mount_setattr(2))
};

struct User {
  uint32_t uid = 0, gid = 0;
  std::vector<uint32_t> additional_gids;
  std::optional<uint32_t> umask;
};

struct Capabilities {  // names as "CAP_NET_RAW"
  std::vector<std::string> bounding, effective, inheritable, permitted, ambient;
};

struct Rlimit {
  std::string type;  // "RLIMIT_NOFILE"
  uint64_t soft = 0, hard = 0;
};

struct Process {
  bool terminal = false;
  User user;
  std::vector<std::string> args, env;  // env: "NAME=value"
  std::string cwd = "/";
  Capabilities capabilities;
  std::vector<Rlimit> rlimits;
  bool no_new_privileges = false;
  std::string apparmor_profile, selinux_label;
  std::optional<int> oom_score_adj;
};

struct Device {
  std::string path;  // in the container
  char type = 'c';   // c, b, p
  int64_t major = 0, minor = 0;
  mode_t file_mode = 0666;
  uint32_t uid = 0, gid = 0;
  std::string host_path;  // bind-mounted from here
};

struct DeviceRule {
  bool allow = false;
  char type = 'a';                      // a, c, b
  std::optional<int64_t> major, minor;  // absent: any
  std::string access = "rwm";
};

struct Resources {
  std::vector<DeviceRule> devices;
  std::optional<int64_t> memory_limit,
      memory_swap;  // bytes; -1 unlimited; swap counts memory + swap, as v1 does
  std::optional<uint64_t> cpu_shares, cpu_period;  // period and quota in microseconds
  std::optional<int64_t> cpu_quota;
  std::string cpuset_cpus, cpuset_mems;
  std::optional<int64_t> pids_limit;
  std::map<std::string, uint64_t> hugepage_limits;  // "2MB" -> bytes
  std::map<std::string, std::string> unified;       // cgroup v2 files
};

struct SeccompArg {
  uint32_t index = 0;
  uint64_t value = 0, value_two = 0;
  std::string op;  // SCMP_CMP_EQ …
};
struct SeccompSyscall {
  std::vector<std::string> names;
  std::string action;
  std::optional<uint32_t> errno_ret;
  std::vector<SeccompArg> args;
};
struct Seccomp {
  std::string default_action;
  std::optional<uint32_t> default_errno_ret;
  std::vector<std::string> architectures, flags;
  std::vector<SeccompSyscall> syscalls;
};

struct Spec {
  Process process;
  bool root_readonly = false;
  std::string hostname;
  std::vector<Mount> mounts;  // in the order in which they are made
  std::map<std::string, std::string> annotations;
  std::vector<IdMapping> uid_mappings, gid_mappings;  // not empty: a user namespace
  std::string cgroups_path;                           // relative to the cgroup root
  Resources resources;
  std::vector<Device> devices;
  std::shared_ptr<const Seccomp> seccomp;  // null: unconfined
  std::vector<std::string> masked_paths, readonly_paths;
  std::map<std::string, std::string> sysctl;
};

}  // namespace sock::oci
