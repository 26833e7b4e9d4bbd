// cri-sock-monitor: parent of every container, exec and sandbox init. One thread, one epoll; it knows nothing
// of images, cgroup limits or networks. What it knows and holds, its keeper (keeper.h) knows and holds too.
#pragma once

#include <sys/types.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/base/channel.h"
#include "runtime/base/fd.h"
#include "runtime/container/plan.pb.h"
#include "runtime/monitor/client.h"
#include "runtime/monitor/keeper.h"
#include "runtime/monitor/protocol.pb.h"

namespace sock::runtime::monitor {

class Server {
 public:
  // `listener`: a socket of ListenChannel. `keeper`: the keeper's channel, over which comes first what an
  // earlier monitor left. `program`: the path of this program. Becomes a subreaper, starts the log writer.
  static absl::StatusOr<std::unique_ptr<Server>> Open(std::string program, Fd listener, Fd keeper);
  // Serves until the daemon is gone and nothing is left to look after.
  void Run();

 private:
  struct Process {
    std::string id, sandbox_id, plan;
    pid_t pid = 0;
    Fd pidfd, barrier;
    bool is_exec = false, is_init = false, terminal = false;
    bool adopted = false;  // an earlier monitor's child: its exit is told by the keeper or the kernel
    bool at_barrier = false, started = false, acknowledged = false;
    uint64_t serial = 0;  // of the request that waits: create, start or exec
    bool ended = false;
    Exit exit;
    Fd out, err, log, input;  // kept, so that a new log writer and daemon can have them
  };
  static Kept Describe(const Process& process);
  static std::vector<std::pair<Kept::Descriptor, Fd*>> Descriptors(Process& process);
  struct Outgoing {
    std::string data;
    std::vector<Fd> fds;
  };
  struct Stdio {
    Fd child[3], out, err, input;
  };

  Server(std::string program, Fd listener, Fd keeper)
      : program_(std::move(program)), listener_(std::move(listener)), keeper_(std::move(keeper)) {}
  absl::Status Start();
  absl::StatusOr<Holdings> ReceiveHoldings();
  void Adopt(Holdings holdings);
  void WatchAdopted(const Process& process);
  void OnKeeper();
  void Keep(Process& process);
  void KeepChange(const Kept& change);
  void ForgetKept(const std::string& id);
  void NoteExit(Process& process, int code, int64_t finished_at_ns);
  void TellExit(const std::string& id);
  [[noreturn]] void ReplaceKeeper();
  void Watch(int fd, std::function<void()> handler);
  void Forget(int fd);
  void OnListener();
  void OnConnection();
  void Disconnect();
  void Send(const FromMonitor& message, std::vector<Fd> fds);
  void Flush();
  void Answer(uint64_t serial, const absl::Status& status, Reply reply = {}, std::vector<Fd> fds = {});
  void Handle(const Request& request, std::vector<Fd> fds);
  absl::Status Namespaces(const CreateNamespaces& request, uint64_t serial);
  absl::Status MakeProcess(const Create& request, bool is_exec, uint64_t serial, std::vector<Fd> fds);
  absl::Status StartProcess(const std::string& id, uint64_t serial);
  absl::StatusOr<Stdio> MakeStdio(bool terminal, bool input);
  void OnBarrier(const std::string& id);
  void RemoveProcess(const std::string& id);
  Reply ListProcesses();
  void Reap();
  absl::Status StartLogger();
  void AddToLogger(const Process& process);
  // fork or clone3 of a child that keeps only `keep` open. 0 in the child.
  absl::StatusOr<pid_t> Clone(uint64_t flags, int cgroup, Fd* pidfd);

  const std::string program_, identity_ = ProgramIdentity("/proc/self/exe");
  Fd listener_, keeper_, epoll_, signals_, connection_, logger_, logger_pidfd_, pid_ns_, null_;
  pid_t logger_pid_ = 0;
  bool had_daemon_ = false, writing_ = false, logger_failed_ = false;
  std::unordered_map<int, std::function<void()>> handlers_;
  std::deque<Outgoing> outgoing_;
  std::map<std::string, std::unique_ptr<Process>> processes_;
  std::unordered_map<pid_t, std::string> by_pid_;
};

}  // namespace sock::runtime::monitor
