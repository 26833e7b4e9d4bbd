// The server's part for Zygotes: their control sockets, and processes forked from them up to the barrier.
// Every failure here is ABORTED: the plain way is open still.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "runtime/base/path.h"
#include "runtime/base/pidref.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/container/container.h"
#include "runtime/monitor/log_queue.h"
#include "runtime/monitor/server.h"

namespace sock::runtime::monitor {
namespace {

// High, so that the program's own children count from 2.
constexpr pid_t kBuilderNumber = 32000;

absl::Status Aborted(const absl::Status& status) { return absl::AbortedError(std::string(status.message())); }

// In its own PID namespace, as /proc/PID/status tells.
absl::StatusOr<int32_t> NumberInside(pid_t pid) {
  ASSIGN_OR_RETURN(const std::string status, ReadFile(Cat("/proc/", pid, "/status"), 1 << 16));
  const size_t at = status.find("\nNSpid:");
  int32_t number = 0;
  if (at != status.npos) {
    const std::string line = status.substr(at + 1, status.find('\n', at + 1) - at - 1);
    if (absl::SimpleAtoi(line.substr(line.rfind('\t') + 1), &number)) return number;
  }
  return absl::InternalError(Cat("the number of process ", pid, " is not told"));
}

// What has no meaning to a process that it does not come from an exec: the trusted side does it.
absl::Status SetLimits(pid_t pid, const Plan& plan) {
  RETURN_IF_ERROR(SetRlimits(pid, plan));
  if (plan.has_oom_score_adj()) {
    absl::Status done = WriteExisting(Cat("/proc/", pid, "/oom_score_adj"), Cat(plan.oom_score_adj()));
    if (!done.ok() && ErrnoOf(done) != EACCES) return done;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Server::CallZygote(Process& zygote, const Fields& rest, std::span<const int> fds,
                                std::function<void(absl::StatusOr<Fields>)> done) {
  ZygoteControl& control = *zygote.control;
  const uint64_t serial = control.next_serial++;
  Fields request(rest.op());
  request.Add("serial", serial);
  for (const auto& [name, value] : rest.list())
    if (name != "op" && name != "serial") request.Add(name, value);
  RETURN_IF_ERROR(control.channel.Send(request, fds));
  control.waiting[serial] = std::move(done);
  return absl::OkStatus();
}

absl::Status Server::CallZygote(const monitor::CallZygote& request, uint64_t serial) {
  ASSIGN_OR_RETURN(Process * zygote, FindZygote(request.id()));
  ASSIGN_OR_RETURN(Fields fields, Fields::Parse(request.fields()));
  if (fields.op() == "fork") return absl::InvalidArgumentError("a Zygote forks by Park and Create");
  return CallZygote(*zygote, fields, {}, [this, serial, asker = connections_](auto answer) {
    if (asker != connections_) return;  // who asked is gone
    if (!answer.ok()) return Answer(serial, answer.status());
    absl::StatusOr<std::string> text = answer->Serialize();
    Reply reply;
    if (text.ok()) reply.set_fields(*std::move(text));
    Answer(serial, text.status(), std::move(reply));
  });
}

absl::StatusOr<Server::Process*> Server::FindZygote(const std::string& id) {
  auto it = processes_.find(id);
  if (it == processes_.end() || !it->second->control || !it->second->control->channel.valid() ||
      it->second->ended)
    return absl::AbortedError("the Zygote has ended");
  return it->second.get();
}

void Server::OnZygote(const std::string& id) {
  while (true) {
    auto it = processes_.find(id);
    if (it == processes_.end() || !it->second->control || !it->second->control->channel.valid()) return;
    ZygoteControl& control = *it->second->control;
    absl::StatusOr<UntrustedChannel::Packet> packet = control.channel.Receive();
    if (ErrnoOf(packet.status()) == EAGAIN) return;
    uint64_t serial = 0;
    if (packet.ok()) serial = packet->fields.GetNumber("serial").value_or(0);
    auto waiting = control.waiting.find(serial);
    if (!packet.ok() || waiting == control.waiting.end()) return LoseZygote(*it->second);
    auto done = std::move(waiting->second);
    control.waiting.erase(waiting);
    if (packet->fields.op() == "failed")
      done(absl::AbortedError(Cat("the Zygote failed at ", packet->fields.Get("step").value_or("?"), ": ",
                                  packet->fields.Get("text").value_or("no reason"))));
    else
      done(std::move(packet->fields));
  }
}

// It is gone, or speaks another language.
void Server::LoseZygote(Process& zygote) {
  auto waiting = std::move(zygote.control->waiting);
  zygote.control->waiting.clear();
  if (zygote.control->channel.valid()) {
    Forget(zygote.control->channel.fd());
    zygote.control->channel.Close();
  }
  if (!zygote.ended && zygote.pidfd.valid())
    syscall(SYS_pidfd_send_signal, zygote.pidfd.get(), SIGKILL, nullptr, 0);
  for (auto& [serial, done] : waiting) done(absl::AbortedError("the Zygote has ended"));
}

absl::Status Server::StartFork(const std::string& id, const std::string& sandbox_id,
                               const std::string& zygote_id,
                               const std::vector<std::pair<const char*, int>>& namespaces, uint64_t serial) {
  if (processes_.contains(id)) return absl::AlreadyExistsError(Cat("process `", id, "` exists"));
  ASSIGN_OR_RETURN(Process * zygote, FindZygote(zygote_id));
  ASSIGN_OR_RETURN(auto made, UntrustedChannel::Make());
  auto& [channel, other] = made;
  auto process = std::make_unique<Process>();
  process->id = id;
  process->sandbox_id = sandbox_id;
  process->serial = serial;
  process->forking = std::make_unique<Forking>();
  Forking& forking = *process->forking;
  forking.zygote_id = zygote_id;
  forking.zygote_filters = zygote->filters;
  forking.channel = std::move(channel);
  forking.other_end = IdentityOf(other.get());
  Fields fields("fork");
  std::vector<int> fds{other.get()};
  for (const auto& [kind, fd] : namespaces) {
    fields.Add("enter", kind);
    fds.push_back(fd);
    const std::string_view name = kind;
    (name == "user"  ? forking.user_ns
     : name == "net" ? forking.net_ns
     : name == "ipc" ? forking.ipc_ns
     : name == "uts" ? forking.uts_ns
                     : forking.pid_ns) = IdentityOf(fd);
  }
  const int fd = forking.channel.fd();
  processes_[id] = std::move(process);
  Watch(fd, [this, id] { OnParked(id); });
  absl::Status asked = CallZygote(*zygote, fields, fds, [this, id, fd](absl::StatusOr<Fields> answer) {
    auto it = processes_.find(id);
    if (it == processes_.end() || !it->second->forking || it->second->forking->channel.fd() != fd) return;
    if (!answer.ok()) return FailFork(id, answer.status());
    it->second->forking->answered = true;
    Advance(id);
  });
  if (!asked.ok()) {
    Forget(fd);
    processes_.erase(id);
    return Aborted(asked);
  }
  return absl::OkStatus();
}

absl::Status Server::ParkProcess(const monitor::Park& request, uint64_t serial, std::vector<Fd> fds) {
  if (fds.size() < 4) return absl::InvalidArgumentError("park: the sandbox's namespaces are missing");
  std::vector<std::pair<const char*, int>> namespaces;
  static constexpr const char* kKinds[] = {"user", "net", "ipc", "uts", "pid"};
  for (size_t i = 0; i < fds.size() && i < std::size(kKinds); ++i)
    namespaces.emplace_back(kKinds[i], fds[i].get());
  return StartFork(request.id(), request.sandbox_id(), request.zygote_id(), namespaces, serial);
}

absl::Status Server::ForkProcess(const Create& request, Plan plan, uint64_t serial, std::vector<Fd> fds,
                                 Fd log) {
  const Fork& fork = request.fork();
  std::string id = request.id();
  if (plan.terminal() || !plan.has_user_ns() || !plan.has_root())
    return absl::InvalidArgumentError("fork: a terminal, or no user namespace");
  ASSIGN_OR_RETURN(Stdio stdio, MakeStdio(false, request.stdin_open()));
  ASSIGN_OR_RETURN(Fd queue, LogQueue::MakeMemory());
  if (!fork.parked_id().empty()) {
    auto parked = processes_.find(fork.parked_id());
    if (parked == processes_.end() || !parked->second->forking || !parked->second->forking->parked ||
        parked->second->ended || parked->second->forking->wanted)
      return absl::AbortedError(Cat("no process `", fork.parked_id(), "` is parked"));
    if (processes_.contains(id)) return absl::AlreadyExistsError(Cat("process `", id, "` exists"));
    auto node = processes_.extract(parked);
    ForgetKept(node.key());
    Process& process = *node.mapped();
    by_pid_[process.pid] = id;
    Watch(process.forking->channel.fd(), [this, id] { OnParked(id); });
    process.id = id;
    process.sandbox_id = request.sandbox_id();
    process.serial = serial;
    processes_[id] = std::move(node.mapped());
  } else {
    auto at = [&](int index) { return fds[static_cast<size_t>(index)].get(); };
    std::vector<std::pair<const char*, int>> namespaces{{"user", at(plan.user_ns())}};
    if (plan.has_net_ns()) namespaces.emplace_back("net", at(plan.net_ns()));
    if (plan.has_ipc_ns()) namespaces.emplace_back("ipc", at(plan.ipc_ns()));
    if (plan.has_uts_ns()) namespaces.emplace_back("uts", at(plan.uts_ns()));
    if (plan.has_join_pid_ns_fd()) namespaces.emplace_back("pid", at(plan.join_pid_ns_fd()));
    RETURN_IF_ERROR(StartFork(id, request.sandbox_id(), fork.zygote_id(), namespaces, serial));
  }
  Process& process = *processes_.at(id);
  Forking& forking = *process.forking;
  process.plan = request.plan();
  process.log = std::move(log);
  process.queue = std::move(queue);
  process.out = std::move(stdio.out);
  process.err = std::move(stdio.err);
  process.input = std::move(stdio.input);
  forking.wanted = fork;
  forking.plan = std::move(plan);
  forking.fds = std::move(fds);
  for (int i = 0; i < 3; ++i) forking.child_stdio[i] = std::move(stdio.child[i]);
  Advance(id);
  return absl::OkStatus();
}

void Server::OnParked(const std::string& id) {
  while (true) {
    auto it = processes_.find(id);
    if (it == processes_.end() || !it->second->forking) return;
    Forking& forking = *it->second->forking;
    absl::StatusOr<UntrustedChannel::Packet> packet = forking.channel.Receive();
    if (ErrnoOf(packet.status()) == EAGAIN) return;
    if (!packet.ok()) return FailFork(id, absl::AbortedError("the forked process ended"));
    const std::string& op = packet->fields.op();
    if (op == "parked" && forking.said == 0 && packet->sender > 0) {
      forking.said = packet->sender;
    } else if (op == "ready" && forking.entering && !forking.ready) {
      forking.ready = true;
    } else if (op == "failed") {
      return FailFork(id, absl::AbortedError(Cat("the forked process failed at ",
                                                 packet->fields.Get("step").value_or("?"), ": ",
                                                 packet->fields.Get("text").value_or("no reason"))));
    } else {
      return FailFork(id, absl::AbortedError("the forked process broke the protocol"));
    }
    Advance(id);
  }
}

void Server::FailFork(const std::string& id, const absl::Status& status) {
  auto it = processes_.find(id);
  if (it == processes_.end()) return;
  const uint64_t serial = std::exchange(it->second->serial, 0);
  const bool parked = it->second->forking && !it->second->forking->wanted;
  FromMonitor ended;
  ended.mutable_exit()->set_id(id);
  RemoveProcess(id);
  if (serial != 0)
    Answer(serial, status);
  else if (parked)
    Send(ended, {});  // a spare is gone
}

void Server::Advance(const std::string& id) {
  absl::Status status = Step(id);
  if (!status.ok()) FailFork(id, Aborted(status));
}

absl::Status Server::Step(const std::string& id) {
  auto it = processes_.find(id);
  if (it == processes_.end() || !it->second->forking) return absl::OkStatus();
  Process& process = *it->second;
  Forking& forking = *process.forking;
  if (!forking.parked) {
    if (!forking.answered || forking.said == 0) return absl::OkStatus();
    process.pid = forking.said;
    process.pidfd = Fd(static_cast<int>(syscall(SYS_pidfd_open, process.pid, 0)));
    // Ours, not reaped, so that the number is still its own; and nobody else's claim to it.
    if (!process.pidfd.valid() || ParentOf(process.pid) != getpid() || by_pid_.contains(process.pid)) {
      process.pid = 0;
      process.pidfd.Reset();
      return absl::FailedPreconditionError("the forked process is not the monitor's child");
    }
    by_pid_[process.pid] = id;
    forking.parked = true;
    Keep(process);
    if (!forking.wanted) {
      Reply reply;
      reply.set_pid(process.pid);
      Answer(std::exchange(process.serial, 0), absl::OkStatus(), std::move(reply));
    }
  }
  if (!forking.wanted) return absl::OkStatus();
  if (!forking.building) {
    forking.building = true;
    // Both at once: most of what it takes to become the container needs none of its mounts.
    RETURN_IF_ERROR(Become(forking));
    return StartBuilder(process);
  }
  if (!forking.ready || forking.builder != 0 || forking.stopping) return absl::OkStatus();
  if (forking.plan.seccomp().empty()) return FinishFork(process);
  forking.stopping = true;
  return Stop(process);
}

absl::Status Server::Stop(const Process& process) {
  if (ptrace(PTRACE_SEIZE, process.pid, nullptr, nullptr) < 0 ||
      ptrace(PTRACE_INTERRUPT, process.pid, nullptr, nullptr) < 0)
    return ErrnoStatus(errno, "stop the forked process");
  return absl::OkStatus();
}

void Server::OnStopped(const siginfo_t& info) {
  auto found = by_pid_.find(info.si_pid);
  auto it = found == by_pid_.end() ? processes_.end() : processes_.find(found->second);
  if (it == processes_.end() || !it->second->forking) return LetTraced(info);
  const std::string id = it->first;
  siginfo_t taken;
  waitid(P_PID, static_cast<id_t>(info.si_pid), &taken, WSTOPPED | WNOHANG);
  // A signal that arrives just now is the process's own doing, or its end.
  absl::Status status = it->second->forking->stopping && info.si_status == (SIGTRAP | PTRACE_EVENT_STOP << 8)
                            ? FinishFork(*it->second)
                            : absl::AbortedError("the forked process was stopped before its start");
  if (!status.ok()) FailFork(id, Aborted(status));
}

// The trusted child that mounts: it carries out the same plan as a plain start's.
absl::Status Server::StartBuilder(Process& process) {
  Forking& forking = *process.forking;
  Plan plan = forking.plan;
  plan.set_build_only(true);
  plan.set_clone_flags(CLONE_NEWNS);
  plan.clear_join_pid_ns_fd();
  if (plan.has_cgroup_unified()) {
    ASSIGN_OR_RETURN(const int32_t number, NumberInside(process.pid));
    plan.set_take_in(number);
  }
  // A procfs shows the PID namespace of who mounts it.
  ASSIGN_OR_RETURN(Fd pid_ns, OpenPath(Cat("/proc/", process.pid, "/ns/pid"), O_RDONLY));
  ASSIGN_OR_RETURN(ChannelPair barrier, MakeChannel());
  const int cgroup =
      plan.has_cgroup_unified() ? forking.fds[static_cast<size_t>(plan.cgroup_unified())].get() : -1;
  if (setns(pid_ns.get(), CLONE_NEWPID) < 0) return ErrnoStatus(errno, "join the PID namespace");
  absl::StatusOr<pid_t> builder = Clone(CLONE_NEWNS, cgroup, &forking.builder_pidfd, kBuilderNumber);
  if ((!builder.ok() || *builder != 0) && setns(pid_ns_.get(), CLONE_NEWPID) < 0)
    return ErrnoStatus(errno, "return to the own PID namespace");
  if (ErrnoOf(builder.status()) == ENOMEM)  // pid_namespaces(7)
    return absl::AbortedError("the forked process ended before its container was built");
  ASSIGN_OR_RETURN(forking.builder, std::move(builder));
  int numbers[3];
  for (int i = 0; i < 3; ++i) numbers[i] = forking.child_stdio[i].get();
  if (forking.builder == 0) EnterChild(plan, std::move(forking.fds), numbers, barrier.b.get());
  forking.builder_barrier = std::move(barrier.a);
  fcntl(forking.builder_barrier.get(), F_SETFL, O_NONBLOCK);
  by_pid_[forking.builder] = process.id + kBuilderSuffix;
  Watch(forking.builder_barrier.get(), [this, id = process.id] { OnBuilder(id); });
  return absl::OkStatus();
}

void Server::OnBuilder(const std::string& id) {
  auto it = processes_.find(id);
  if (it == processes_.end() || !it->second->forking) return;
  Process& process = *it->second;
  Forking& forking = *process.forking;
  absl::StatusOr<Message> message = RecvMessage(forking.builder_barrier.get());
  if (ErrnoOf(message.status()) == EAGAIN) return;
  Report report;
  if (!message.ok() || !report.ParseFromString(message->data) || !report.ready()) {
    absl::Status status =
        message.ok() ? FromReport(report) : absl::InternalError("the builder ended before it was ready");
    // What it met, the plain way would meet too: it is the user's error, or ours.
    return FailFork(id, status);
  }
  absl::Status sent = Enter(forking);
  Forget(forking.builder_barrier.get());
  forking.builder_barrier.Reset();  // with that it ends
  if (!sent.ok()) FailFork(id, Aborted(sent));
}

absl::Status Server::Enter(Forking& forking) {
  ASSIGN_OR_RETURN(Fd mounts, OpenPath(Cat("/proc/", forking.builder, "/ns/mnt"), O_RDONLY));
  forking.mount_ns = IdentityOf(mounts.get());
  ASSIGN_OR_RETURN(forking.cgroups, ReadFile(Cat("/proc/", forking.builder, "/cgroup"), 1 << 16));
  ASSIGN_OR_RETURN(forking.root, PlaceOf(forking.builder, "root"));
  ASSIGN_OR_RETURN(forking.cwd, PlaceOf(forking.builder, "cwd"));
  if (!forking.wanted->confined()) {
    ASSIGN_OR_RETURN(forking.mounts, ReadFile(Cat("/proc/", forking.builder, "/mountinfo"), 1 << 22));
  }
  const int fd = mounts.get();
  RETURN_IF_ERROR(forking.channel.Send(Fields("enter"), {&fd, 1}));
  forking.entering = true;
  return absl::OkStatus();
}

absl::Status Server::Become(Forking& forking) {
  ASSIGN_OR_RETURN(Fields said, Fields::Parse(forking.wanted->become()));
  std::vector<int> fds;
  for (const Fd& fd : forking.child_stdio) fds.push_back(fd.get());
  // Whom a descriptor of a cgroup's moves depends on who opened it (cgroup v1): of root's, any process of the
  // host's. As the pod's root it moves that pod's. On v2, where that is no help, the builder moves the
  // process.
  std::vector<Fd> cgroups;
  if (forking.plan.cgroup_procs_size() > 0) {
    RETURN_IF_ERROR(BecomeEffective(forking.plan.host_root_uid()));
    absl::Status opened;
    for (int index : forking.plan.cgroup_procs()) {
      const int fd = forking.fds[static_cast<size_t>(index)].get();
      absl::StatusOr<Fd> cgroup = OpenPath(Cat("/proc/self/fd/", fd), O_WRONLY);
      opened.Update(cgroup.status());
      if (cgroup.ok()) fds.push_back(cgroups.emplace_back(*std::move(cgroup)).get());
    }
    RETURN_IF_ERROR(BecomeEffective(0));
    RETURN_IF_ERROR(opened);
  }
  Fields become("become");
  become.Add("mount_ns", "1");
  become.Add("cgroup_ns", "1");
  become.Add("cgroups", Cat(fds.size() - 3));
  for (const auto& [name, value] : said.list())
    if (name != "op") become.Add(name, value);
  return forking.channel.Send(become, fds);
}

void Server::DropForking(Process& process) {
  Forking& forking = *process.forking;
  Forget(forking.channel.fd());
  if (forking.builder_barrier.valid()) Forget(forking.builder_barrier.get());
  if (forking.builder != 0) {
    syscall(SYS_pidfd_send_signal, forking.builder_pidfd.get(), SIGKILL, nullptr, 0);
    by_pid_.erase(forking.builder);
  }
}

absl::Status Server::FinishFork(Process& process) {
  Forking& forking = *process.forking;
  RETURN_IF_ERROR(SetLimits(process.pid, forking.plan));
  Expected expected;
  expected.plan = &forking.plan;
  expected.host_uid = forking.wanted->host_uid();
  expected.host_gid = forking.wanted->host_gid();
  expected.host_groups = {forking.wanted->host_groups().begin(), forking.wanted->host_groups().end()};
  expected.seccomp_filters = forking.zygote_filters + (forking.plan.seccomp().empty() ? 0 : 1);
  expected.cgroups = forking.cgroups;
  expected.root = forking.root;
  expected.cwd = forking.cwd;
  expected.mounts = forking.mounts;
  expected.namespaces = {{"mnt", forking.mount_ns}, {"user", forking.user_ns}};
  for (auto [kind, identity] : {std::pair{"net", &forking.net_ns},
                                {"ipc", &forking.ipc_ns},
                                {"uts", &forking.uts_ns},
                                {"pid", &forking.pid_ns}})
    if (*identity != FileIdentity{}) expected.namespaces.emplace_back(kind, *identity);
  ASSIGN_OR_RETURN(Fd own, OpenPath("/proc/self/ns/cgroup", O_RDONLY));
  expected.own_cgroup_ns = IdentityOf(own.get());
  for (int i = 0; i < 3; ++i) expected.descriptors[i] = IdentityOf(forking.child_stdio[i].get());
  expected.channel = forking.other_end;
  expected.parent = getpid();
  expected.first_in_pid_ns = forking.pid_ns == FileIdentity{};
  RETURN_IF_ERROR(VerifyForked(process.pid, expected));
  Forget(forking.channel.fd());
  ASSIGN_OR_RETURN(process.barrier, forking.channel.Release());
  if (forking.stopping && ptrace(PTRACE_DETACH, process.pid, nullptr, nullptr) < 0)
    return ErrnoStatus(errno, "let the forked process go on");
  // From here it is a process at its barrier like any other, but that it has nothing to say any more.
  process.forking.reset();
  process.forked = process.at_barrier = true;
  Keep(process);
  AddToLogger(process);
  Reply reply;
  reply.set_pid(process.pid);
  Answer(std::exchange(process.serial, 0), absl::OkStatus(), std::move(reply));
  return absl::OkStatus();
}

}  // namespace sock::runtime::monitor
