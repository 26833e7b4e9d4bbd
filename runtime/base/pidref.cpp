#include "runtime/base/pidref.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock {
namespace {

// linux/pidfd.h of 6.15; Debian 12's headers are older.
struct PidfdInfo {
  uint64_t mask;
  uint64_t cgroupid;
  uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
  int32_t exit_code;
};
constexpr uint64_t kPidfdInfoExit = 1ULL << 3;
constexpr unsigned long kPidfdGetInfo = _IOWR(0xFF, 11, PidfdInfo);

// Fields 3 and on of /proc/PID/stat (proc(5)), 50 of them.
absl::StatusOr<std::vector<std::string>> StatFields(pid_t pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  Fd fd(open(path, O_RDONLY | O_CLOEXEC));
  char text[1024];
  ssize_t n = fd.valid() ? read(fd.get(), text, sizeof text - 1) : -1;
  if (n <= 0) return absl::NotFoundError(Cat("no process ", pid));
  text[n] = 0;
  // The second field, the program's name, may hold anything; what follows its last parenthesis may not.
  const char* rest = strrchr(text, ')');
  std::vector<std::string> fields;
  if (rest != nullptr) fields = absl::StrSplit(absl::StripTrailingAsciiWhitespace(rest + 2), ' ');
  if (fields.size() < 50) return absl::InternalError(Cat("cannot parse `", path, "`"));
  return fields;
}

}  // namespace

absl::StatusOr<uint64_t> StartTime(pid_t pid) {
  ASSIGN_OR_RETURN(std::vector<std::string> fields, StatFields(pid));
  uint64_t ticks;
  if (!absl::SimpleAtoi(fields[19], &ticks))
    return absl::InternalError(Cat("cannot parse the start time of process ", pid));
  return ticks;
}

pid_t ParentOf(pid_t pid) {
  absl::StatusOr<std::vector<std::string>> fields = StatFields(pid);
  pid_t parent;
  return fields.ok() && absl::SimpleAtoi((*fields)[1], &parent) ? parent : 0;
}

absl::StatusOr<PidRef> OpenPid(pid_t pid) {
  Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.valid()) {
    if (errno == ESRCH || errno == EINVAL) return absl::NotFoundError(Cat("no process ", pid));
    return ErrnoStatus(errno, Cat("pidfd_open ", pid));
  }
  ASSIGN_OR_RETURN(uint64_t start, StartTime(pid));
  return PidRef{pid, std::move(pidfd), start};
}

void KillDescendants(const PidRef& ancestor) {
  constexpr int kRounds = 100;
  for (int round = 0; round < kRounds; ++round) {
    std::map<pid_t, pid_t> parents;
    std::error_code error;
    for (std::filesystem::directory_iterator it("/proc", error), end; !error && it != end;
         it.increment(error)) {
      pid_t pid;
      if (absl::SimpleAtoi(it->path().filename().string(), &pid)) parents[pid] = ParentOf(pid);
    }
    auto descends = [&](pid_t pid) {
      for (size_t steps = 0; steps < parents.size(); ++steps) {
        auto parent = parents.find(pid);
        if (parent == parents.end() || parent->second == 0) return false;
        if (parent->second == ancestor.pid) return true;
        pid = parent->second;
      }
      return false;
    };
    bool found = false;
    for (const auto& [pid, parent] : parents) {
      if (!descends(pid)) continue;
      absl::StatusOr<PidRef> process = OpenPid(pid);
      // Another that has the number meanwhile has another parent.
      if (!process.ok() || HasExited(*process) || ParentOf(pid) != parent) continue;
      found = true;
      SendSignal(*process, SIGKILL).IgnoreError();
    }
    if (!found || HasExited(ancestor)) return;
  }
}

absl::StatusOr<PidRef> OpenPid(pid_t pid, uint64_t start_time) {
  ASSIGN_OR_RETURN(PidRef process, OpenPid(pid));
  if (process.start_time != start_time)
    return absl::NotFoundError(Cat("process ", pid, " is another one than before"));
  return process;
}

absl::Status SendSignal(const PidRef& process, int signal) {
  if (syscall(SYS_pidfd_send_signal, process.pidfd.get(), signal, nullptr, 0) == 0 || errno == ESRCH)
    return absl::OkStatus();
  return ErrnoStatus(errno, Cat("send signal ", signal, " to process ", process.pid));
}

void LetTraced(const siginfo_t& stopped) {
  const int signal = stopped.si_status == SIGTRAP ? 0 : stopped.si_status & 0x7f;
  ptrace(PTRACE_DETACH, stopped.si_pid, nullptr, signal);
}

bool HasExited(const PidRef& process) {
  pollfd p{process.pidfd.get(), POLLIN, 0};
  return poll(&p, 1, 0) == 1;
}

std::optional<int> ExitStatus(pid_t pid, int pidfd) {
  // While a signal can be sent the process is not reaped, and its number is its own.
  auto unreaped = [&] { return syscall(SYS_pidfd_send_signal, pidfd, 0, nullptr, 0) == 0; };
  if (unreaped()) {
    absl::StatusOr<std::vector<std::string>> fields = StatFields(pid);
    int code;
    if (fields.ok() && (*fields)[0] == "Z" && absl::SimpleAtoi((*fields)[49], &code) && unreaped())
      return code;
  }
  PidfdInfo info{};
  info.mask = kPidfdInfoExit;
  if (ioctl(pidfd, kPidfdGetInfo, &info) < 0 || !(info.mask & kPidfdInfoExit)) return std::nullopt;
  return info.exit_code;
}

}  // namespace sock
