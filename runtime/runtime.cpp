#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <set>

#include "absl/cleanup/cleanup.h"
#include "runtime/base/atomic_file.h"
#include "runtime/base/ids.h"
#include "runtime/lean_runtime.h"

namespace sock::runtime {
namespace {

double Since(steady_clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(steady_clock::now() - begin).count();
}

// What the child met, in the code that it is to the user.
absl::Status ChildError(const absl::Status& status) {
  switch (ErrnoOf(status)) {
    case ENOENT:
      return WithCode(status, absl::StatusCode::kNotFound);
    case ENOTDIR:
    case EACCES:
    case ENOEXEC:
    case ELOOP:
    case ENAMETOOLONG:
    case E2BIG:
      return WithCode(status, absl::StatusCode::kInvalidArgument);
    default:
      return status;
  }
}

// The host's id that is 0 inside.
uint32_t RootOf(const std::vector<oci::IdMapping>& mappings) {
  for (const oci::IdMapping& one : mappings)
    if (one.container_id == 0) return one.host_id;
  return 0;
}

}  // namespace

std::vector<int> Numbers(const std::vector<Fd>& fds) {
  std::vector<int> numbers;
  for (const Fd& fd : fds) numbers.push_back(fd.get());
  return numbers;
}

absl::StatusOr<std::shared_ptr<monitor::Client>> LeanRuntime::Connect() {
  return monitor::Client::Open(
      options_.state_dir + "/monitor.sock", options_.monitor_program, monitor_identity_,
      [this](const monitor::Exit& exit) {
        Finish(exit);
        Acknowledge(exit.id());
      },
      [this] {
        std::lock_guard lock(link_mutex_);
        link_lost_ = true;
        link_changed_.notify_all();
      });
}

absl::StatusOr<monitor::Answer> LeanRuntime::Call(const monitor::Request& request, std::span<const int> fds,
                                                  milliseconds timeout) {
  const auto deadline = steady_clock::now() + kMonitorPatience;
  while (true) {
    std::shared_ptr<monitor::Client> client;
    {
      std::unique_lock lock(link_mutex_);
      link_changed_.wait_until(lock, deadline, [&] { return closing_ || (client_ && !client_->lost()); });
      if (closing_ || !client_) return absl::UnavailableError("the monitor is gone");
      client = client_;
    }
    absl::StatusOr<monitor::Answer> answer = client->Call(request, fds, timeout);
    if (answer.ok() || !client->lost() || request.operation_case() == monitor::Request::kExec ||
        request.operation_case() == monitor::Request::kCreate || steady_clock::now() > deadline)
      return answer;
  }
}

// Never waits for a monitor: a client's own thread calls it, and that client's end waits for the thread. What
// is not acknowledged is told once more.
void LeanRuntime::Acknowledge(const std::string& id) {
  std::shared_ptr<monitor::Client> client;
  {
    std::lock_guard lock(link_mutex_);
    client = client_;
  }
  if (!client) return;
  monitor::Request request;
  request.mutable_acknowledge()->set_id(id);
  client->Call(request).status().IgnoreError();
}

// Finds the monitor again: its keeper has started another one.
void LeanRuntime::Reconnect() {
  // A client's own threads may hold it last, and must not end it.
  std::vector<std::shared_ptr<monitor::Client>> old;
  std::unique_lock lock(link_mutex_);
  while (true) {
    link_changed_.wait(lock, [&] { return closing_ || link_lost_; });
    if (closing_) break;
    link_lost_ = false;
    old.push_back(std::move(client_));
    client_ = nullptr;
    lock.unlock();
    {
      // Executions end with their connection, and nobody will tell how.
      std::shared_lock table(mutex_);
      for (const auto& [id, execution] : executions_) {
        std::lock_guard one(execution->mutex);
        execution->lost = !execution->code;
        eventfd_write(execution->wake.get(), 1);
      }
    }
    std::erase_if(old, [](const auto& client) { return client.use_count() == 1; });
    absl::StatusOr<std::shared_ptr<monitor::Client>> client = Connect();
    lock.lock();
    if (!client.ok()) {
      link_lost_ = true;
      link_changed_.wait_for(lock, kReconnectPause, [&] { return closing_; });
      continue;
    }
    client_ = *std::move(client);
    if (recovered_) client_->Deliver();
    link_changed_.notify_all();
    if (!recovered_) continue;
    lock.unlock();
    Resync();
    lock.lock();
  }
  lock.unlock();
  for (const auto& client : old)
    while (client.use_count() > 1) poll(nullptr, 0, 1);
}

// What ended between two monitors, and what was lost with them, is told now.
void LeanRuntime::Resync() {
  // Listed after these were known: what the list lacks is gone.
  std::vector<std::shared_ptr<Container>> all;
  {
    std::shared_lock lock(mutex_);
    for (const auto& [id, container] : containers_) all.push_back(container);
  }
  monitor::Request request;
  request.mutable_list();
  absl::StatusOr<monitor::Answer> answer = Call(request);
  if (!answer.ok()) return;  // it was lost again, and so will be this
  std::map<std::string, const monitor::Entry*> entries;
  for (const monitor::Entry& entry : answer->reply.entries()) entries[entry.id()] = &entry;
  for (const auto& container : all) {
    {
      std::lock_guard lock(container->mutex);
      if (container->state == ProcessState::kExited) continue;
    }
    auto entry = entries.find(container->id);
    monitor::Exit exit;
    if (entry == entries.end()) {
      cgroups_->KillAll(container->cgroup_path, kKillPatienceMs).IgnoreError();
      exit.set_code(255);
      exit.set_finished_at_ns(system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1));
      exit.set_unknown("its monitor and the monitor's keeper died at once");
    } else if (entry->second->has_exit()) {
      exit = entry->second->exit();
    } else {
      continue;
    }
    exit.set_id(container->id);
    Finish(exit);
  }
}

ExitInfo LeanRuntime::Explain(const Container& container, const monitor::Exit& exit) const {
  ExitInfo info;
  info.exit_code = exit.code();
  info.finished_at = system_clock::time_point(std::chrono::nanoseconds(exit.finished_at_ns()));
  absl::StatusOr<CgroupStats> stats = cgroups_->Stats(container.cgroup_path);
  info.oom_killed = stats.ok() && stats->oom_kills > 0;
  info.reason = !exit.unknown().empty() ? "Unknown"
                : info.oom_killed       ? "OOMKilled"
                : exit.code() == 0      ? "Completed"
                                        : "Error";
  info.message = exit.unknown();
  return info;
}

void LeanRuntime::Finish(const monitor::Exit& exit) {
  std::shared_ptr<Container> container;
  {
    std::shared_lock lock(mutex_);
    if (auto execution = executions_.find(exit.id()); execution != executions_.end()) {
      std::lock_guard one(execution->second->mutex);
      execution->second->code = exit.code();
      eventfd_write(execution->second->wake.get(), 1);
      return;
    }
    auto found = containers_.find(exit.id());
    if (found == containers_.end()) return;
    container = found->second;
  }
  ExitInfo info = Explain(*container, exit);
  {
    std::lock_guard lock(container->mutex);
    if (container->state == ProcessState::kExited) return;
    container->state = ProcessState::kExited;
    container->exit = info;
  }
  container->exited.notify_all();
  on_exit_(exit.id(), info);
}

absl::StatusOr<Sandbox> LeanRuntime::MakeNamespaces(const std::string& id, bool net, bool ipc, bool uts,
                                                    bool pid,
                                                    const std::map<std::string, std::string>& sysctls,
                                                    const IdMappings& uids, const IdMappings& gids,
                                                    uint32_t owner_uid) {
  monitor::Request request;
  monitor::CreateNamespaces* make = request.mutable_create_namespaces();
  make->set_id(id);
  make->set_net(net);
  make->set_ipc(ipc);
  make->set_uts(uts);
  make->set_pid(pid);
  make->set_owner_uid(owner_uid);
  for (const auto& [key, value] : sysctls) (*make->mutable_sysctls())[key] = value;
  for (auto [from, to] :
       {std::pair{&uids, make->mutable_uid_mappings()}, {&gids, make->mutable_gid_mappings()}})
    for (const oci::IdMapping& one : *from) {
      monitor::IdMapping* mapping = to->Add();
      mapping->set_container_id(one.container_id);
      mapping->set_host_id(one.host_id);
      mapping->set_size(one.size);
    }
  ASSIGN_OR_RETURN_AS(monitor::Answer answer, Call(request), "make the sandbox's namespaces");
  const bool user = !uids.empty();
  if (answer.fds.size() != static_cast<size_t>(net + ipc + uts + pid + user))
    return absl::InternalError("make the sandbox's namespaces: the monitor sent another number of them");
  Sandbox made;
  size_t next = 0;
  for (auto [asked, fd] :
       {std::pair{net, &made.net}, {ipc, &made.ipc}, {uts, &made.uts}, {pid, &made.pid}, {user, &made.user}})
    if (asked) *fd = std::move(answer.fds[next++]);
  return made;
}

// A namespace lives while a mount holds it (namespaces(7)): also when every process of ours has died.
absl::Status LeanRuntime::Pin(const std::string& id, const Sandbox& sandbox, Pins::Owner owner) {
  std::vector<std::pair<std::string, int>> namespaces;
  for (auto [kind, fd] : {std::pair{"net", &sandbox.net},
                          {"ipc", &sandbox.ipc},
                          {"uts", &sandbox.uts},
                          {"user", &sandbox.user}})
    if (fd->valid()) namespaces.emplace_back(kind, fd->get());
  return pins_->Add(id, namespaces, sandbox.ipc.valid() ? std::optional(owner) : std::nullopt);
}

void LeanRuntime::Unpin(const std::string& sandbox) {
  pins_->Remove(sandbox);
  if (access(NsDir(sandbox).c_str(), F_OK) < 0) return;  // with CNI only
  UnbindNamespace(NsDir(sandbox) + "/net").IgnoreError();
  RemoveTree(NsDir(sandbox)).IgnoreError();
}

absl::StatusOr<SandboxInfo> LeanRuntime::CreateSandbox(const SandboxSpec& spec) {
  RETURN_IF_ERROR(CheckId(spec.id, "sandbox id"));
  auto sandbox = std::make_shared<Sandbox>();
  std::string token;
  absl::Cleanup unprepare = [&] {
    if (!token.empty()) network_->Unprepare(token);
  };
  bool fresh = spec.host_network || spec.host_ipc || spec.shared_pid || !spec.sysctls.empty() ||
               !spec.uid_mappings.empty();
  SpareKind kind{spec.own_users && spec.uid_mappings.empty(), spec.zygote_id};
  SandboxInfo info;
  absl::Cleanup free_ids = [&] {
    if (!info.uid_mappings.empty()) ranges_.Free(info.uid_mappings[0].host_id);
  };
  IdMappings uids = spec.uid_mappings, gids = spec.gid_mappings;
  if (!fresh) {
    ASSIGN_OR_RETURN(SpareSandbox spare, TakeSpare(kind));
    if (kind.own_users) info.uid_mappings = info.gid_mappings = {{0, spare.first_id, IdRanges::kSize}};
    info.owner_uid = spare.owner_uid;
    sandbox->user = std::move(spare.user);
    sandbox->parked = std::move(spare.parked);
    sandbox->parked_zygote = std::move(spare.parked_zygote);
    sandbox->net = std::move(spare.net);
    sandbox->ipc = std::move(spare.ipc);
    sandbox->uts = std::move(spare.uts);
    sandbox->shm = std::move(spare.shm);
    token = std::move(spare.token);
    if (absl::Status renamed = pins_->Rename(spare.pins, spec.id); !renamed.ok()) {
      pins_->Remove(spare.pins);
      return renamed;
    }
  } else if (!spec.host_network || !spec.host_ipc || spec.shared_pid) {
    bool net = !spec.host_network, ipc = !spec.host_ipc;
    if (kind.own_users) {
      ASSIGN_OR_RETURN(uint32_t first, ranges_.Take());
      uids = gids = info.uid_mappings = info.gid_mappings = {{0, first, IdRanges::kSize}};
    }
    if (!uids.empty()) {
      std::lock_guard lock(pools_mutex_);
      if (auto owner = zygote_owners_.find(spec.zygote_id); owner != zygote_owners_.end())
        info.owner_uid = owner->second;
    }
    ASSIGN_OR_RETURN(*sandbox, MakeNamespaces(spec.id, net, ipc, net, spec.shared_pid, spec.sysctls, uids,
                                              gids, info.owner_uid));
  }
  absl::Cleanup undo = [&] {
    Unpin(spec.id);
    if (spec.shared_pid) Forget(spec.id).IgnoreError();
    ForgetParked(sandbox->parked, sandbox->parked_zygote).IgnoreError();
  };
  if (fresh) RETURN_IF_ERROR(Pin(spec.id, *sandbox, {RootOf(uids), RootOf(gids)}));
  if (sandbox->net.valid()) info.netns_path = NsDir(spec.id) + "/net";
  if (spec.network && sandbox->net.valid() && network_->NeedsPath()) {
    RETURN_IF_ERROR(MakeDirs(NsDir(spec.id), 0711));
    RETURN_IF_ERROR(BindNamespace(sandbox->net.get(), info.netns_path));
  }
  if (spec.network && sandbox->net.valid()) {
    PodNetworkRequest request = *spec.network;
    request.netns_path = info.netns_path;
    ASSIGN_OR_RETURN_AS(info.network, network_->Attach(request, sandbox->net.get(), token),
                        "set up the pod's network");
    token.clear();
  }
  std::move(undo).Cancel();
  std::move(free_ids).Cancel();
  std::unique_lock lock(mutex_);
  sandboxes_[spec.id] = std::move(sandbox);
  return info;
}

absl::Status LeanRuntime::StopSandbox(const SandboxSpec& spec, const SandboxInfo& info) {
  // It leaves the table last of all, and Recover puts in it whatever was recorded.
  absl::StatusOr<std::shared_ptr<Sandbox>> found = FindSandbox(spec.id);
  if (!found.ok()) return absl::OkStatus();
  std::string parked;
  {
    std::unique_lock lock(mutex_);
    parked = std::exchange((*found)->parked, "");
  }
  RETURN_IF_ERROR(ForgetParked(parked, (*found)->parked_zygote));
  std::vector<std::shared_ptr<Container>> inside;
  {
    std::shared_lock lock(mutex_);
    for (const auto& [id, container] : containers_)
      if (container->sandbox_id == spec.id) inside.push_back(container);
  }
  for (const auto& container : inside)
    RETURN_IF_ERROR(StopContainer(container->id, SIGKILL, milliseconds(0)));
  if (spec.network && !info.netns_path.empty()) {
    PodNetworkRequest request = *spec.network;
    request.netns_path = info.netns_path;
    RETURN_IF_ERROR_AS(network_->Detach(request, info.network.state), "take down the pod's network");
  }
  if (spec.shared_pid) RETURN_IF_ERROR(Forget(spec.id));
  Unpin(spec.id);
  std::unique_lock lock(mutex_);
  sandboxes_.erase(spec.id);
  return absl::OkStatus();
}

absl::Status LeanRuntime::RemoveSandbox(const SandboxSpec& spec, const SandboxInfo& info) {
  RETURN_IF_ERROR(StopSandbox(spec, info));
  if (!info.uid_mappings.empty()) ranges_.Free(info.uid_mappings[0].host_id);
  return absl::OkStatus();
}

absl::StatusOr<SandboxNamespaces> LeanRuntime::NamespacesOf(const ContainerSpec& spec) const {
  ASSIGN_OR_RETURN(std::shared_ptr<Sandbox> sandbox, FindSandbox(spec.sandbox_id));
  SandboxNamespaces namespaces;
  if (sandbox->user.valid()) {
    ASSIGN_OR_RETURN(namespaces.user, sandbox->user.Dup());
  }
  if (sandbox->net.valid()) {
    ASSIGN_OR_RETURN(namespaces.net, sandbox->net.Dup());
  }
  if (sandbox->ipc.valid()) {
    ASSIGN_OR_RETURN(namespaces.ipc, sandbox->ipc.Dup());
  }
  if (sandbox->uts.valid()) {
    ASSIGN_OR_RETURN(namespaces.uts, sandbox->uts.Dup());
  }
  if (!spec.host_ipc) {
    {
      std::unique_lock lock(mutex_);
      namespaces.shm = std::move(sandbox->shm);
    }
    if (!namespaces.shm.valid()) {
      ASSIGN_OR_RETURN(namespaces.shm, pins_->Shm(spec.sandbox_id));
    }
  }
  if (!spec.target_pid_container.empty()) {
    ASSIGN_OR_RETURN(std::shared_ptr<Container> target, FindContainer(spec.target_pid_container));
    ASSIGN_OR_RETURN(namespaces.pid, OpenPath(Cat("/proc/", target->process.pid, "/ns/pid"), O_RDONLY));
    if (HasExited(target->process))
      return absl::FailedPreconditionError(Cat("target container `", target->id, "` does not run"));
  } else if (spec.shared_pid && sandbox->pid.valid()) {
    ASSIGN_OR_RETURN(namespaces.pid, sandbox->pid.Dup());
  }
  return namespaces;
}

// A user namespace for every mapping that a mount asks for and the sandbox has not.
absl::Status LeanRuntime::MapMounts(const ContainerSpec& spec, SandboxNamespaces& namespaces) {
  for (const oci::Mount& mount : spec.spec.mounts) {
    const IdMappings &uids = mount.uid_mappings, &gids = mount.gid_mappings;
    if (uids.empty() && gids.empty()) continue;
    if (uids == spec.spec.uid_mappings && gids == spec.spec.gid_mappings) continue;
    auto same = [&](const auto& one) { return one.uids == uids && one.gids == gids; };
    if (std::any_of(namespaces.mapped.begin(), namespaces.mapped.end(), same)) continue;
    absl::StatusOr<Sandbox> made = MakeNamespaces(NewId(), false, false, false, false, {}, uids, gids);
    if (!made.ok()) return Annotate(made.status(), Cat("mounts[].uidMappings of `", mount.source, "`"));
    namespaces.mapped.push_back({uids, gids, std::move(made->user)});
  }
  return absl::OkStatus();
}

absl::StatusOr<Fd> LeanRuntime::OpenLog(const std::string& path) const {
  absl::StatusOr<Fd> log = OpenPath(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0640);
  if (!log.ok()) return Annotate(log.status(), "log_path");
  return log;
}

absl::StatusOr<ContainerInfo> LeanRuntime::CreateContainer(const ContainerSpec& spec) {
  if (!spec.fork) return BuildPlain(spec);
  absl::StatusOr<ContainerInfo> forked = Build(spec, &*spec.fork);
  switch (forked.status().code()) {
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kUnavailable:
      break;
    default:
      return forked;
  }
  absl::StatusOr<ContainerInfo> plain = BuildPlain(spec);
  if (plain.ok()) plain->not_forked = std::string(forked.status().message());
  return plain;
}

absl::StatusOr<ContainerInfo> LeanRuntime::BuildPlain(const ContainerSpec& spec) {
  absl::StatusOr<ContainerInfo> made = Build(spec, nullptr);
  // A monitor that dies takes the mounts with it that it was sent: they are prepared anew for the next one.
  for (int attempt = 1; absl::IsUnavailable(made.status()) && attempt < 5; ++attempt)
    made = Build(spec, nullptr);
  if (ErrnoOf(made.status()) != ELOOP) return made;
  ContainerSpec apart = spec;
  for (oci::Mount& mount : apart.spec.mounts) mount.options.push_back(kCloneApart);
  return Build(apart, nullptr);
}

absl::StatusOr<ContainerInfo> LeanRuntime::Build(const ContainerSpec& spec, const ForkRequest* fork) {
  RETURN_IF_ERROR(CheckId(spec.id, "container id"));
  auto begin = steady_clock::now();
  SandboxNamespaces namespaces;
  if (spec.zygote) {
    ASSIGN_OR_RETURN(Sandbox own, MakeNamespaces(NewId(), true, true, true, false, {}, {}, {}));
    namespaces.net = std::move(own.net);
    namespaces.ipc = std::move(own.ipc);
    namespaces.uts = std::move(own.uts);
  } else {
    ASSIGN_OR_RETURN(namespaces, NamespacesOf(spec));
    if (spec.spec.uid_mappings.empty()) namespaces.user.Reset();  // it runs in the node's
  }
  RETURN_IF_ERROR(MapMounts(spec, namespaces));
  Fd log;
  if (!spec.log_path.empty()) {
    ASSIGN_OR_RETURN(log, OpenLog(spec.log_path));
  }
  const std::string& cgroup = spec.spec.cgroups_path;
  absl::Cleanup remove_cgroup = [&] {
    cgroups_->KillAll(cgroup, kKillPatienceMs).IgnoreError();
    RemoveCgroup(spec.id, cgroup).IgnoreError();
  };
  // Noted before it is made: what no record names after a restart is removed.
  RETURN_IF_ERROR(WriteFileAtomic(CgroupNote(spec.id), cgroup, Durability::kProcess));
  RETURN_IF_ERROR_AS(cgroups_->Create(cgroup, spec.spec.resources), "create the container's cgroup");
  ASSIGN_OR_RETURN(CgroupEntry entry, cgroups_->Entry(cgroup));
  ASSIGN_OR_RETURN(PreparedPlan prepared, PrepareContainer(spec, namespaces, std::move(entry)));

  auto container = std::make_shared<Container>();
  container->id = spec.id;
  container->sandbox_id = spec.sandbox_id;
  container->cgroup_path = cgroup;
  container->log_path = spec.log_path;
  if (fork != nullptr) AsAfterExec(prepared.plan);
  container->plan = prepared.plan;
  container->prepare_ms = Since(begin);
  begin = steady_clock::now();

  monitor::Request request;
  monitor::Create* create = request.mutable_create();
  create->set_id(spec.id);
  create->set_sandbox_id(spec.sandbox_id);
  create->set_plan(prepared.plan.SerializeAsString());
  create->set_has_log(log.valid());
  create->set_stdin_open(spec.stdin_open);
  create->set_zygote(spec.zygote);
  ZygoteUse use;
  if (fork != nullptr) {
    ASSIGN_OR_RETURN(use, UseZygote(fork->zygote_id));
    ASSIGN_OR_RETURN(*create->mutable_fork(), ToFork(spec, *fork, prepared.plan));
  }
  std::vector<int> fds = Numbers(prepared.fds);
  if (log.valid()) fds.push_back(log.get());
  absl::Cleanup forget = [&] { Forget(spec.id).IgnoreError(); };
  absl::StatusOr<monitor::Answer> answer =
      Call(request, fds, fork != nullptr ? kForkPatience : milliseconds(0));
  if (!answer.ok()) {
    if (auto stats = cgroups_->Stats(cgroup); stats.ok() && stats->oom_kills > 0)
      return absl::ResourceExhaustedError("memory_limit is too small even to build the container");
    return ChildError(Annotate(answer.status(), "build the container"));
  }
  ASSIGN_OR_RETURN(container->process, OpenPid(answer->reply.pid()));
  container->build_ms = Since(begin);
  ContainerInfo info{container->process.pid, prepared.user, fork != nullptr, ""};
  if (fork != nullptr) {
    RETURN_IF_ERROR(CheckAlone(cgroup, *fork, info.pid));
  }
  {
    std::unique_lock lock(mutex_);
    containers_[spec.id] = std::move(container);
  }
  std::move(forget).Cancel();
  std::move(remove_cgroup).Cancel();
  return info;
}

absl::Status LeanRuntime::StartContainer(const std::string& id) {
  ASSIGN_OR_RETURN(std::shared_ptr<Container> container, FindContainer(id));
  {
    std::lock_guard lock(container->mutex);
    if (container->state != ProcessState::kCreated)
      return absl::FailedPreconditionError(Cat("container `", id, "` was started before or has ended"));
  }
  monitor::Request request;
  request.mutable_start()->set_id(id);
  absl::StatusOr<monitor::Answer> answer = Call(request);
  if (!answer.ok()) return ChildError(Annotate(answer.status(), "start the container"));
  std::lock_guard lock(container->mutex);
  if (container->state == ProcessState::kCreated) container->state = ProcessState::kRunning;
  return absl::OkStatus();
}

absl::Status LeanRuntime::StopContainer(const std::string& id, int signal, milliseconds grace) {
  absl::StatusOr<std::shared_ptr<Container>> found = FindContainer(id);
  if (!found.ok()) return absl::OkStatus();
  Container& container = **found;
  {
    std::unique_lock lock(container.mutex);
    auto ended = [&] { return container.state == ProcessState::kExited; };
    if (!ended() && grace.count() > 0) {
      lock.unlock();
      RETURN_IF_ERROR(SendSignal(container.process, signal));
      lock.lock();
      container.exited.wait_for(lock, grace, ended);
    }
  }
  // Also what the program left running where its PID namespace was not its own.
  absl::Status killed = cgroups_->KillAll(container.cgroup_path, kKillPatienceMs);
  if (!killed.ok() && !absl::IsNotFound(killed)) return Annotate(killed, Cat("stop container `", id, "`"));
  std::unique_lock lock(container.mutex);
  if (!container.exited.wait_for(lock, milliseconds(kKillPatienceMs),
                                 [&] { return container.state == ProcessState::kExited; }))
    return absl::DeadlineExceededError(
        Cat("stop container `", id, "`: it was killed, but its end was not told"));
  return absl::OkStatus();
}

absl::Status LeanRuntime::RemoveContainer(const std::string& id) {
  absl::StatusOr<std::shared_ptr<Container>> found = FindContainer(id);
  if (!found.ok()) return absl::OkStatus();
  RETURN_IF_ERROR(StopContainer(id, SIGKILL, milliseconds(0)));
  RETURN_IF_ERROR(Forget(id));
  RETURN_IF_ERROR(RemoveCgroup(id, (*found)->cgroup_path));
  std::unique_lock lock(mutex_);
  containers_.erase(id);
  return absl::OkStatus();
}

ContainerState LeanRuntime::State(const std::string& id) const {
  absl::StatusOr<std::shared_ptr<Container>> found = FindContainer(id);
  if (!found.ok()) return {};
  std::lock_guard lock((*found)->mutex);
  return {(*found)->state, (*found)->process.pid, (*found)->exit};
}

absl::StatusOr<ExecResult> LeanRuntime::ExecSync(const std::string& id, const ExecRequest& request) {
  ASSIGN_OR_RETURN(std::shared_ptr<Container> container, FindContainer(id));
  {
    std::lock_guard lock(container->mutex);
    if (container->state != ProcessState::kRunning)
      return absl::FailedPreconditionError(Cat("container `", id, "` does not run"));
  }
  ASSIGN_OR_RETURN(CgroupEntry entry, cgroups_->Entry(container->cgroup_path));
  absl::StatusOr<PreparedPlan> prepared =
      PrepareExec(container->plan, container->process, request.args, std::move(entry));
  if (absl::IsNotFound(prepared.status()))
    return absl::FailedPreconditionError(Cat("container `", id, "` has ended"));
  RETURN_IF_ERROR(prepared.status());

  const std::string exec_id = NewId();
  auto execution = std::make_shared<Execution>();
  execution->wake = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!execution->wake.valid()) return ErrnoStatus(errno, "make an eventfd");
  {
    std::unique_lock lock(mutex_);
    executions_[exec_id] = execution;
  }
  absl::Cleanup forget = [&] {
    Forget(exec_id).IgnoreError();
    std::unique_lock lock(mutex_);
    executions_.erase(exec_id);
  };
  monitor::Request call;
  call.mutable_exec()->set_id(exec_id);
  call.mutable_exec()->set_plan(prepared->plan.SerializeAsString());
  absl::StatusOr<monitor::Answer> answer = Call(call, Numbers(prepared->fds));
  if (!answer.ok()) return ChildError(Annotate(answer.status(), Cat("execute `", request.args[0], "`")));
  if (answer->fds.size() < 2) return absl::InternalError("execute: the monitor sent no output descriptors");
  absl::StatusOr<PidRef> process = OpenPid(answer->reply.pid());  // absent where it has ended already

  ExecResult result;
  std::string* outputs[2] = {&result.out, &result.err};
  for (int i = 0; i < 2; ++i) fcntl(answer->fds[static_cast<size_t>(i)].get(), F_SETFL, O_NONBLOCK);
  auto deadline = steady_clock::now() + request.timeout;
  // Reads what is there, of one that writes without end no more than a pipe holds; false at end of file.
  auto drain = [&](size_t i) {
    char buffer[65536];
    for (int reads = 0; reads < 16; ++reads) {
      ssize_t n = read(answer->fds[i].get(), buffer, sizeof buffer);
      if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return false;
      if (n < 0 && errno == EAGAIN) return true;
      if (n > 0)
        outputs[i]->append(buffer,
                           std::min(static_cast<size_t>(n), request.output_limit - outputs[i]->size()));
    }
    return true;
  };
  bool open[2] = {true, true};
  for (;;) {
    {
      std::lock_guard lock(execution->mutex);
      if (execution->code) {
        // What a process that it left behind may still write is not waited for.
        result.exit_code = *execution->code;
        break;
      }
      if (execution->lost)
        return absl::UnavailableError(
            Cat("command `", request.args[0], "` was ended: the monitor that ran it died"));
    }
    int wait = -1;
    if (request.timeout.count() > 0) {
      auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now()).count();
      if (left <= 0) {
        if (process.ok() && SendSignal(*process, SIGSTOP).ok() && !HasExited(*process))
          KillDescendants(*process);
        monitor::Request kill;
        kill.mutable_signal()->set_id(exec_id);
        kill.mutable_signal()->set_signal(SIGKILL);
        kill.mutable_signal()->set_group(true);
        Call(kill).status().IgnoreError();
        return absl::DeadlineExceededError(
            Cat("command `", request.args[0], "` timed out after ", request.timeout.count(), " ms"));
      }
      wait = static_cast<int>(left);
    }
    pollfd polls[3] = {{execution->wake.get(), POLLIN, 0},
                       {open[0] ? answer->fds[0].get() : -1, POLLIN, 0},
                       {open[1] ? answer->fds[1].get() : -1, POLLIN, 0}};
    if (poll(polls, 3, wait) < 0 && errno != EINTR) return ErrnoStatus(errno, "poll");
    for (size_t i = 0; i < 2; ++i)
      if (open[i] && polls[i + 1].revents) open[i] = drain(i);
  }
  for (size_t i = 0; i < 2; ++i)
    if (open[i]) drain(i);
  return result;
}

absl::Status LeanRuntime::UpdateResources(const std::string& id, const oci::Resources& resources) {
  ASSIGN_OR_RETURN(std::shared_ptr<Container> container, FindContainer(id));
  return cgroups_->Update(container->cgroup_path, resources);
}

absl::Status LeanRuntime::ReopenLog(const std::string& id) {
  ASSIGN_OR_RETURN(std::shared_ptr<Container> container, FindContainer(id));
  if (container->log_path.empty())
    return absl::FailedPreconditionError(Cat("container `", id, "` has no log"));
  ASSIGN_OR_RETURN(Fd log, OpenLog(container->log_path));
  monitor::Request request;
  request.mutable_reopen_log()->set_id(id);
  int fds[] = {log.get()};
  return Call(request, fds).status();
}

absl::StatusOr<CgroupStats> LeanRuntime::Stats(const std::string& id) const {
  ASSIGN_OR_RETURN(std::shared_ptr<Container> container, FindContainer(id));
  return cgroups_->Stats(container->cgroup_path);
}

absl::StatusOr<MemoryUse> LeanRuntime::Memory(const std::string& id) const {
  ASSIGN_OR_RETURN(std::shared_ptr<Container> container, FindContainer(id));
  ASSIGN_OR_RETURN(std::vector<pid_t> pids, cgroups_->Pids(container->cgroup_path));
  MemoryUse sum;
  for (const pid_t pid : pids)
    if (absl::StatusOr<MemoryUse> one = ReadMemoryUse(pid); one.ok()) sum += *one;
  return sum;
}

absl::StatusOr<std::vector<InterfaceStats>> LeanRuntime::NetworkStats(const std::string& sandbox_id) const {
  ASSIGN_OR_RETURN(std::shared_ptr<Sandbox> sandbox, FindSandbox(sandbox_id));
  if (!sandbox->net.valid()) return std::vector<InterfaceStats>();
  return ReadInterfaceStats(sandbox->net.get());
}

std::map<std::string, std::string> LeanRuntime::Verbose(const std::string& id) const {
  absl::StatusOr<std::shared_ptr<Container>> found = FindContainer(id);
  if (!found.ok()) return {};
  const Container& container = **found;
  return {{"pid", Cat(container.process.pid)},
          {"cgroup", container.cgroup_path},
          {"prepareMilliseconds", fmt::format("{:.2f}", container.prepare_ms)},
          {"buildMilliseconds", fmt::format("{:.2f}", container.build_ms)}};
}

absl::StatusOr<std::map<std::string, ContainerState>> LeanRuntime::Recover(const Known& known) {
  monitor::Request request;
  request.mutable_list();
  ASSIGN_OR_RETURN_AS(monitor::Answer answer, Call(request), "list what the monitor holds");
  std::map<std::string, const monitor::Entry*> entries;
  for (const monitor::Entry& entry : answer.reply.entries()) entries[entry.id()] = &entry;

  std::set<std::string> ours;
  for (const Known::Sandbox& one : known.sandboxes) {
    ours.insert(one.spec.id);
    auto sandbox = std::make_shared<Sandbox>();
    if (!one.info.uid_mappings.empty()) ranges_.Keep(one.info.uid_mappings[0].host_id);
    for (auto [kind, fd] : {std::pair{"net", &sandbox->net},
                            {"ipc", &sandbox->ipc},
                            {"uts", &sandbox->uts},
                            {"user", &sandbox->user}}) {
      if (absl::StatusOr<Fd> opened = pins_->Namespace(one.spec.id, kind); opened.ok())
        *fd = *std::move(opened);
    }
    if (auto init = entries.find(one.spec.id); one.spec.shared_pid && init != entries.end()) {
      if (absl::StatusOr<Fd> opened = OpenPath(Cat("/proc/", init->second->pid(), "/ns/pid"), O_RDONLY);
          opened.ok())
        sandbox->pid = *std::move(opened);
    }
    if (one.spec.network && sandbox->net.valid()) {
      PodNetworkRequest network = *one.spec.network;
      network.netns_path = one.info.netns_path;
      RETURN_IF_ERROR_AS(network_->Adopt(network, one.info.network.state), "adopt the pod's network");
    }
    std::unique_lock lock(mutex_);
    sandboxes_[one.spec.id] = std::move(sandbox);
  }

  std::map<std::string, ContainerState> states;
  for (const Known::Container& one : known.containers) {
    ours.insert(one.id);
    auto container = std::make_shared<Container>();
    container->id = one.id;
    container->sandbox_id = one.sandbox_id;
    container->cgroup_path = one.cgroup_path;
    container->log_path = one.log_path;
    auto found = entries.find(one.id);
    if (found == entries.end()) {
      // Its monitor is gone. What may still run of it is not known to be its main process: it is ended.
      cgroups_->KillAll(one.cgroup_path, kKillPatienceMs).IgnoreError();
      RemoveCgroup(one.id, one.cgroup_path).IgnoreError();
      states[one.id] = {};
      continue;
    }
    const monitor::Entry& entry = *found->second;
    if (!container->plan.ParseFromString(entry.plan()))
      return absl::DataLossError(Cat("the monitor's plan of container `", one.id, "` can't be read"));
    container->state = entry.started() ? ProcessState::kRunning : ProcessState::kCreated;
    if (entry.has_exit()) {
      container->state = ProcessState::kExited;
      container->exit = Explain(*container, entry.exit());
    } else {
      absl::StatusOr<PidRef> process = OpenPid(entry.pid(), entry.start_time());
      // Where it has ended since, its exit is told when exits are delivered.
      if (process.ok()) container->process = *std::move(process);
    }
    states[one.id] = {container->state, entry.pid(), container->exit};
    std::unique_lock lock(mutex_);
    containers_[one.id] = std::move(container);
  }

  std::error_code ignored;
  std::vector<std::string> noted;
  for (const auto& note : std::filesystem::directory_iterator(options_.state_dir + "/cgroups", ignored))
    if (std::string id = note.path().filename().string(); !ours.contains(id)) noted.push_back(id);
  for (const auto& [id, entry] : entries)
    if (!ours.contains(id)) Forget(id).IgnoreError();
  for (const std::string& id : noted) {
    absl::StatusOr<std::string> cgroup = ReadFile(CgroupNote(id));
    // A note that was cut short must not name what lies above.
    if (cgroup.ok() && cgroup->ends_with("/" + id)) {
      cgroups_->KillAll(*cgroup, kKillPatienceMs).IgnoreError();
      if (!RemoveCgroup(id, *cgroup).ok()) continue;  // tried again at the next start
    }
    unlink(CgroupNote(id).c_str());
  }
  RETURN_IF_ERROR(network_->RemoveOrphans());  // while their namespaces are there for plugins
  std::vector<std::string> pinned = pins_->List();
  for (const auto& dir : std::filesystem::directory_iterator(options_.state_dir + "/ns", ignored))
    pinned.push_back(dir.path().filename().string());
  for (const std::string& id : pinned)
    if (!ours.contains(id)) Unpin(id);

  {
    std::lock_guard lock(link_mutex_);
    recovered_ = true;
    if (client_) client_->Deliver();
  }
  // Nothing is wired ahead before what lives has been adopted.
  StartPool({}, options_.spare_sandboxes);
  StartPool({.own_users = true}, options_.spare_sandboxes);
  return states;
}

absl::StatusOr<std::unique_ptr<Runtime>> Runtime::Open(
    RuntimeOptions options, std::function<void(const std::string& id, const ExitInfo&)> on_exit) {
  auto runtime = std::make_unique<LeanRuntime>(std::move(options), std::move(on_exit));
  RETURN_IF_ERROR(runtime->Start());
  return runtime;
}

}  // namespace sock::runtime
