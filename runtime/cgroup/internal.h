// What the files of this room share. Not for other rooms.
#pragma once

#include <linux/bpf.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/cgroup/cgroup.h"

namespace sock::runtime::cgroup {

// ---- discover.cpp

struct Layout {
  CgroupMode mode = CgroupMode::kV1;
  std::map<std::string, std::string> controllers;  // v1 and hybrid: controller -> mount point
  std::string unified;                             // cgroup2's mount point; empty: none
};

// Asks libcgroup for the controllers and the mount table for cgroup2. Not thread-safe, as libcgroup is not.
absl::StatusOr<Layout> Discover();

std::unique_ptr<CgroupManager> MakeV1(Layout layout, bool systemd);
std::unique_ptr<CgroupManager> MakeV2(std::string root, bool systemd);

// ---- v2.cpp

// Hands the controllers that cgroup2's `dir` has to the cgroups below it. FAILED_PRECONDITION where it holds
// processes (the "no internal process" rule of cgroup-v2.rst); what the kernel refuses for other reasons is
// left out.
absl::Status EnableControllers(const std::string& dir);

// ---- systemd_path.cpp: pure

// "a-b.slice" -> "a.slice/a-b.slice" (systemd.slice(5)); "-.slice" is the root, "".
absl::StatusOr<std::string> ExpandSlice(std::string_view slice);
// A path as callers give it, relative to the root, without a leading or trailing slash; with `systemd` also
// "SLICE:PREFIX:NAME" and a bare slice are expanded. INVALID_ARGUMENT for "", "." and ".." as components.
absl::StatusOr<std::string> Normalize(std::string_view path, bool systemd);
std::string ContainerPath(std::string_view parent, std::string_view id, bool systemd);

// ---- limits.cpp: pure

inline constexpr uint64_t kUnlimited = 9223372036854771712u;  // what v1 shows for a limit of -1

// INVALID_ARGUMENT naming the field. `v2`: whether `unified` may be set.
absl::Status CheckResources(const oci::Resources& resources, bool v2);
// cpu.shares (2 to 262144) as cpu.weight (1 to 10000), by the formula of Kubernetes' KEP-2254.
uint64_t SharesToWeight(uint64_t shares);

// One file to write: `file` is absolute, `field` the limit it comes from.
struct Setting {
  std::string file, value, field;
};

// The two writes of v1's memory limits in an order in which limit <= memory+swap holds at each step. `dir` is
// the memory cgroup, `limit_now` and `memsw_now` are in bytes.
absl::StatusOr<std::vector<Setting>> V1Memory(const std::string& dir, const oci::Resources& resources,
                                              uint64_t limit_now, uint64_t memsw_now);
// memory.max and memory.swap.max; `limit_now` in bytes or kUnlimited.
absl::StatusOr<std::vector<Setting>> V2Memory(const std::string& dir, const oci::Resources& resources,
                                              uint64_t limit_now);
// A rule as devices.allow and devices.deny take it.
std::string DeviceRuleText(const oci::DeviceRule& rule);

// ---- tree.cpp: cgroup directories

// Writes all settings in order. Where one fails, what was written before it is put back, unless `fresh`.
absl::Status Apply(const std::vector<Setting>& settings, bool fresh);
// `dir` and all cgroups below, children before their parents; empty where it is gone.
std::vector<std::string> TreeOf(const std::string& dir);
// Processes in the trees, each once, ascending.
std::vector<pid_t> PidsOf(const std::vector<std::string>& dirs);
// SIGKILLs every process listed now, calls `thaw`, then waits for their ends. False after `timeout_ms`.
bool KillOnce(const std::vector<std::string>& dirs, int64_t timeout_ms, const std::function<void()>& thaw);
// Removes `dir` and what is below it; processes that are dying are waited for, shortly. Gone is success.
absl::Status RemoveCgroup(const std::string& dir);
// Makes `path` below `root`; directories that were made are appended to `made`, parents first.
absl::Status MakeCgroup(const std::string& root, const std::string& path, std::vector<std::string>* made);
// The number after "`key` " in a flat keyed file's text; 0 where there is none.
uint64_t Keyed(std::string_view text, std::string_view key);
// A *.pressure file's text; absent where it holds none (the file is empty, or unreadable as with psi=0).
std::optional<Pressure> ParsePressure(const std::string& text);
// The number in a file: kUnlimited for "max", 0 where it can't be read.
uint64_t ReadNumber(const std::string& file);
std::string ReadText(const std::string& file);
bool Exists(const std::string& path);
int64_t NowMs();  // CLOCK_MONOTONIC

// ---- device_bpf.cpp

// The program for BPF_PROG_TYPE_CGROUP_DEVICE: for each asked access bit the last matching rule decides; what
// no rule matches is allowed (the state of a new v1 cgroup). Pure.
std::vector<bpf_insn> DeviceProgram(const std::vector<oci::DeviceRule>& rules);
// Loads it, attaches it to the cgroup2 directory, then detaches our earlier one (bpf(2)).
absl::Status AttachDevices(int dir, const std::vector<oci::DeviceRule>& rules);

}  // namespace sock::runtime::cgroup
