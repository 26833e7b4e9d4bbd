#include "runtime/monitor/server.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

#include "runtime/base/path.h"
#include "runtime/base/pidref.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/container/container.h"
#include "runtime/monitor/client.h"
#include "runtime/monitor/logger.h"
#include "runtime/monitor/namespaces.h"

namespace sock::runtime::monitor {
namespace {

// In a child: every descriptor but these is closed, those of other containers' above all.
void CloseAllBut(std::vector<int> keep) {
  keep.insert(keep.end(), {0, 1, 2});
  std::sort(keep.begin(), keep.end());
  unsigned from = 0;
  for (int fd : keep) {
    if (fd < 0) continue;
    if (static_cast<unsigned>(fd) > from) close_range(from, static_cast<unsigned>(fd) - 1, 0);
    from = static_cast<unsigned>(fd) + 1;
  }
  close_range(from, ~0U, 0);
}

void ResetSignals() {
  for (int signal = 1; signal < 65; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
}

absl::Status FromReport(const Report& report) {
  int err = report.errno_value();
  absl::Status status(absl::StatusCode::kInternal, Cat(report.step(), ": ", report.text()));
  if (err == 0) return status;
  absl::Status of_errno = ErrnoStatus(err, "");
  absl::StatusCode code = err == ENOENT || err == ENOTDIR ? absl::StatusCode::kNotFound
                          : err == EACCES || err == ENOEXEC || err == EINVAL
                              ? absl::StatusCode::kInvalidArgument
                              : of_errno.code();
  absl::Status result(code, status.message());
  of_errno.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { result.SetPayload(url, payload); });
  return result;
}

void SendPidfdSignal(int pidfd, int signal) { syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0); }

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Open(Fd listener) {
  std::unique_ptr<Server> server(new Server(std::move(listener)));
  RETURN_IF_ERROR(server->Start());
  return server;
}

absl::Status Server::Start() {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0) return ErrnoStatus(errno, "become a subreaper");
  for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGQUIT}) ::signal(signal, SIG_IGN);
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, nullptr);
  signals_ = Fd(signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK));
  epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
  if (!signals_.valid() || !epoll_.valid()) return ErrnoStatus(errno, "make signalfd and epoll");
  ASSIGN_OR_RETURN(pid_ns_, OpenPath("/proc/self/ns/pid", O_RDONLY));
  ASSIGN_OR_RETURN(null_, OpenPath("/dev/null", O_RDWR));
  RETURN_IF_ERROR(StartLogger());
  Watch(listener_.get(), [this] { OnListener(); });
  Watch(signals_.get(), [this] {
    signalfd_siginfo info;
    while (read(signals_.get(), &info, sizeof info) > 0) {
    }
    Reap();
  });
  return absl::OkStatus();
}

void Server::Run() {
  while (true) {
    pollfd waiting{listener_.get(), POLLIN, 0};
    if (had_daemon_ && !connection_.valid() && processes_.empty() && poll(&waiting, 1, 0) == 0) break;
    epoll_event events[32];
    int n = epoll_wait(epoll_.get(), events, 32, -1);
    for (int i = 0; i < n; ++i) {
      auto it = handlers_.find(events[i].data.fd);
      if (it == handlers_.end()) continue;
      auto handler = it->second;  // may forget itself
      handler();
    }
  }
  // The log writer ends by itself, once all is written.
}

void Server::Watch(int fd, std::function<void()> handler) {
  handlers_[fd] = std::move(handler);
  epoll_event event{EPOLLIN, {}};
  event.data.fd = fd;
  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
}

void Server::Forget(int fd) {
  if (handlers_.erase(fd) > 0) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void Server::OnListener() {
  Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return;
  if (connection_.valid()) Disconnect();  // a daemon that comes anew takes over
  connection_ = std::move(fd);
  had_daemon_ = true;
  Watch(connection_.get(), [this] { OnConnection(); });
}

void Server::Disconnect() {
  Forget(connection_.get());
  connection_.Reset();
  outgoing_.clear();
  writing_ = false;
  std::vector<std::string> execs;
  for (auto& [id, process] : processes_) {
    process->serial = 0;
    if (process->is_exec) execs.push_back(id);
  }
  for (const std::string& id : execs) RemoveProcess(id);
}

void Server::OnConnection() {
  int current = connection_.get();
  Flush();
  while (connection_.valid() && connection_.get() == current) {
    absl::StatusOr<Message> message = RecvMessage(current);
    if (ErrnoOf(message.status()) == EAGAIN) return;
    Request request;
    if (!message.ok() || !request.ParseFromString(message->data)) return Disconnect();
    Handle(request, std::move(message->fds));
  }
}

void Server::Send(const FromMonitor& message, std::vector<Fd> fds) {
  if (!connection_.valid()) return;
  outgoing_.push_back({message.SerializeAsString(), std::move(fds)});
  Flush();
}

void Server::Flush() {
  while (connection_.valid() && !outgoing_.empty()) {
    std::vector<int> numbers;
    for (const Fd& fd : outgoing_.front().fds) numbers.push_back(fd.get());
    absl::Status sent = SendMessage(connection_.get(), outgoing_.front().data, numbers);
    if (ErrnoOf(sent) == EAGAIN) break;
    if (!sent.ok()) {  // end of file follows, and with it Disconnect
      shutdown(connection_.get(), SHUT_RDWR);
      outgoing_.clear();
      return;
    }
    outgoing_.pop_front();
  }
  if (connection_.valid() && writing_ == outgoing_.empty()) {
    writing_ = !outgoing_.empty();
    epoll_event event{EPOLLIN | (writing_ ? EPOLLOUT : 0u), {}};
    event.data.fd = connection_.get();
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, connection_.get(), &event);
  }
}

void Server::Answer(uint64_t serial, const absl::Status& status, Reply reply, std::vector<Fd> fds) {
  if (serial == 0) return;
  FromMonitor from;
  reply.set_serial(serial);
  reply.set_code(static_cast<int>(status.code()));
  if (!status.ok()) {
    reply.set_message(std::string(status.message()));
    reply.set_errno_value(ErrnoOf(status));
  }
  *from.mutable_reply() = std::move(reply);
  Send(from, std::move(fds));
}

void Server::Handle(const Request& request, std::vector<Fd> fds) {
  uint64_t serial = request.serial();
  absl::Status status;
  switch (request.operation_case()) {
    case Request::kCreateNamespaces:
      status = Namespaces(request.create_namespaces(), serial);
      if (status.ok()) return;  // answered later
      break;
    case Request::kCreate:
      status = MakeProcess(request.create(), false, serial, std::move(fds));
      if (status.ok()) return;
      break;
    case Request::kExec: {
      Create create;
      create.set_id(request.exec().id());
      create.set_plan(request.exec().plan());
      status = MakeProcess(create, true, serial, std::move(fds));
      if (status.ok()) return;
      break;
    }
    case Request::kStart:
      status = StartProcess(request.start().id(), serial);
      if (status.ok()) return;
      break;
    case Request::kSignal:
      if (auto it = processes_.find(request.signal().id()); it == processes_.end()) {
        status = absl::NotFoundError(Cat("no process `", request.signal().id(), "`"));
      } else if (!it->second->ended) {
        if (request.signal().group()) kill(-it->second->pid, request.signal().signal());
        SendPidfdSignal(it->second->pidfd.get(), request.signal().signal());
      }
      break;
    case Request::kReopenLog:
      if (auto it = processes_.find(request.reopen_log().id()); it == processes_.end()) {
        status = absl::NotFoundError(Cat("no process `", request.reopen_log().id(), "`"));
      } else if (fds.size() != 1) {
        status = absl::InvalidArgumentError("a log to reopen comes with one descriptor");
      } else {
        LogCommand command;
        command.set_id(it->first);
        command.set_kind(LogCommand::REOPEN);
        int fd = fds[0].get();
        status = SendMessage(logger_.get(), command.SerializeAsString(), {&fd, 1});
        it->second->log = std::move(fds[0]);
      }
      break;
    case Request::kRemove:
      RemoveProcess(request.remove().id());
      break;
    case Request::kAcknowledge:
      if (auto it = processes_.find(request.acknowledge().id()); it != processes_.end())
        it->second->acknowledged = true;
      break;
    case Request::kList:
      return Answer(serial, absl::OkStatus(), ListProcesses());
    case Request::kHello: {
      Reply reply;
      reply.set_version(kVersion);
      reply.set_pid(getpid());
      return Answer(serial, absl::OkStatus(), std::move(reply));
    }
    default:
      status = absl::UnimplementedError("the monitor doesn't know this operation");
  }
  Answer(serial, status);
}

absl::StatusOr<pid_t> Server::Clone(uint64_t flags, int cgroup, Fd* pidfd) {
  int fd = -1;
  clone_args args{};
  args.flags = flags | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&fd);
  args.exit_signal = SIGCHLD;
  if (cgroup >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(cgroup);
  }
  long pid = syscall(SYS_clone3, &args, sizeof args);
  if (pid < 0) return ErrnoStatus(errno, "clone a process");
  if (pid > 0 && pidfd != nullptr) pidfd->Reset(fd);
  return static_cast<pid_t>(pid);
}

absl::Status Server::Namespaces(const CreateNamespaces& request, uint64_t serial) {
  if (request.pid() && processes_.contains(request.id()))
    return absl::AlreadyExistsError(Cat("process `", request.id(), "` exists"));
  ASSIGN_OR_RETURN(ChannelPair channel, MakeChannel());
  Fd pidfd;
  ASSIGN_OR_RETURN(pid_t pid, Clone(request.pid() ? CLONE_NEWPID : 0, -1, &pidfd));
  if (pid == 0) {
    ResetSignals();
    CloseAllBut({channel.b.get()});
    MakeNamespaces(request, serial, channel.b.get());
  }
  int fd = channel.a.get();
  fcntl(fd, F_SETFL, O_NONBLOCK);
  auto socket = std::make_shared<Fd>(std::move(channel.a));
  auto kept = std::make_shared<Fd>(std::move(pidfd));
  Watch(fd, [this, socket, kept, pid, serial, id = request.pid() ? request.id() : std::string()] {
    absl::StatusOr<Message> message = RecvMessage(socket->get());
    if (ErrnoOf(message.status()) == EAGAIN) return;
    Forget(socket->get());
    FromMonitor from;
    if (!message.ok() || !from.ParseFromString(message->data))
      return Answer(serial, absl::InternalError("make namespaces: the child ended without a word"));
    if (!id.empty() && from.reply().code() == 0) {
      auto process = std::make_unique<Process>();
      process->id = id;
      process->pid = pid;
      process->pidfd = std::move(*kept);
      process->is_init = process->started = true;
      by_pid_[pid] = id;
      processes_[id] = std::move(process);
      from.mutable_reply()->set_pid(pid);
    }
    Send(from, std::move(message->fds));
  });
  return absl::OkStatus();
}

absl::StatusOr<Server::Stdio> Server::MakeStdio(bool terminal, bool input) {
  Stdio stdio;
  for (Fd& fd : stdio.child) {
    ASSIGN_OR_RETURN(fd, null_.Dup());
  }
  if (terminal) return stdio;
  if (input) {
    ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
    stdio.child[0] = std::move(pipe.read);
    stdio.input = std::move(pipe.write);
  }
  ASSIGN_OR_RETURN(Pipe out, MakePipe());
  ASSIGN_OR_RETURN(Pipe err, MakePipe());
  stdio.child[1] = std::move(out.write);
  stdio.child[2] = std::move(err.write);
  stdio.out = std::move(out.read);
  stdio.err = std::move(err.read);
  return stdio;
}

absl::Status Server::MakeProcess(const Create& request, bool is_exec, uint64_t serial, std::vector<Fd> fds) {
  if (processes_.contains(request.id()))
    return absl::AlreadyExistsError(Cat("process `", request.id(), "` exists"));
  Plan plan;
  if (!plan.ParseFromString(request.plan())) return absl::InvalidArgumentError("the plan can't be read");
  auto process = std::make_unique<Process>();
  if (request.has_log()) {
    if (fds.empty()) return absl::InvalidArgumentError("the log's descriptor is missing");
    process->log = std::move(fds.back());
    fds.pop_back();
  }
  int count = static_cast<int>(fds.size());
  if ((plan.has_join_pid_ns_fd() && plan.join_pid_ns_fd() >= count) ||
      (plan.has_cgroup_unified() && plan.cgroup_unified() >= count))
    return absl::InvalidArgumentError("the plan means a descriptor that did not come");
  ASSIGN_OR_RETURN(Stdio stdio, MakeStdio(plan.terminal(), request.stdin_open()));
  ASSIGN_OR_RETURN(ChannelPair barrier, MakeChannel());

  // setns(2) moves only children to come; back again needs no more than the way there.
  if (plan.has_join_pid_ns_fd() && setns(fds[plan.join_pid_ns_fd()].get(), CLONE_NEWPID) < 0)
    return ErrnoStatus(errno, "join the PID namespace");
  absl::StatusOr<pid_t> pid = Clone(
      plan.clone_flags(), plan.has_cgroup_unified() ? fds[plan.cgroup_unified()].get() : -1, &process->pidfd);
  if (pid.ok() && *pid == 0) {
    ResetSignals();
    std::vector<int> keep{barrier.b.get()};
    for (const Fd& fd : fds) keep.push_back(fd.get());
    int numbers[3];
    for (int i = 0; i < 3; ++i) keep.push_back(numbers[i] = stdio.child[i].get());
    CloseAllBut(keep);
    CarryOut(plan, std::move(fds), numbers, barrier.b.get());
  }
  if (plan.has_join_pid_ns_fd() && setns(pid_ns_.get(), CLONE_NEWPID) < 0)
    return ErrnoStatus(errno, "return to the own PID namespace");
  if (!pid.ok()) return pid.status();
  process->id = request.id();
  process->sandbox_id = request.sandbox_id();
  process->pid = *pid;
  process->is_exec = is_exec;
  process->terminal = plan.terminal();
  process->serial = serial;
  process->out = std::move(stdio.out);
  process->err = std::move(stdio.err);
  process->input = std::move(stdio.input);
  process->barrier = std::move(barrier.a);
  if (!is_exec) process->plan = request.plan();
  fcntl(process->barrier.get(), F_SETFL, O_NONBLOCK);
  Watch(process->barrier.get(), [this, id = request.id()] { OnBarrier(id); });
  by_pid_[*pid] = request.id();
  processes_[request.id()] = std::move(process);
  return absl::OkStatus();
}

absl::Status Server::StartProcess(const std::string& id, uint64_t serial) {
  auto it = processes_.find(id);
  if (it == processes_.end()) return absl::NotFoundError(Cat("no process `", id, "`"));
  Process& process = *it->second;
  if (process.ended || process.started || !process.at_barrier)
    return absl::FailedPreconditionError(Cat("process `", id, "` is not waiting to be started"));
  RETURN_IF_ERROR_AS(SendMessage(process.barrier.get(), "go"), "start");
  process.started = true;
  process.serial = serial;
  return absl::OkStatus();
}

void Server::OnBarrier(const std::string& id) {
  auto it = processes_.find(id);
  if (it == processes_.end()) return;
  Process& process = *it->second;
  absl::StatusOr<Message> message = RecvMessage(process.barrier.get());
  if (ErrnoOf(message.status()) == EAGAIN) return;
  uint64_t serial = std::exchange(process.serial, 0);
  Report report;
  bool reported = message.ok() && report.ParseFromString(message->data);
  if (reported && report.ready() && !process.at_barrier) {
    process.at_barrier = true;
    if (process.terminal && !message->fds.empty()) process.out = std::move(message->fds[0]);
    if (process.is_exec) {
      if (absl::Status status = StartProcess(id, serial); !status.ok()) {
        Answer(serial, status);
        RemoveProcess(id);
      }
      return;
    }
    AddToLogger(process);
    Reply reply;
    reply.set_pid(process.pid);
    return Answer(serial, absl::OkStatus(), std::move(reply));
  }
  if (!reported && process.started) {  // end of file: the program runs
    Forget(process.barrier.get());
    process.barrier.Reset();
    Reply reply;
    reply.set_pid(process.pid);
    std::vector<Fd> fds;
    if (process.is_exec) {
      fds.push_back(std::move(process.out));
      if (process.err.valid()) fds.push_back(std::move(process.err));
    }
    Answer(serial, absl::OkStatus(), std::move(reply), std::move(fds));
    if (process.is_exec && process.ended) {
      FromMonitor from;
      *from.mutable_exit() = process.exit;
      Send(from, {});
      RemoveProcess(id);
    }
    return;
  }
  absl::Status status =
      reported ? FromReport(report) : absl::InternalError("the child ended before it was ready");
  Forget(process.barrier.get());
  process.barrier.Reset();
  Answer(serial, status);
  // What was once ready leaves an exit; what was never made leaves nothing.
  if (process.is_exec || !process.at_barrier) RemoveProcess(id);
}

void Server::RemoveProcess(const std::string& id) {
  auto it = processes_.find(id);
  if (it == processes_.end()) return;
  Process& process = *it->second;
  if (!process.ended) {
    if (process.is_exec) kill(-process.pid, SIGKILL);
    SendPidfdSignal(process.pidfd.get(), SIGKILL);
    by_pid_.erase(process.pid);
  }
  if (process.barrier.valid()) Forget(process.barrier.get());
  Answer(process.serial, absl::UnavailableError(Cat("process `", id, "` was removed")));
  if (!process.is_exec && !process.is_init) {
    LogCommand command;
    command.set_id(id);
    command.set_kind(LogCommand::REMOVE);
    SendMessage(logger_.get(), command.SerializeAsString()).IgnoreError();
  }
  processes_.erase(it);
}

Reply Server::ListProcesses() {
  Reply reply;
  for (const auto& [id, process] : processes_) {
    if (process->is_exec) continue;
    Entry& entry = *reply.add_entries();
    entry.set_id(id);
    entry.set_sandbox_id(process->sandbox_id);
    entry.set_pid(process->pid);
    // Not reaped yet, so that the number is still its own.
    if (!process->ended) entry.set_start_time(StartTime(process->pid).value_or(0));
    entry.set_started(process->started);
    if (process->ended) *entry.mutable_exit() = process->exit;
    entry.set_acknowledged(process->acknowledged);
    entry.set_plan(process->plan);
    entry.set_init(process->is_init);
  }
  return reply;
}

void Server::Reap() {
  while (true) {
    siginfo_t info{};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) < 0 || info.si_pid == 0) return;
    if (info.si_pid == logger_pid_) {
      logger_.Reset();
      if (StartLogger().ok())
        for (const auto& [id, process] : processes_) AddToLogger(*process);
      continue;
    }
    auto pid = by_pid_.find(info.si_pid);
    if (pid == by_pid_.end()) continue;
    auto it = processes_.find(pid->second);
    by_pid_.erase(pid);
    if (it == processes_.end()) continue;
    Process& process = *it->second;
    // What it said before it ended comes first.
    if (process.barrier.valid()) {
      std::string id = process.id;
      process.ended = true;
      timespec now;
      clock_gettime(CLOCK_REALTIME, &now);
      process.exit.set_id(id);
      process.exit.set_code(info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status);
      process.exit.set_finished_at_ns(now.tv_sec * 1000000000LL + now.tv_nsec);
      for (int i = 0; i < 3; ++i) {
        it = processes_.find(id);
        if (it == processes_.end() || !it->second->barrier.valid()) break;
        OnBarrier(id);
      }
      it = processes_.find(id);
      if (it == processes_.end() || it->second->is_exec) continue;
    } else {
      timespec now;
      clock_gettime(CLOCK_REALTIME, &now);
      process.ended = true;
      process.exit.set_id(process.id);
      process.exit.set_code(info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status);
      process.exit.set_finished_at_ns(now.tv_sec * 1000000000LL + now.tv_nsec);
    }
    FromMonitor from;
    *from.mutable_exit() = it->second->exit;
    Send(from, {});
    if (it->second->is_exec) RemoveProcess(it->first);
  }
}

absl::Status Server::StartLogger() {
  ASSIGN_OR_RETURN(ChannelPair channel, MakeChannel());
  ASSIGN_OR_RETURN(logger_pid_, Clone(0, -1, nullptr));
  if (logger_pid_ == 0) {
    CloseAllBut({channel.b.get()});
    RunLogger(channel.b.get());
  }
  logger_ = std::move(channel.a);
  return absl::OkStatus();
}

void Server::AddToLogger(const Process& process) {
  if (process.is_exec || process.is_init || !process.out.valid()) return;
  LogCommand command;
  command.set_id(process.id);
  command.set_has_stderr(process.err.valid());
  command.set_has_log(process.log.valid());
  std::vector<int> fds{process.out.get()};
  if (process.err.valid()) fds.push_back(process.err.get());
  if (process.log.valid()) fds.push_back(process.log.get());
  SendMessage(logger_.get(), command.SerializeAsString(), fds).IgnoreError();
}

}  // namespace sock::runtime::monitor
