#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <set>
#include <sstream>

#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/cgroup/internal.h"

namespace sock::runtime::cgroup {
namespace {

constexpr int kDyingMs = 500;   // how long Remove waits for processes that have been killed
constexpr size_t kBatch = 512;  // pidfds held at a time

int PidfdOpen(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

// Waits for the ends of all; false after `timeout_ms`.
bool WaitFds(const std::vector<Fd>& fds, int64_t timeout_ms) {
  int64_t end = NowMs() + timeout_ms;
  for (const Fd& fd : fds) {
    pollfd entry{fd.get(), POLLIN, 0};
    int64_t left = std::max<int64_t>(end - NowMs(), 0);
    int n;
    while ((n = poll(&entry, 1, static_cast<int>(left))) < 0 && errno == EINTR) {
      left = std::max<int64_t>(end - NowMs(), 0);
    }
    if (n <= 0) return false;
  }
  return true;
}

void AddTree(const std::string& dir, std::vector<std::string>* out) {
  struct stat info;
  if (stat(dir.c_str(), &info) < 0) return;
  if (info.st_nlink == 2) return out->push_back(dir);  // kernfs counts the folders in a folder
  DIR* handle = opendir(dir.c_str());
  if (handle == nullptr) return;
  std::vector<std::string> children;
  while (dirent* entry = readdir(handle)) {
    std::string_view name = entry->d_name;
    if (entry->d_type == DT_DIR && name != "." && name != "..") children.push_back(Cat(dir, "/", name));
  }
  closedir(handle);
  for (const std::string& child : children) AddTree(child, out);
  out->push_back(dir);
}

absl::Status WriteError(const Setting& setting, const absl::Status& status) {
  int err = ErrnoOf(status);
  std::string what = Cat(setting.field, " `", setting.value, "`");
  if (err == ENOENT || absl::IsNotFound(status)) {
    return absl::FailedPreconditionError(Cat(what, ": the kernel has no `", setting.file, "`"));
  }
  if (err == EBUSY && setting.field.starts_with("memory")) {
    std::string dir = setting.file.substr(0, setting.file.rfind('/'));
    uint64_t use = std::max(ReadNumber(dir + "/memory.usage_in_bytes"), ReadNumber(dir + "/memory.current"));
    return absl::FailedPreconditionError(Cat(what, ": is below the current use of ", use, " bytes"));
  }
  if (err == EBUSY) return absl::FailedPreconditionError(Cat(what, ": `", setting.file, "` is busy"));
  if (err == EINVAL || err == ERANGE || err == EACCES || err == EPERM || err == ENOSPC || err == EOVERFLOW) {
    return absl::InvalidArgumentError(Cat(what, ": the kernel refused it: ", status.message()));
  }
  return Annotate(status, what);
}

}  // namespace

int64_t NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::string ReadText(const std::string& file) { return ReadFile(file).value_or(""); }

uint64_t ReadNumber(const std::string& file) {
  std::string text = ReadText(file);
  if (text.starts_with("max")) return kUnlimited;
  uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return std::min(value, kUnlimited);
}

uint64_t Keyed(std::string_view text, std::string_view key) {
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (!line.starts_with(key) || line.size() <= key.size() || line[key.size()] != ' ') continue;
    line.remove_prefix(key.size() + 1);
    uint64_t value = 0;
    std::from_chars(line.data(), line.data() + line.size(), value);
    return value;
  }
  return 0;
}

std::optional<Pressure> ParsePressure(const std::string& text) {
  Pressure pressure;
  bool any = false;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    char kind[5];
    double avg10, avg60, avg300;
    unsigned long long total_us;
    if (sscanf(line.c_str(), "%4s avg10=%lf avg60=%lf avg300=%lf total=%llu", kind, &avg10, &avg60, &avg300,
               &total_us) != 5)
      continue;
    (kind == std::string_view("full") ? pressure.full : pressure.some) = {total_us * 1000, avg10, avg60,
                                                                          avg300};
    any = true;
  }
  return any ? std::optional(pressure) : std::nullopt;
}

absl::Status Apply(const std::vector<Setting>& settings, bool fresh) {
  std::vector<Setting> undo;
  for (const Setting& setting : settings) {
    absl::StatusOr<std::string> before = fresh ? absl::NotFoundError("") : ReadFile(setting.file);
    absl::Status status = WriteExisting(setting.file, setting.value);
    if (!status.ok()) {
      absl::Status error = WriteError(setting, status);
      for (auto it = undo.rbegin(); it != undo.rend(); ++it) (void)WriteExisting(it->file, it->value);
      return error;
    }
    if (before.ok()) undo.push_back({setting.file, before->empty() ? "\n" : *before, ""});
  }
  return absl::OkStatus();
}

std::vector<std::string> TreeOf(const std::string& dir) {
  std::vector<std::string> dirs;
  AddTree(dir, &dirs);
  return dirs;
}

std::vector<pid_t> PidsOf(const std::vector<std::string>& dirs) {
  std::set<pid_t> pids;
  for (const std::string& root : dirs) {
    for (const std::string& dir : TreeOf(root)) {
      std::string text = ReadText(dir + "/cgroup.procs");
      const char *at = text.data(), *end = at + text.size();
      while (at < end) {
        pid_t pid = 0;
        auto [next, error] = std::from_chars(at, end, pid);
        if (error == std::errc() && pid > 0) pids.insert(pid);  // 0: of a foreign pid namespace
        at = std::find(next, end, '\n') + 1;
      }
    }
  }
  return {pids.begin(), pids.end()};
}

bool KillOnce(const std::vector<std::string>& dirs, int64_t timeout_ms, const std::function<void()>& thaw) {
  std::vector<pid_t> pids = PidsOf(dirs);
  if (pids.size() > kBatch) pids.resize(kBatch);  // the caller comes again for the rest
  std::vector<std::pair<pid_t, Fd>> found;
  for (pid_t pid : pids) {
    if (Fd fd(PidfdOpen(pid)); fd.valid()) found.emplace_back(pid, std::move(fd));
  }
  // Only what is listed still after its pidfd was opened is ours: a number may have been taken anew.
  std::vector<pid_t> still = PidsOf(dirs);
  std::vector<Fd> killed;
  for (auto& [pid, fd] : found) {
    if (!std::ranges::binary_search(still, pid)) continue;
    syscall(SYS_pidfd_send_signal, fd.get(), SIGKILL, nullptr, 0);
    killed.push_back(std::move(fd));
  }
  thaw();
  return WaitFds(killed, timeout_ms);
}

absl::Status RemoveCgroup(const std::string& root) {
  if (rmdir(root.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  int64_t end = NowMs() + kDyingMs;
  for (;;) {
    int error = 0;
    for (const std::string& dir : TreeOf(root)) {
      if (rmdir(dir.c_str()) != 0 && errno != ENOENT) {
        error = errno;
        if (error != EBUSY) return ErrnoStatus(error, Cat("remove cgroup `", dir, "`"));
        break;
      }
    }
    if (error == 0 && !Exists(root)) return absl::OkStatus();
    std::vector<pid_t> pids = PidsOf({root});
    std::vector<Fd> fds;
    for (pid_t pid : pids) {
      if (Fd fd(PidfdOpen(pid)); fd.valid()) fds.push_back(std::move(fd));
    }
    if (!WaitFds(fds, std::max<int64_t>(end - NowMs(), 0)) || NowMs() >= end) {
      return absl::FailedPreconditionError(Cat("remove cgroup `", root,
                                               "`: ", pids.empty() ? "is busy" : "has processes, as ",
                                               pids.empty() ? "" : Cat(pids.front())));
    }
    if (fds.empty()) sched_yield();  // no file tells when the kernel has let the last task go
  }
}

absl::Status MakeCgroup(const std::string& root, const std::string& path, std::vector<std::string>* made) {
  std::string dir = Cat(root, "/", path);
  for (;;) {
    // Mostly only the last component is missing.
    if (mkdir(dir.c_str(), 0755) == 0) {
      made->push_back(dir);
      return absl::OkStatus();
    }
    if (errno == EEXIST) return absl::OkStatus();
    if (errno != ENOENT) return ErrnoStatus(errno, Cat("create cgroup `", dir, "`"));
    size_t slash = path.rfind('/');
    if (slash == path.npos)
      return absl::FailedPreconditionError(Cat("create cgroup `", dir, "`: no `", root, "`"));
    RETURN_IF_ERROR(MakeCgroup(root, path.substr(0, slash), made));
  }
}

}  // namespace sock::runtime::cgroup
