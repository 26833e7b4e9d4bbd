// cri-sock-monitor: parent of every container, exec and sandbox init. One thread, one epoll; it knows nothing
// of images, cgroup limits or networks. What it knows and holds, its keeper (keeper.h) knows and holds too.
#pragma once

#include <sys/types.h>

#include <csignal>
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
#include "runtime/monitor/forking.h"
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
    uint64_t serial = 0;         // of the request that waits: create, start or exec
    uint64_t reopen_serial = 0;  // likewise
    bool ended = false;
    Exit exit;
    Fd out, err, log, input;  // kept, so that a new log writer and daemon can have them
    Fd queue;                 // the log's (log_queue.h)
    Fd next_log, wanted_log;  // what the log writer was told to reopen, and what comes after that
    bool forked = false;      // from a Zygote
    int filters = 0;          // seccomp filters of a Zygote
    std::unique_ptr<ZygoteControl> control;  // a Zygote
    std::unique_ptr<Forking> forking;        // on its way from a Zygote to the barrier
    // Known by no successor of this monitor as more than what it has to end.
    bool EndsWithMonitor() const { return control != nullptr || forking != nullptr; }
  };
  static constexpr char kBuilderSuffix[] = "/builder";
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
  // The rest of a child's life: with nothing open but what is given.
  [[noreturn]] void EnterChild(const Plan& plan, std::vector<Fd> fds, int stdio[3], int barrier,
                               bool is_exec = false);
  // zygotes.cpp
  absl::Status CallZygote(const monitor::CallZygote& request, uint64_t serial);
  absl::Status CallZygote(Process& zygote, const Fields& rest, std::span<const int> fds,
                          std::function<void(absl::StatusOr<Fields>)> done);
  absl::StatusOr<Process*> FindZygote(const std::string& id);
  void OnZygote(const std::string& id);
  void LoseZygote(Process& zygote);
  absl::Status StartFork(const std::string& id, const std::string& sandbox_id, const std::string& zygote_id,
                         const std::vector<std::pair<const char*, int>>& namespaces, uint64_t serial);
  absl::Status ParkProcess(const monitor::Park& request, uint64_t serial, std::vector<Fd> fds);
  absl::Status ForkProcess(const Create& request, Plan plan, uint64_t serial, std::vector<Fd> fds, Fd log);
  void OnParked(const std::string& id);
  void FailFork(const std::string& id, const absl::Status& status);
  void Advance(const std::string& id);
  absl::Status Step(const std::string& id);
  absl::Status StartBuilder(Process& process);
  void OnBuilder(const std::string& id);
  absl::Status Become(Forking& forking);
  absl::Status Enter(Forking& forking);
  // Its filter can be read while it is stopped (ptrace(2)); what comes of that arrives at OnStopped.
  absl::Status Stop(const Process& process);
  void OnStopped(const siginfo_t& info);
  absl::Status FinishFork(Process& process);
  void DropForking(Process& process);
  absl::StatusOr<Stdio> MakeStdio(bool terminal, bool input);
  void OnBarrier(const std::string& id);
  void RemoveProcess(const std::string& id);
  Reply ListProcesses();
  void Reap();
  absl::Status StartLogger();
  void TellLogger(LogCommand::Kind kind, const std::string& id = "");
  void AddToLogger(const Process& process);
  void ReopenLog(Process& process, Fd log, uint64_t serial);
  void SwitchLog(Process& process);
  void OnLogger();
  // fork or clone3 of a child that keeps only `keep` open. 0 in the child.
  // `number`: its pid in the PID namespace that children are in, where that is free (clone3(2), set_tid):
  // those of others are as if it had not been there.
  absl::StatusOr<pid_t> Clone(uint64_t flags, int cgroup, Fd* pidfd, pid_t number = 0);

  const std::string program_, identity_ = ProgramIdentity("/proc/self/exe");
  Fd listener_, keeper_, epoll_, signals_, connection_, logger_, pid_ns_, null_;
  Pipe desk_;  // the log writer's (log_queue.h)
  pid_t logger_pid_ = 0;
  uint64_t connections_ = 0;  // so far
  bool had_daemon_ = false, writing_ = false, logger_failed_ = false;
  struct Handler {
    uint32_t watch;  // which of all
    std::function<void()> run;
  };
  std::unordered_map<int, Handler> handlers_;  // by descriptor
  uint32_t watches_ = 0;
  std::deque<Outgoing> outgoing_;
  std::map<std::string, std::unique_ptr<Process>> processes_;
  std::unordered_map<pid_t, std::string> by_pid_;
};

// The effective user alone, with all capabilities that are permitted (capabilities(7)).
absl::Status BecomeEffective(uid_t uid);
// A child's report of a step that failed.
absl::Status FromReport(const Report& report);

}  // namespace sock::runtime::monitor
