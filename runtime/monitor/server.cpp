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
#include "runtime/monitor/log_queue.h"
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

int64_t NowNs() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

constexpr char kLogWriter[] = "/log-writer";  // no id of a container

Kept DescribeLogWriter() {
  Kept kept;
  kept.set_id(kLogWriter);
  kept.set_log_writer(true);
  return kept;
}

void SendPidfdSignal(int pidfd, int signal) { syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0); }

}  // namespace

absl::Status BecomeEffective(uid_t uid) {
  if (syscall(SYS_setresuid, -1, uid, -1) < 0) return ErrnoStatus(errno, "change the effective user");
  return RaiseCapabilities();
}

absl::Status FromReport(const Report& report) {
  int err = report.errno_value();
  absl::Status status(absl::StatusCode::kInternal, Cat(report.step(), ": ", report.text()));
  if (err == 0) return status;
  absl::Status of_errno = ErrnoStatus(err, "");
  absl::StatusCode code = err == ENOENT  ? absl::StatusCode::kNotFound
                          : err == ESRCH ? absl::StatusCode::kFailedPrecondition  // the container has ended
                          : err == EACCES || err == ENOEXEC || err == EINVAL || err == ENOTDIR
                              ? absl::StatusCode::kInvalidArgument
                              : of_errno.code();
  absl::Status result(code, status.message());
  of_errno.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { result.SetPayload(url, payload); });
  return result;
}

absl::StatusOr<std::unique_ptr<Server>> Server::Open(std::string program, Fd listener, Fd keeper) {
  std::unique_ptr<Server> server(new Server(std::move(program), std::move(listener), std::move(keeper)));
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
  ASSIGN_OR_RETURN(Holdings holdings, ReceiveHoldings());
  Adopt(std::move(holdings));
  RETURN_IF_ERROR(StartLogger());
  Watch(keeper_.get(), [this] { OnKeeper(); });
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
      auto it = handlers_.find(static_cast<int>(events[i].data.u64 & UINT32_MAX));
      // An earlier one of these events may have had it closed, and the number is another's now.
      if (it == handlers_.end() || it->second.watch != events[i].data.u64 >> 32) continue;
      auto run = it->second.run;  // may forget itself
      run();
    }
  }
  TellLogger(LogCommand::FINISH);  // it ends by itself, once all is written
}

absl::StatusOr<Holdings> Server::ReceiveHoldings() {
  Holdings holdings;
  while (true) {
    ASSIGN_OR_RETURN_AS(Message message, RecvMessage(keeper_.get()), "take over from the keeper");
    KeeperMessage said;
    if (!said.ParseFromString(message.data)) return absl::DataLossError("the keeper's word can't be read");
    if (said.has_complete()) return holdings;
    if (said.has_keep())
      RETURN_IF_ERROR(TakeKept(std::move(*said.mutable_keep()), std::move(message.fds), holdings));
  }
}

void Server::Adopt(Holdings holdings) {
  had_daemon_ = !holdings.empty();
  for (auto& [id, held] : holdings) {
    const Kept& kept = held.kept;
    if (kept.log_writer()) {
      desk_ = {std::move(held.fds[Kept::DESK_READ]), std::move(held.fds[Kept::DESK_WRITE])};
      if (desk_.read.valid()) continue;
      // One of a program that had no desk stops reading once its monitor is gone. A log that can't be written
      // holds it up: then order is lost, not a line.
      pollfd ended{held.fds[Kept::PIDFD].get(), POLLIN, 0};
      poll(&ended, 1, 1000);
      ForgetKept(id);
      continue;
    }
    if (kept.zygote()) {  // nobody holds its other end any more
      if (!kept.has_exit()) SendPidfdSignal(held.fds[Kept::PIDFD].get(), SIGKILL);
      ForgetKept(id);
      continue;
    }
    auto process = std::make_unique<Process>();
    process->id = id;
    process->forked = kept.forked();
    process->sandbox_id = kept.sandbox_id();
    process->plan = kept.plan();
    process->pid = kept.pid();
    process->adopted = process->at_barrier = true;
    process->is_exec = kept.exec();
    process->is_init = kept.init();
    process->terminal = kept.terminal();
    process->started = kept.started();
    process->acknowledged = kept.acknowledged();
    process->pidfd = std::move(held.fds[Kept::PIDFD]);
    process->barrier = std::move(held.fds[Kept::BARRIER]);
    process->out = std::move(held.fds[Kept::OUT]);
    process->err = std::move(held.fds[Kept::ERR]);
    process->log = std::move(held.fds[Kept::LOG]);
    process->input = std::move(held.fds[Kept::INPUT]);
    process->queue = std::move(held.fds[Kept::QUEUE]);
    process->next_log = std::move(held.fds[Kept::NEXT_LOG]);
    if (process->out.valid() && !LogQueue::Understands(process->queue.get())) {
      // Another program's, which has written what lay in it (LogCommand.HAND_OVER).
      if (absl::StatusOr<Fd> queue = LogQueue::MakeMemory(); queue.ok()) process->queue = *std::move(queue);
      Keep(*process);
    }
    if (kept.has_exit()) {
      process->ended = true;
      process->exit = kept.exit();
    }
    if (process->ended)
      process->barrier.Reset();
    else if (process->barrier.valid() && !process->forked)
      Watch(process->barrier.get(), [this, id = id] { OnBarrier(id); });
    Process& adopted = *(processes_[id] = std::move(process));
    if (adopted.is_exec)
      RemoveProcess(id);  // whom it answered to heard that the monitor is gone
    else if (!adopted.ended)
      WatchAdopted(adopted);
  }
}

// The keeper tells the exits of its own children. Of others (theirs died with an earlier keeper) the kernel
// may tell, else it can't be known.
void Server::WatchAdopted(const Process& process) {
  if (ParentOf(process.pid) == getppid()) return;
  Watch(process.pidfd.get(), [this, id = process.id] {
    auto it = processes_.find(id);
    if (it == processes_.end()) return;
    Process& process = *it->second;
    Forget(process.pidfd.get());
    if (process.ended) return;
    std::optional<int> status = ExitStatus(process.pid, process.pidfd.get());
    if (!status) process.exit.set_unknown("its monitor and keeper had died, and the kernel does not tell");
    NoteExit(process,
             !status                ? 255
             : WIFSIGNALED(*status) ? 128 + WTERMSIG(*status)
                                    : WEXITSTATUS(*status),
             NowNs());
    TellExit(process.id);
  });
}

void Server::OnKeeper() {
  absl::StatusOr<Message> message = RecvMessage(keeper_.get());
  KeeperMessage said;
  if (!message.ok() || !said.ParseFromString(message->data)) ReplaceKeeper();
  auto it = processes_.find(said.keep().id());
  if (it == processes_.end() || it->second->ended || !said.keep().has_exit()) return;
  // Under one id there may be another by now, where an earlier monitor's was given up. An older keeper tells
  // no pid.
  if (said.keep().pid() != 0 && said.keep().pid() != it->second->pid) return;
  NoteExit(*it->second, said.keep().exit().code(), said.keep().exit().finished_at_ns());
  TellExit(said.keep().id());
}

Kept Server::Describe(const Process& process) {
  Kept kept;
  kept.set_id(process.id);
  kept.set_sandbox_id(process.sandbox_id);
  kept.set_pid(process.pid);
  kept.set_plan(process.plan);
  kept.set_exec(process.is_exec);
  kept.set_init(process.is_init);
  kept.set_terminal(process.terminal);
  kept.set_zygote(process.EndsWithMonitor());
  kept.set_forked(process.forked);
  kept.set_started(process.started);
  kept.set_acknowledged(process.acknowledged);
  if (process.ended) *kept.mutable_exit() = process.exit;
  return kept;
}

std::vector<std::pair<Kept::Descriptor, Fd*>> Server::Descriptors(Process& process) {
  std::vector<std::pair<Kept::Descriptor, Fd*>> all{
      {Kept::PIDFD, &process.pidfd}, {Kept::BARRIER, &process.barrier},  {Kept::OUT, &process.out},
      {Kept::ERR, &process.err},     {Kept::LOG, &process.log},          {Kept::INPUT, &process.input},
      {Kept::QUEUE, &process.queue}, {Kept::NEXT_LOG, &process.next_log}};
  std::erase_if(all, [](const auto& one) { return !one.second->valid(); });
  return all;
}

// The keeper is gone: this process, parent of all that was started since, takes its place.
void Server::ReplaceKeeper() {
  Holdings holdings;
  for (auto& [id, process] : processes_) {
    // One that is still being built ends with its barrier, and is asked for again.
    if (!process->is_exec && !process->is_init && !process->at_barrier &&
        !(process->forking && process->forking->parked))
      continue;
    Held& held = holdings[id];
    held.kept = Describe(*process);
    for (auto [kind, fd] : Descriptors(*process)) held.fds[kind] = std::move(*fd);
  }
  Held& writer = holdings[kLogWriter];
  writer.kept = DescribeLogWriter();
  writer.fds[Kept::DESK_READ] = std::move(desk_.read);
  writer.fds[Kept::DESK_WRITE] = std::move(desk_.write);
  BecomeKeeper(kOwnImage, program_, listener_, holdings).IgnoreError();
  _exit(1);
}

void Server::Keep(Process& process) {
  std::map<Kept::Descriptor, int> fds;
  for (auto [kind, fd] : Descriptors(process)) fds[kind] = fd->get();
  SendKept(keeper_.get(), Describe(process), fds).IgnoreError();  // where it is gone, OnKeeper sees to it
}

void Server::KeepChange(const Kept& change) { SendKept(keeper_.get(), change, {}).IgnoreError(); }

void Server::ForgetKept(const std::string& id) {
  KeeperMessage message;
  message.set_forget(id);
  SendMessage(keeper_.get(), message.SerializeAsString()).IgnoreError();
}

void Server::Watch(int fd, std::function<void()> handler) {
  handlers_[fd] = {++watches_, std::move(handler)};
  epoll_event event{EPOLLIN, {}};
  event.data.u64 = uint64_t{watches_} << 32 | static_cast<uint32_t>(fd);
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0 && errno == EEXIST)
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void Server::Forget(int fd) {
  if (handlers_.erase(fd) > 0) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void Server::OnListener() {
  Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return;
  if (connection_.valid()) Disconnect();  // a daemon that comes anew takes over
  connection_ = std::move(fd);
  ++connections_;
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
    process->serial = process->reopen_serial = 0;
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
    case Request::kPark:
      status = ParkProcess(request.park(), serial, std::move(fds));
      if (status.ok()) return;
      break;
    case Request::kCallZygote:
      status = CallZygote(request.call_zygote(), serial);
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
        return ReopenLog(*it->second, std::move(fds[0]), serial);
      }
      break;
    case Request::kRemove:
      RemoveProcess(request.remove().id());
      break;
    case Request::kAcknowledge:
      if (auto it = processes_.find(request.acknowledge().id()); it != processes_.end()) {
        it->second->acknowledged = true;
        Keep(*it->second);
      }
      break;
    case Request::kList:
      return Answer(serial, absl::OkStatus(), ListProcesses());
    case Request::kHello: {
      Reply reply;
      reply.set_version(kVersion);
      reply.set_pid(getpid());
      reply.set_program(identity_);
      return Answer(serial, absl::OkStatus(), std::move(reply));
    }
    case Request::kUpgrade: {
      TellLogger(LogCommand::HAND_OVER);
      KeeperMessage words;
      words.set_upgrade(request.upgrade().program());
      if (!SendMessage(keeper_.get(), words.SerializeAsString()).ok()) ReplaceKeeper();
      _exit(kUpgradeStatus);  // the keeper holds all, and goes on
    }
    default:
      status = absl::UnimplementedError("the monitor doesn't know this operation");
  }
  Answer(serial, status);
}

void Server::EnterChild(const Plan& plan, std::vector<Fd> fds, int stdio[3], int barrier, bool is_exec) {
  ResetSignals();
  std::vector<int> keep{barrier};
  for (const Fd& fd : fds) keep.push_back(fd.get());
  for (int i = 0; i < 3; ++i) keep.push_back(stdio[i]);
  CloseAllBut(keep);
  // So that what an exec leaves behind is known for its own until it ends (KillDescendants).
  if (is_exec) prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  CarryOut(plan, std::move(fds), stdio, barrier);
}

absl::StatusOr<pid_t> Server::Clone(uint64_t flags, int cgroup, Fd* pidfd, pid_t number) {
  int fd = -1;
  clone_args args{};
  args.flags = flags | CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&fd);
  args.exit_signal = SIGCHLD;
  if (cgroup >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(cgroup);
  }
  if (number != 0) {
    args.set_tid = reinterpret_cast<uint64_t>(&number);
    args.set_tid_size = 1;
  }
  long pid = syscall(SYS_clone3, &args, sizeof args);
  if (pid < 0 && number != 0 && (errno == EEXIST || errno == EINVAL || errno == EPERM))
    return Clone(flags, cgroup, pidfd);
  if (pid < 0) return ErrnoStatus(errno, "clone a process");
  if (pid > 0 && pidfd != nullptr) pidfd->Reset(fd);
  return static_cast<pid_t>(pid);
}

absl::Status Server::Namespaces(const CreateNamespaces& request, uint64_t serial) {
  // Asked for once more by who did not hear the answer of an earlier monitor.
  if (auto it = processes_.find(request.id()); it != processes_.end() && it->second->adopted)
    RemoveProcess(request.id());
  if (request.pid() && processes_.contains(request.id()))
    return absl::AlreadyExistsError(Cat("process `", request.id(), "` exists"));
  ASSIGN_OR_RETURN(ChannelPair channel, MakeChannel());
  Fd pidfd;
  const bool user = request.uid_mappings_size() > 0;
  // A user namespace belongs to the effective user who made it (user_namespaces(7)).
  if (user && request.owner_uid() != 0) RETURN_IF_ERROR(BecomeEffective(request.owner_uid()));
  absl::StatusOr<pid_t> cloned =
      Clone((request.pid() ? CLONE_NEWPID : 0) | (user ? CLONE_NEWUSER : 0), -1, &pidfd);
  if (user && request.owner_uid() != 0 && (!cloned.ok() || *cloned != 0)) RETURN_IF_ERROR(BecomeEffective(0));
  ASSIGN_OR_RETURN(pid_t pid, std::move(cloned));
  if (pid == 0) {
    ResetSignals();
    CloseAllBut({channel.b.get()});
    MakeNamespaces(request, serial, channel.b.get());
  }
  // Where this fails, the child sees end of file.
  if (user) {
    RETURN_IF_ERROR(WriteMappings(request, pid));
    RETURN_IF_ERROR(SendMessage(channel.a.get(), "mapped"));
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
      Keep(*(processes_[id] = std::move(process)));
      SendMessage(socket->get(), "noted").IgnoreError();  // where it has ended, its exit tells
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
  if (auto it = processes_.find(request.id()); it != processes_.end()) {
    // Asked for once more by who did not hear the answer of an earlier monitor.
    if (!it->second->adopted || is_exec || it->second->started || it->second->ended)
      return absl::AlreadyExistsError(Cat("process `", request.id(), "` exists"));
    Reply reply;
    reply.set_pid(it->second->pid);
    Answer(serial, absl::OkStatus(), std::move(reply));
    return absl::OkStatus();
  }
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
  if (request.has_fork())
    return ForkProcess(request, std::move(plan), serial, std::move(fds), std::move(process->log));
  if (request.zygote()) {
    ASSIGN_OR_RETURN(auto made, UntrustedChannel::Make());
    process->control = std::make_unique<ZygoteControl>();
    process->control->channel = std::move(made.first);
    process->filters = plan.seccomp().empty() ? 0 : 1;
    plan.set_inherit(static_cast<int>(fds.size()));
    fds.push_back(std::move(made.second));
  }
  ASSIGN_OR_RETURN(Stdio stdio, MakeStdio(plan.terminal(), request.stdin_open()));
  ASSIGN_OR_RETURN(ChannelPair barrier, MakeChannel());
  if (!is_exec) {
    ASSIGN_OR_RETURN(process->queue, LogQueue::MakeMemory());
  }

  // setns(2) moves only children to come; back again needs no more than the way there.
  if (plan.has_join_pid_ns_fd() && setns(fds[plan.join_pid_ns_fd()].get(), CLONE_NEWPID) < 0)
    return ErrnoStatus(errno, "join the PID namespace");
  absl::StatusOr<pid_t> pid = Clone(
      plan.clone_flags(), plan.has_cgroup_unified() ? fds[plan.cgroup_unified()].get() : -1, &process->pidfd);
  if (pid.ok() && *pid == 0) {
    int numbers[3];
    for (int i = 0; i < 3; ++i) numbers[i] = stdio.child[i].get();
    EnterChild(plan, std::move(fds), numbers, barrier.b.get(), is_exec);
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
  Process& made = *(processes_[request.id()] = std::move(process));
  if (made.control) Watch(made.control->channel.fd(), [this, id = request.id()] { OnZygote(id); });
  if (is_exec) Keep(made);  // so that it does not outlive this monitor
  return absl::OkStatus();
}

absl::Status Server::StartProcess(const std::string& id, uint64_t serial) {
  auto it = processes_.find(id);
  if (it == processes_.end()) return absl::NotFoundError(Cat("no process `", id, "`"));
  Process& process = *it->second;
  if (process.adopted && process.started && (process.ended || !process.barrier.valid())) {
    Reply reply;  // asked for once more by who did not hear the answer of an earlier monitor
    reply.set_pid(process.pid);
    Answer(serial, absl::OkStatus(), std::move(reply));
    return absl::OkStatus();
  }
  if (process.ended || (process.started && !process.adopted) || !process.at_barrier ||
      !process.barrier.valid())
    return absl::FailedPreconditionError(Cat("process `", id, "` is not waiting to be started"));
  // Whether it is or not: who comes after us sends the word again.
  const bool again = std::exchange(process.started, true);
  if (!process.is_exec) {
    Kept change;
    change.set_id(id);
    change.set_started(true);
    KeepChange(change);
  }
  absl::Status sent;
  if (process.forked) {
    ASSIGN_OR_RETURN(const std::string text, Fields("go").Serialize());
    if (send(process.barrier.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0)
      sent = ErrnoStatus(errno, "");
  } else {
    sent = SendMessage(process.barrier.get(), "go");
  }
  int err = ErrnoOf(sent);
  if (process.forked && (sent.ok() || (again && err == EPIPE))) {
    // Its program runs with the word (which it had before where it is gone): no answer of its own is waited
    // for.
    process.barrier.Reset();
    Reply reply;
    reply.set_pid(process.pid);
    Answer(serial, absl::OkStatus(), std::move(reply));
    return absl::OkStatus();
  }
  if (err == EPIPE || err == ECONNRESET || err == ENOTCONN)
    return absl::FailedPreconditionError(Cat("process `", id, "` was ended before it was started"));
  RETURN_IF_ERROR_AS(sent, "start");
  process.serial = serial;
  return absl::OkStatus();
}

void Server::OnBarrier(const std::string& id) {
  auto it = processes_.find(id);
  if (it == processes_.end()) return;
  Process& process = *it->second;
  absl::StatusOr<Message> message = absl::UnavailableError("end of file");
  if (!process.forked) message = RecvMessage(process.barrier.get());
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
    Keep(process);
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
  if (process.control) LoseZygote(process);
  if (process.forking) DropForking(process);
  if (!process.ended && process.pidfd.valid()) {
    if (process.is_exec) kill(-process.pid, SIGKILL);
    SendPidfdSignal(process.pidfd.get(), SIGKILL);
    if (!process.adopted) by_pid_.erase(process.pid);
  }
  ForgetKept(id);
  if (process.adopted) Forget(process.pidfd.get());
  if (process.barrier.valid()) Forget(process.barrier.get());
  for (uint64_t serial : {process.serial, process.reopen_serial})
    Answer(serial, absl::AbortedError(Cat("process `", id, "` was removed")));
  if (!process.is_exec && !process.is_init) TellLogger(LogCommand::REMOVE, id);
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
    // Reaped only after it is noted: who looks for it when this process dies here finds it still.
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0) return;
    std::string id;
    if (info.si_code == CLD_TRAPPED) {  // waitid(2) tells the tracer, asked or not
      OnStopped(info);
      continue;
    }
    if (auto node = by_pid_.extract(info.si_pid)) {
      id = node.mapped();
      if (id.ends_with(kBuilderSuffix)) {
        id.resize(id.size() - (sizeof kBuilderSuffix - 1));
        auto of = processes_.find(id);
        const bool waited = of != processes_.end() && of->second->forking;
        if (waited) of->second->forking->builder = 0;
        siginfo_t reaped;
        waitid(P_PID, static_cast<id_t>(info.si_pid), &reaped, WEXITED | WNOHANG);
        if (waited) Advance(id);
        continue;
      }
      if (auto it = processes_.find(id); it != processes_.end())
        NoteExit(*it->second, info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status, NowNs());
    }
    siginfo_t reaped;
    waitid(P_PID, static_cast<id_t>(info.si_pid), &reaped, WEXITED | WNOHANG);
    if (info.si_pid == logger_pid_) {
      Forget(logger_.get());
      logger_.Reset();
      StartLogger().IgnoreError();
    } else if (!id.empty()) {
      TellExit(id);
    }
  }
}

void Server::NoteExit(Process& process, int code, int64_t finished_at_ns) {
  process.ended = true;
  process.exit.set_id(process.id);
  process.exit.set_code(code);
  process.exit.set_finished_at_ns(finished_at_ns);
  if (process.is_exec) return;
  Kept change;
  change.set_id(process.id);
  *change.mutable_exit() = process.exit;
  // What was never ready leaves nothing.
  if (process.is_init || process.at_barrier) KeepChange(change);
}

void Server::TellExit(const std::string& id) {
  if (auto it = processes_.find(id); it != processes_.end()) {
    if (it->second->control) LoseZygote(*it->second);
    if (it->second->forking) return FailFork(id, absl::AbortedError("the forked process ended"));
  }
  // What it said before it ended comes first.
  for (int i = 0; i < 3; ++i) {
    auto it = processes_.find(id);
    if (it == processes_.end() || !it->second->barrier.valid()) break;
    OnBarrier(id);
  }
  auto it = processes_.find(id);
  if (it == processes_.end()) return;
  FromMonitor from;
  *from.mutable_exit() = it->second->exit;
  Send(from, {});
  if (it->second->is_exec) RemoveProcess(id);
}

absl::Status Server::StartLogger() {
  if (!desk_.read.valid()) {
    ASSIGN_OR_RETURN(desk_, Desk::MakePipe());
    SendKept(keeper_.get(), DescribeLogWriter(),
             {{Kept::DESK_READ, desk_.read.get()}, {Kept::DESK_WRITE, desk_.write.get()}})
        .IgnoreError();
  }
  ASSIGN_OR_RETURN(ChannelPair channel, MakeChannel());
  const pid_t keeper = getppid();
  ASSIGN_OR_RETURN(logger_pid_, Clone(0, -1, nullptr));
  if (logger_pid_ == 0) {
    CloseAllBut({channel.b.get(), desk_.read.get(), desk_.write.get()});
    RunLogger(channel.b.get(), keeper, std::move(desk_));
  }
  logger_ = std::move(channel.a);
  Watch(logger_.get(), [this] { OnLogger(); });
  for (const auto& [id, process] : processes_) AddToLogger(*process);
  TellLogger(LogCommand::BEGIN);
  return absl::OkStatus();
}

void Server::TellLogger(LogCommand::Kind kind, const std::string& id) {
  LogCommand command;
  command.set_kind(kind);
  command.set_id(id);
  SendMessage(logger_.get(), command.SerializeAsString()).IgnoreError();
}

void Server::AddToLogger(const Process& process) {
  if (process.is_exec || process.is_init || !process.at_barrier || !process.out.valid()) return;
  LogCommand command;
  command.set_id(process.id);
  command.set_has_stderr(process.err.valid());
  command.set_has_log(process.log.valid());
  command.set_has_next_log(process.next_log.valid());
  std::vector<int> fds;
  for (const Fd* fd : {&process.out, &process.err, &process.log, &process.next_log, &process.queue})
    if (fd->valid()) fds.push_back(fd->get());
  SendMessage(logger_.get(), command.SerializeAsString(), fds).IgnoreError();
}

void Server::ReopenLog(Process& process, Fd log, uint64_t serial) {
  if (!process.at_barrier || !process.out.valid()) {
    process.log = std::move(log);
    return Answer(serial, absl::OkStatus());
  }
  Answer(std::exchange(process.reopen_serial, serial), absl::AbortedError("the log was asked for once more"));
  process.wanted_log = std::move(log);
  if (!process.next_log.valid()) SwitchLog(process);
}

// The log writer may have begun to write to the file from before: it and those after it need that until they
// say that they are done with it.
void Server::SwitchLog(Process& process) {
  process.next_log = std::move(process.wanted_log);
  Keep(process);
  const int fd = process.next_log.get();
  LogCommand command;
  command.set_id(process.id);
  command.set_kind(LogCommand::REOPEN);
  SendMessage(logger_.get(), command.SerializeAsString(), {&fd, 1})
      .IgnoreError();  // one that died is replaced
}

void Server::OnLogger() {
  absl::StatusOr<Message> message = RecvMessage(logger_.get());
  LogCommand said;
  if (!message.ok() || !said.ParseFromString(message->data)) return Forget(logger_.get());
  auto it = processes_.find(said.id());
  if (it == processes_.end() || !it->second->next_log.valid()) return;
  Process& process = *it->second;
  process.log = std::move(process.next_log);
  Keep(process);
  if (process.wanted_log.valid()) return SwitchLog(process);
  Answer(std::exchange(process.reopen_serial, 0), absl::OkStatus());
}

}  // namespace sock::runtime::monitor
