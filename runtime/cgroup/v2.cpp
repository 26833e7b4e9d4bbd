// cgroup v2 (Documentation/admin-guide/cgroup-v2).
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/cgroup/manager.h"

namespace sock::runtime::cgroup {
namespace {

// Waits until the flat keyed file `name` in `dir` shows `key` as `value`: the kernel notifies pollers of
// cgroup.events. False after `timeout_ms`, true when the cgroup is gone.
bool WaitEvent(const std::string& dir, std::string_view key, uint64_t value, int64_t timeout_ms) {
  int64_t end = NowMs() + timeout_ms;
  auto file = OpenPath(dir + "/cgroup.events", O_RDONLY);
  if (!file.ok()) return absl::IsNotFound(file.status());
  for (;;) {
    char buffer[512];
    ssize_t n = pread(file->get(), buffer, sizeof buffer, 0);
    if (n < 0) return errno == ENODEV;
    if (Keyed({buffer, static_cast<size_t>(n)}, key) == value) return true;
    int64_t left = end - NowMs();
    if (left <= 0) return false;
    pollfd entry{file->get(), POLLPRI, 0};
    poll(&entry, 1, static_cast<int>(left));
  }
}

class V2Manager : public TreeManager {
 public:
  V2Manager(std::string root, bool systemd) : TreeManager(systemd), root_(std::move(root)) {}

  CgroupMode mode() const override { return CgroupMode::kV2; }
  absl::StatusOr<CgroupEntry> Entry(const std::string& path) const override;
  absl::Status KillAll(const std::string& path, int timeout_ms) override;
  absl::Status Freeze(const std::string& path, bool frozen) override;

 protected:
  std::vector<std::string> Roots() const override { return {root_}; }
  absl::Status Make(const std::string& path, std::vector<std::string>* made) override;
  absl::Status Limit(const std::string& path, const oci::Resources& resources, bool fresh) override;
  CgroupStats Read(const std::string& path) const override;

 private:
  const std::string root_;
};

}  // namespace

absl::Status EnableControllers(const std::string& dir) {
  std::string on = " " + ReadText(dir + "/cgroup.subtree_control"),
              have = " " + ReadText(dir + "/cgroup.controllers");
  for (std::string* text : {&on, &have}) std::ranges::replace(*text, '\n', ' ');
  std::vector<std::string> wanted;
  std::string all;
  for (std::string name : {"cpu", "cpuset", "memory", "pids", "hugetlb", "io"}) {
    std::string word = " " + name + " ";
    if (have.find(word) == have.npos || on.find(word) != on.npos) continue;
    wanted.push_back("+" + name);
    all += (all.empty() ? "+" : " +") + name;
  }
  if (wanted.empty()) return absl::OkStatus();
  absl::Status status = WriteExisting(dir + "/cgroup.subtree_control", all);
  if (ErrnoOf(status) == EBUSY) {
    return absl::FailedPreconditionError(
        Cat("cgroup `", dir,
            "`: has processes of its own, and so can't hand controllers to cgroups below it; move ",
            "them to a cgroup below it"));
  }
  // What the kernel doesn't give (threaded cgroups, cpu beside real-time tasks) a limit that needs it names.
  if (!status.ok()) {
    for (const std::string& one : wanted) (void)WriteExisting(dir + "/cgroup.subtree_control", one);
  }
  return absl::OkStatus();
}

namespace {

absl::Status V2Manager::Make(const std::string& path, std::vector<std::string>* made) {
  RETURN_IF_ERROR(EnableControllers(root_));
  for (size_t end = path.find('/'); end != path.npos; end = path.find('/', end + 1)) {
    RETURN_IF_ERROR(MakeCgroup(root_, path.substr(0, end), made));
    RETURN_IF_ERROR(EnableControllers(Cat(root_, "/", path.substr(0, end))));
  }
  return MakeCgroup(root_, path, made);
}

// A container that has handed controllers to cgroups of its own (systemd in a pod) can hold no process in its
// cgroup itself any more: whoever comes joins its first process.
absl::StatusOr<CgroupEntry> V2Manager::Entry(const std::string& path) const {
  ASSIGN_OR_RETURN(std::string clean, Normalize(path, systemd_));
  std::string dir = Cat(root_, "/", clean);
  if (!ReadText(dir + "/cgroup.subtree_control").empty()) {
    if (std::vector<pid_t> pids = PidsOf({dir}); !pids.empty()) {
      std::string line = Cat(pids.front(), "\n");
      for (const std::string& below : TreeOf(dir)) {
        std::string procs = ReadText(below + "/cgroup.procs");
        if (procs.starts_with(line) || procs.find("\n" + line) != procs.npos) dir = below;
      }
    }
  }
  CgroupEntry entry;
  ASSIGN_OR_RETURN(entry.unified, OpenPath(dir, O_RDONLY | O_DIRECTORY));
  return entry;
}

absl::Status V2Manager::Limit(const std::string& path, const oci::Resources& r, bool fresh) {
  std::string dir = Cat(root_, "/", path);
  oci::Resources memory = r;
  if (!Exists(dir + "/memory.swap.max") && (r.memory_swap == r.memory_limit || r.memory_swap == -1)) {
    memory.memory_swap.reset();  // no swap is counted: nothing new is said
  }
  ASSIGN_OR_RETURN(std::vector<Setting> settings,
                   V2Memory(dir, memory, fresh ? kUnlimited : ReadNumber(dir + "/memory.max")));
  if (!fresh && r.memory_limit && *r.memory_limit > 0) {
    // v2 takes a limit below the use and kills for it; page cache that is not in use would only be dropped.
    uint64_t use = ReadNumber(dir + "/memory.current");
    use -= std::min(use, Keyed(ReadText(dir + "/memory.stat"), "inactive_file"));
    if (use > static_cast<uint64_t>(*r.memory_limit)) {
      return absl::FailedPreconditionError(
          Cat("memory_limit `", *r.memory_limit, "`: is below the current use of ", use, " bytes"));
    }
  }
  if (r.cpu_shares)
    settings.push_back({dir + "/cpu.weight", Cat(SharesToWeight(*r.cpu_shares)), "cpu_shares"});
  if (r.cpu_period || r.cpu_quota) {
    // cpu.max is "QUOTA PERIOD"; what is absent stays.
    std::string now = ReadText(dir + "/cpu.max");
    if (now.find(' ') == now.npos) now = "max 100000";
    while (now.ends_with('\n')) now.pop_back();
    std::string quota = now.substr(0, now.find(' ')), period = now.substr(now.find(' ') + 1);
    if (r.cpu_quota) quota = *r.cpu_quota < 0 ? "max" : Cat(*r.cpu_quota);
    if (r.cpu_period) period = Cat(*r.cpu_period);
    settings.push_back({dir + "/cpu.max", Cat(quota, " ", period), r.cpu_quota ? "cpu_quota" : "cpu_period"});
  }
  if (!r.cpuset_cpus.empty()) settings.push_back({dir + "/cpuset.cpus", r.cpuset_cpus, "cpuset_cpus"});
  if (!r.cpuset_mems.empty()) settings.push_back({dir + "/cpuset.mems", r.cpuset_mems, "cpuset_mems"});
  if (r.pids_limit) {
    settings.push_back({dir + "/pids.max", *r.pids_limit < 0 ? "max" : Cat(*r.pids_limit), "pids_limit"});
  }
  for (const auto& [size, bytes] : r.hugepage_limits) {
    std::string file = Cat(dir, "/hugetlb.", size, ".max");
    if (bytes == 0 && !Exists(file)) continue;  // Kubernetes names every size: nothing there to limit
    settings.push_back({file, Cat(bytes), "hugepage_limits"});
    // Also what is only reserved: else a mapping succeeds and its use ends in SIGBUS (hugetlb in
    // cgroup-v2.rst).
    if (std::string reserved = Cat(dir, "/hugetlb.", size, ".rsvd.max"); Exists(reserved))
      settings.push_back({reserved, Cat(bytes), "hugepage_limits"});
  }
  for (const auto& [key, value] : r.unified) settings.push_back({Cat(dir, "/", key), value, "unified"});
  if (r.devices.empty()) return Apply(settings, fresh);

  std::vector<Setting> undo;
  for (auto it = settings.rbegin(); !fresh && it != settings.rend(); ++it)
    undo.push_back({it->file, ReadText(it->file), ""});
  RETURN_IF_ERROR(Apply(settings, fresh));
  absl::Status status;
  if (auto fd = OpenPath(dir, O_RDONLY | O_DIRECTORY); fd.ok()) {
    status = AttachDevices(fd->get(), r.devices);
  } else {
    status = fd.status();
  }
  if (!status.ok()) {
    for (const Setting& setting : undo) (void)WriteExisting(setting.file, setting.value);
  }
  return Annotate(status, Cat("set devices of cgroup `", dir, "`"));
}

CgroupStats V2Manager::Read(const std::string& path) const {
  std::string dir = Cat(root_, "/", path), text = ReadText(dir + "/memory.stat");
  CgroupStats stats;
  stats.cpu_usage_ns = Keyed(ReadText(dir + "/cpu.stat"), "usage_usec") * 1000;
  stats.memory_usage = ReadNumber(dir + "/memory.current");
  stats.memory_working_set = stats.memory_usage - std::min(stats.memory_usage, Keyed(text, "inactive_file"));
  stats.memory_rss = Keyed(text, "anon");
  stats.page_faults = Keyed(text, "pgfault");
  stats.major_page_faults = Keyed(text, "pgmajfault");
  stats.swap_usage = ReadNumber(dir + "/memory.swap.current");
  uint64_t limit = ReadNumber(dir + "/memory.max");
  stats.memory_limit = limit >= kUnlimited ? 0 : limit;
  stats.pids = ReadNumber(dir + "/pids.current");
  stats.oom_kills = Keyed(ReadText(dir + "/memory.events"), "oom_kill");
  if (uint64_t swap = ReadNumber(dir + "/memory.swap.max");
      swap < kUnlimited && Exists(dir + "/memory.swap.max")) {
    stats.swap_limit = swap;
  }
  stats.cpu_pressure = ParsePressure(ReadText(dir + "/cpu.pressure"));
  stats.memory_pressure = ParsePressure(ReadText(dir + "/memory.pressure"));
  stats.io_pressure = ParsePressure(ReadText(dir + "/io.pressure"));
  return stats;
}

absl::Status V2Manager::Freeze(const std::string& path, bool frozen) {
  ASSIGN_OR_RETURN(std::string clean, Find(path));
  std::string dir = Cat(root_, "/", clean);
  RETURN_IF_ERROR_AS(WriteExisting(dir + "/cgroup.freeze", frozen ? "1" : "0"),
                     Cat("freeze cgroup `", clean, "`"));
  if (WaitEvent(dir, "frozen", frozen ? 1 : 0, 5000)) return absl::OkStatus();
  if (frozen) (void)WriteExisting(dir + "/cgroup.freeze", "0");
  return absl::DeadlineExceededError(Cat("freeze cgroup `", clean, "`: not done in time"));
}

absl::Status V2Manager::KillAll(const std::string& path, int timeout_ms) {
  ASSIGN_OR_RETURN(std::string clean, Normalize(path, systemd_));
  std::string dir = Cat(root_, "/", clean);
  int64_t end = NowMs() + timeout_ms;
  if (!Exists(dir)) return absl::OkStatus();
  bool empty = false;
  if (WriteExisting(dir + "/cgroup.kill", "1").ok()) {  // Linux 5.14; children being forked die too
    empty = WaitEvent(dir, "populated", 0, timeout_ms);
  } else {
    while (!(empty = WaitEvent(dir, "populated", 0, 0)) && NowMs() < end) {
      (void)WriteExisting(dir + "/cgroup.freeze", "1");  // frozen tasks of v2 die from SIGKILL
      KillOnce({dir}, std::min<int64_t>(end - NowMs(), 1000), [] {});
    }
    (void)WriteExisting(dir + "/cgroup.freeze", "0");
  }
  if (empty) return absl::OkStatus();
  return absl::DeadlineExceededError(
      Cat("kill cgroup `", clean, "`: has processes after ", timeout_ms, " ms"));
}

}  // namespace

std::unique_ptr<CgroupManager> MakeV2(std::string root, bool systemd) {
  return std::make_unique<V2Manager>(std::move(root), systemd);
}

}  // namespace sock::runtime::cgroup
