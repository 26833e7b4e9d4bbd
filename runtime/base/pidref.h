// A process is more than a number: pid, pidfd and start time in one value, so that a reused pid is never
// mistaken.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "runtime/base/fd.h"

namespace sock {

struct PidRef {
  pid_t pid = 0;
  Fd pidfd;
  uint64_t start_time = 0;  // clock ticks since boot, field 22 of /proc/PID/stat (proc(5))

  bool valid() const { return pidfd.valid(); }
};

// Opens `pid` (pidfd_open(2)) and reads its start time. NOT_FOUND where there is no such process.
absl::StatusOr<PidRef> OpenPid(pid_t pid);

// As OpenPid, but NOT_FOUND unless the process started at `start_time`.
absl::StatusOr<PidRef> OpenPid(pid_t pid, uint64_t start_time);

// Start time of `pid`, from /proc. NOT_FOUND where there is no such process.
absl::StatusOr<uint64_t> StartTime(pid_t pid);

// Parent of `pid` (field 4 of /proc/PID/stat); 0 where there is no such process.
pid_t ParentOf(pid_t pid);

// Sends `signal` through the pidfd (pidfd_send_signal(2)). A process that is gone is OK: gone is success.
absl::Status SendSignal(const PidRef& process, int signal);

// SIGKILLs all that descends from `ancestor`, not it itself, which should be stopped and a subreaper
// (prctl(2)): else what it forks meanwhile, or an orphan's orphan, is missed. What forks without end is given
// up.
void KillDescendants(const PidRef& ancestor);

// Lets a child go on that waitid(2) tells of as CLD_TRAPPED: it asked its parent to trace it (PTRACE_TRACEME
// of ptrace(2)), and has been stopped by a signal, which it gets now.
void LetTraced(const siginfo_t& stopped);

// True once the process has exited (the pidfd polls readable).
bool HasExited(const PidRef& process);

// The wait status (as wait(2) gives it) of an exited process that is another's child: from /proc/PID/stat
// until it is reaped, after that through PIDFD_GET_INFO (Linux 6.15). Empty where it runs still or the kernel
// can't tell.
std::optional<int> ExitStatus(pid_t pid, int pidfd);

}  // namespace sock
