// What a forked process is, seen from outside: nothing that it says of itself counts.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/container/plan.pb.h"

namespace sock::runtime::monitor {

struct FileIdentity {  // stat(2)
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const FileIdentity&) const = default;
};
// Of an open descriptor; of nothing where it is not open.
FileIdentity IdentityOf(int fd);

struct Place {  // statx(2): a file, and the mount by which it is reached
  uint32_t major = 0, minor = 0;
  uint64_t inode = 0, mount = 0;
  bool operator==(const Place&) const = default;
};
// Of /proc/PID/root or cwd, which are followed without a walk.
absl::StatusOr<Place> PlaceOf(pid_t pid, const char* link);

struct Expected {
  const Plan* plan = nullptr;  // capabilities, no_new_privs, seccomp
  uint32_t host_uid = 0, host_gid = 0;
  std::vector<uint32_t> host_groups;
  int seccomp_filters = 0;                                       // in all, those of the Zygote counted
  std::string cgroups;                                           // as /proc/PID/cgroup says
  std::vector<std::pair<const char*, FileIdentity>> namespaces;  // "mnt" …: these
  Place root, cwd;
  std::string mounts;           // as /proc/PID/mountinfo says; empty: it could change none
  FileIdentity own_cgroup_ns;   // not this one
  FileIdentity descriptors[3];  // 0 to 2
  FileIdentity channel;         // the one more that it may hold
  pid_t parent = 0;
  bool first_in_pid_ns = false;  // it is PID 1 of its namespace
};

// FAILED_PRECONDITION names the first thing that is otherwise. Where the plan has a seccomp filter, the
// process is stopped by the caller's ptrace(2), which alone can read the filter in place. proc_pid_status(5),
// namespaces(7).
absl::Status VerifyForked(pid_t pid, const Expected& expected);

}  // namespace sock::runtime::monitor
