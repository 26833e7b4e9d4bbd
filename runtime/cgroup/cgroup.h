// Cgroups: v1, v2 and hybrid behind one type. libcgroup discovers the hierarchies; the start path writes
// files itself.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "oci/runtime_spec.h"
#include "runtime/base/fd.h"

namespace sock::runtime {

enum class CgroupMode { kV1, kV2, kHybrid };  // kHybrid: controllers on v1, a bare cgroup2 beside them

// How long tasks stood still for want of a resource: pressure stall information (cgroup-v2.rst, psi.rst).
struct Pressure {
  struct Share {
    uint64_t total_ns = 0;
    double avg10 = 0, avg60 = 0, avg300 = 0;  // percent of the last seconds
  };
  Share some, full;
};

struct CgroupStats {
  uint64_t cpu_usage_ns = 0;
  uint64_t memory_usage = 0, memory_working_set = 0, memory_rss = 0,
           memory_limit = 0;  // bytes; limit 0: none
  uint64_t page_faults = 0, major_page_faults = 0, swap_usage = 0;
  uint64_t pids = 0;
  uint64_t oom_kills = 0;
  std::optional<uint64_t>
      swap_limit;  // bytes of swap beyond memory; absent: none set, or swap is not counted
  // Absent on cgroup v1, and where the kernel keeps none.
  std::optional<Pressure> cpu_pressure, memory_pressure, io_pressure;
};

// How a child gets into a cgroup. v1 and hybrid: before anything else, while it is one thread, it writes "0"
// to each of `procs`. v2: it is cloned into `unified` (clone3(2), CLONE_INTO_CGROUP).
struct CgroupEntry {
  std::vector<Fd> procs;
  Fd unified;  // the directory; invalid on v1 and hybrid
};

class CgroupManager {
 public:
  // `driver` is "cgroupfs" or "systemd" (then paths as "kubepods-pod1.slice:cri-sock:ID" are expanded as
  // systemd names them). FAILED_PRECONDITION names what is missing. `root` other than "" is for tests.
  static absl::StatusOr<std::unique_ptr<CgroupManager>> Open(const std::string& driver = "cgroupfs");
  virtual ~CgroupManager() = default;

  virtual CgroupMode mode() const = 0;
  // The cgroup of container `id` under the pod's `parent`, relative to the hierarchies' roots.
  virtual std::string PathFor(const std::string& parent, const std::string& id) const = 0;
  // Makes `path` in every controller's hierarchy and sets limits. INVALID_ARGUMENT names a bad limit. All or
  // nothing.
  virtual absl::Status Create(const std::string& path, const oci::Resources& resources) = 0;
  virtual absl::StatusOr<CgroupEntry> Entry(const std::string& path) const = 0;
  // Changes limits; what is absent stays. Rolls back what it changed where a later write fails.
  virtual absl::Status Update(const std::string& path, const oci::Resources& resources) = 0;
  virtual absl::StatusOr<CgroupStats> Stats(const std::string& path) const = 0;
  virtual absl::StatusOr<std::vector<pid_t>> Pids(const std::string& path) const = 0;
  // As one hierarchy tells, empty where there is none: enough where nobody could have parted them.
  virtual absl::StatusOr<std::vector<pid_t>> PidsOfFirst(const std::string& path) const = 0;
  // SIGKILLs every process in it and below it, also one that forks without end (cgroup.kill, or freezer and
  // loop), and waits until it is empty, at most `timeout_ms`: DEADLINE_EXCEEDED.
  virtual absl::Status KillAll(const std::string& path, int timeout_ms) = 0;
  virtual absl::Status Freeze(const std::string& path, bool frozen) = 0;
  // Removes it and what is below it. Gone is success; FAILED_PRECONDITION while it has processes.
  virtual absl::Status Remove(const std::string& path) = 0;
  // Makes only the directory (a pod's parent that nobody made, for crictl); kept if it was there.
  virtual absl::Status EnsureParent(const std::string& path) = 0;
};

}  // namespace sock::runtime
