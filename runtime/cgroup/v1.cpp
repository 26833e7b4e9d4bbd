// cgroup v1, also where a bare cgroup2 stands beside it (Documentation/admin-guide/cgroup-v1).
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/cgroup/manager.h"

namespace sock::runtime::cgroup {
namespace {

constexpr int kFreezeMs = 5000;
constexpr int kRoundMs = 1000;  // a round of killing; whoever is left is killed again

class V1Manager : public TreeManager {
 public:
  V1Manager(Layout layout, bool systemd) : TreeManager(systemd), layout_(std::move(layout)) {
    for (const auto& [name, mount] : layout_.controllers) {
      if (std::ranges::find(roots_, mount) == roots_.end()) roots_.push_back(mount);
    }
  }

  CgroupMode mode() const override { return layout_.mode; }
  absl::Status KillAll(const std::string& path, int timeout_ms) override;
  absl::Status Freeze(const std::string& path, bool frozen) override;

 protected:
  std::vector<std::string> Roots() const override { return roots_; }
  absl::Status Make(const std::string& path, std::vector<std::string>* made) override;
  absl::Status Limit(const std::string& path, const oci::Resources& resources, bool fresh) override;
  CgroupStats Read(const std::string& path) const override;

 private:
  // The cgroup's directory at a controller; "" where the controller is not mounted.
  std::string At(const std::string& controller, const std::string& path) const {
    auto it = layout_.controllers.find(controller);
    return it == layout_.controllers.end() ? "" : Cat(it->second, "/", path);
  }
  absl::StatusOr<std::string> InheritCpuset(const std::string& path, const std::string& file) const;
  absl::Status LimitDevices(const std::string& dir, const std::vector<oci::DeviceRule>& rules,
                            bool fresh) const;

  const Layout layout_;
  std::vector<std::string> roots_;
};

absl::Status V1Manager::Make(const std::string& path, std::vector<std::string>* made) {
  for (const std::string& root : roots_) RETURN_IF_ERROR(MakeCgroup(root, path, made));
  for (const char* file : {"cpuset.cpus", "cpuset.mems"}) {
    if (layout_.controllers.contains("cpuset"))
      RETURN_IF_ERROR_AS(InheritCpuset(path, file).status(), "inherit cpuset");
  }
  return absl::OkStatus();
}

// A new v1 cpuset is empty, and takes no process until it has cpus and mems (cpuset(7)).
absl::StatusOr<std::string> V1Manager::InheritCpuset(const std::string& path, const std::string& file) const {
  const std::string at = Cat(layout_.controllers.at("cpuset"), "/", path, path.empty() ? "" : "/", file);
  std::string value = ReadText(at);
  if (path.empty() || (!value.empty() && value != "\n")) return value;
  const size_t slash = path.rfind('/');
  ASSIGN_OR_RETURN(value, InheritCpuset(slash == path.npos ? "" : path.substr(0, slash), file));
  RETURN_IF_ERROR(WriteExisting(at, value));
  return value;
}

absl::Status V1Manager::LimitDevices(const std::string& dir, const std::vector<oci::DeviceRule>& rules,
                                     bool fresh) const {
  ASSIGN_OR_RETURN(Fd allow, OpenPath(dir + "/devices.allow", O_WRONLY));
  ASSIGN_OR_RETURN(Fd deny, OpenPath(dir + "/devices.deny", O_WRONLY));
  // The kernel takes one rule from each write.
  auto say = [](const Fd& file, std::string_view rule) -> absl::Status {
    if (write(file.get(), rule.data(), rule.size()) < 0) return ErrnoStatus(errno, Cat("write `", rule, "`"));
    return absl::OkStatus();
  };
  std::string before = fresh ? "" : ReadText(dir + "/devices.list");
  absl::Status status;
  for (const oci::DeviceRule& rule : rules) {
    std::string text = DeviceRuleText(rule);
    // "a" alone means every device and every access, whatever follows it.
    if (rule.type == 'a') text = rule.major || rule.minor || rule.access.size() != 3 ? "" : "a";
    if (text.empty()) {
      status = absl::InvalidArgumentError("devices `a`: on cgroup v1 only of all devices and `rwm`");
    } else {
      status = say(rule.allow ? allow : deny, text);
    }
    if (status.ok()) continue;
    if (!fresh) (void)say(deny, "a");
    while (!before.empty()) {
      std::string line = before.substr(0, before.find('\n'));
      before.erase(0, line.size() + 1);
      (void)say(allow, line.starts_with("a") ? "a" : line);
    }
    return Annotate(status, Cat("set devices of cgroup `", dir, "`"));
  }
  return absl::OkStatus();
}

absl::Status V1Manager::Limit(const std::string& path, const oci::Resources& r, bool fresh) {
  std::vector<Setting> settings;
  absl::Status missing;
  auto at = [&](const char* controller, std::string_view field) {
    std::string dir = At(controller, path);
    if (dir.empty()) {
      missing.Update(
          absl::FailedPreconditionError(Cat(field, ": cgroup controller `", controller, "` is not mounted")));
    }
    return dir;
  };
  if (r.memory_limit || r.memory_swap) {
    std::string dir = at("memory", "memory_limit");
    oci::Resources memory = r;
    std::string memsw = dir + "/memory.memsw.limit_in_bytes";
    bool accounted = Exists(memsw);
    // Where the kernel counts no swap, "as much as the memory limit" and "unlimited" say nothing new.
    if (!accounted && (r.memory_swap == r.memory_limit || r.memory_swap == -1)) memory.memory_swap.reset();
    ASSIGN_OR_RETURN(std::vector<Setting> more,
                     V1Memory(dir, memory, fresh ? kUnlimited : ReadNumber(dir + "/memory.limit_in_bytes"),
                              accounted && !fresh ? ReadNumber(memsw) : kUnlimited));
    if (!fresh && memory.memory_swap && *memory.memory_swap > 0) {
      // Anonymous memory beyond memory and swap can go nowhere: say so before the kernel tries for seconds.
      std::string text = ReadText(dir + "/memory.stat");
      uint64_t use = Keyed(text, "total_rss") + Keyed(text, "total_swap");
      if (use > static_cast<uint64_t>(*memory.memory_swap)) {
        return absl::FailedPreconditionError(
            Cat("memory_swap `", *memory.memory_swap, "`: is below the current use of ", use, " bytes"));
      }
    }
    settings.insert(settings.end(), more.begin(), more.end());
  }
  if (r.cpu_shares) {
    uint64_t shares = std::clamp<uint64_t>(*r.cpu_shares, 2, 262144);
    settings.push_back({at("cpu", "cpu_shares") + "/cpu.shares", Cat(shares), "cpu_shares"});
  }
  size_t cpu = settings.size();
  std::string cpu_dir = r.cpu_period || r.cpu_quota ? at("cpu", "cpu_quota") : "";
  if (r.cpu_period) settings.push_back({cpu_dir + "/cpu.cfs_period_us", Cat(*r.cpu_period), "cpu_period"});
  if (r.cpu_quota) settings.push_back({cpu_dir + "/cpu.cfs_quota_us", Cat(*r.cpu_quota), "cpu_quota"});
  if (r.cpu_period && r.cpu_quota) {
    // Between the two writes the share quota/period must not rise above the parent's: the shrinking one
    // first.
    uint64_t period_now = ReadNumber(cpu_dir + "/cpu.cfs_period_us");
    if (*r.cpu_period < period_now) std::swap(settings[cpu], settings[cpu + 1]);
  }
  if (!r.cpuset_cpus.empty()) {
    settings.push_back({at("cpuset", "cpuset_cpus") + "/cpuset.cpus", r.cpuset_cpus, "cpuset_cpus"});
  }
  if (!r.cpuset_mems.empty()) {
    settings.push_back({at("cpuset", "cpuset_mems") + "/cpuset.mems", r.cpuset_mems, "cpuset_mems"});
  }
  if (r.pids_limit) {
    std::string value = *r.pids_limit < 0 ? "max" : Cat(*r.pids_limit);
    settings.push_back({at("pids", "pids_limit") + "/pids.max", value, "pids_limit"});
  }
  for (const auto& [size, bytes] : r.hugepage_limits) {
    // Kubernetes names every page size with a limit of 0; without the controller there is nothing to limit.
    if (bytes == 0 && !layout_.controllers.contains("hugetlb")) continue;
    std::string file = Cat(at("hugetlb", "hugepage_limits"), "/hugetlb.", size, ".limit_in_bytes");
    settings.push_back({file, Cat(bytes), "hugepage_limits"});
  }
  std::string devices = r.devices.empty() ? "" : at("devices", "devices");
  RETURN_IF_ERROR(missing);
  if (!r.devices.empty()) {
    // Devices come last and put themselves back; what came before them must follow.
    std::vector<Setting> undo;
    for (auto it = settings.rbegin(); !fresh && it != settings.rend(); ++it)
      undo.push_back({it->file, ReadText(it->file), ""});
    RETURN_IF_ERROR(Apply(settings, fresh));
    absl::Status status = LimitDevices(devices, r.devices, fresh);
    if (!status.ok()) {
      for (const Setting& setting : undo) (void)WriteExisting(setting.file, setting.value);
    }
    return status;
  }
  return Apply(settings, fresh);
}

CgroupStats V1Manager::Read(const std::string& path) const {
  CgroupStats stats;
  std::string cpu = At("cpuacct", path), memory = At("memory", path), pids = At("pids", path);
  if (!cpu.empty()) stats.cpu_usage_ns = ReadNumber(cpu + "/cpuacct.usage");
  if (!pids.empty()) stats.pids = ReadNumber(pids + "/pids.current");
  if (memory.empty()) return stats;
  std::string text = ReadText(memory + "/memory.stat");
  stats.memory_usage = ReadNumber(memory + "/memory.usage_in_bytes");
  stats.memory_working_set =
      stats.memory_usage - std::min(stats.memory_usage, Keyed(text, "total_inactive_file"));
  stats.memory_rss = Keyed(text, "total_rss");
  stats.page_faults = Keyed(text, "total_pgfault");
  stats.major_page_faults = Keyed(text, "total_pgmajfault");
  stats.swap_usage = Keyed(text, "total_swap");
  uint64_t limit = ReadNumber(memory + "/memory.limit_in_bytes");
  stats.memory_limit = limit >= kUnlimited ? 0 : limit;
  uint64_t memsw = ReadNumber(memory + "/memory.memsw.limit_in_bytes");  // 0: swap is not counted
  if (limit < kUnlimited && memsw >= limit && memsw < kUnlimited) stats.swap_limit = memsw - limit;
  stats.oom_kills = Keyed(ReadText(memory + "/memory.oom_control"), "oom_kill");
  return stats;
}

absl::Status V1Manager::Freeze(const std::string& path, bool frozen) {
  ASSIGN_OR_RETURN(std::string clean, Find(path));
  std::string dir = At("freezer", clean);
  if (dir.empty()) {
    return absl::FailedPreconditionError("freeze: cgroup controller `freezer` is not mounted");
  }
  std::string_view want = frozen ? "FROZEN" : "THAWED";
  // v1 tells nobody when it is done: reading the state moves it on, and a task that was forking is asked
  // anew.
  for (int64_t end = NowMs() + kFreezeMs; NowMs() < end; sched_yield()) {
    RETURN_IF_ERROR_AS(WriteExisting(dir + "/freezer.state", want), Cat("freeze cgroup `", clean, "`"));
    if (ReadText(dir + "/freezer.state").starts_with(want)) return absl::OkStatus();
  }
  if (frozen) (void)WriteExisting(dir + "/freezer.state", "THAWED");
  return absl::DeadlineExceededError(Cat("freeze cgroup `", clean, "`: not ", want, " in time"));
}

absl::Status V1Manager::KillAll(const std::string& path, int timeout_ms) {
  ASSIGN_OR_RETURN(std::string clean, Normalize(path, systemd_));
  std::vector<std::string> dirs = Dirs(clean);
  std::string freezer = At("freezer", clean);
  int64_t end = NowMs() + timeout_ms;
  auto thaw = [&] {
    // Cgroups below may have been frozen on their own: v1's tasks die only when thawed.
    for (const std::string& dir : freezer.empty() ? std::vector<std::string>() : TreeOf(freezer)) {
      (void)WriteExisting(dir + "/freezer.state", "THAWED");
    }
  };
  // One hierarchy tells of nearly every process; all of them are asked once more below.
  if (std::string pids = At("pids", clean); !pids.empty() && !PidsOf({pids}).empty())
    KillOnce({pids}, std::min(timeout_ms, kRoundMs), thaw);
  bool empty = false;
  while (!(empty = PidsOf(dirs).empty())) {
    int64_t left = end - NowMs();
    if (left <= 0) break;
    sched_yield();  // where all listed are past their ends, but not out of the list yet
    // Frozen, nobody forks; it need not be complete, as who escapes is found in the next round.
    if (!freezer.empty()) (void)WriteExisting(freezer + "/freezer.state", "FROZEN");
    KillOnce(dirs, std::min<int64_t>(left, kRoundMs), thaw);
  }
  if (!empty) {
    return absl::DeadlineExceededError(
        Cat("kill cgroup `", clean, "`: has processes after ", timeout_ms, " ms"));
  }
  return absl::OkStatus();
}

}  // namespace

std::unique_ptr<CgroupManager> MakeV1(Layout layout, bool systemd) {
  return std::make_unique<V1Manager>(std::move(layout), systemd);
}

}  // namespace sock::runtime::cgroup
