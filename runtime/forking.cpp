#include <sys/stat.h>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "runtime/base/ids.h"
#include "runtime/lean_runtime.h"

namespace sock::runtime {

void AsAfterExec(Plan& plan) {
  const uint64_t permitted = plan.uid() == 0
                                 ? plan.cap_bounding() | plan.cap_inheritable() | plan.cap_ambient()
                                 : plan.cap_ambient();
  plan.set_cap_permitted(permitted);
  plan.set_cap_effective(permitted);
}

absl::StatusOr<monitor::Fork> LeanRuntime::ToFork(const ContainerSpec& spec, const ForkRequest& fork,
                                                  const Plan& plan) {
  monitor::Fork out;
  out.set_zygote_id(fork.zygote_id);
  out.set_confined(fork.confined);
  out.set_parked_id(TakeParked(spec.sandbox_id, fork.zygote_id));
  const IdMappings &uids = spec.spec.uid_mappings, &gids = spec.spec.gid_mappings;
  ASSIGN_OR_RETURN(uint32_t uid, HostId(uids, plan.uid(), "user"));
  ASSIGN_OR_RETURN(uint32_t gid, HostId(gids, plan.gid(), "group"));
  out.set_host_uid(uid);
  out.set_host_gid(gid);
  Fields become("become");
  become.Add("uid", plan.uid()).Add("gid", plan.gid()).Add("umask", plan.umask());
  for (uint32_t group : plan.groups()) {
    ASSIGN_OR_RETURN(uint32_t host, HostId(gids, group, "supplemental group"));
    out.add_host_groups(host);
    become.Add("group", group);
  }
  for (auto [name, set] : {std::pair{"cap_bounding", plan.cap_bounding()},
                           {"cap_permitted", plan.cap_permitted()},
                           {"cap_effective", plan.cap_effective()},
                           {"cap_inheritable", plan.cap_inheritable()},
                           {"cap_ambient", plan.cap_ambient()}})
    become.Add(name, fmt::format("{:016x}", set));
  if (plan.no_new_privileges()) become.Add("no_new_privs", 1);
  if (!plan.seccomp().empty())
    become.Add("seccomp", absl::BytesToHexString(plan.seccomp())).Add("seccomp_flags", plan.seccomp_flags());
  become.Add("cwd", plan.cwd());
  for (const std::string& variable : plan.env()) become.Add("env", variable);
  for (const auto& [name, value] : fork.program.list())
    if (name != "op") become.Add(name, value);
  ASSIGN_OR_RETURN(*out.mutable_become(), become.Serialize());
  return out;
}

// One hierarchy is enough: in each, whom the process may have made is in its Zygote's cgroup or in the
// container's, which are the only ones that it was ever let into.
absl::Status LeanRuntime::CheckAlone(const std::string& cgroup, const ForkRequest& fork, pid_t pid) const {
  ASSIGN_OR_RETURN(std::vector<pid_t> inside, cgroups_->PidsOfFirst(cgroup));
  if (inside != std::vector<pid_t>{pid})
    return absl::AbortedError(
        Cat("the container's cgroup holds ", inside.size(), " processes before its start"));
  absl::StatusOr<std::shared_ptr<Container>> zygote = FindContainer(fork.zygote_id);
  if (!zygote.ok()) return absl::AbortedError("its Zygote ended meanwhile");
  ASSIGN_OR_RETURN(std::vector<pid_t> others, cgroups_->PidsOfFirst((*zygote)->cgroup_path));
  struct stat own, other;
  if (stat(Cat("/proc/", pid, "/ns/pid").c_str(), &own) < 0)
    return absl::AbortedError("the forked process has ended");
  for (const pid_t one : others)
    if (stat(Cat("/proc/", one, "/ns/pid").c_str(), &other) == 0 && other.st_ino == own.st_ino)
      return absl::AbortedError("the forked process has left another process in its PID namespace");
  return absl::OkStatus();
}

// Once the process that waits in the sandbox is not the one that is wanted, it ends.
std::string LeanRuntime::TakeParked(const std::string& sandbox_id, const std::string& zygote_id) {
  absl::StatusOr<std::shared_ptr<Sandbox>> sandbox = FindSandbox(sandbox_id);
  if (!sandbox.ok()) return "";
  std::string parked, of;
  {
    std::unique_lock lock(mutex_);
    parked = std::exchange((*sandbox)->parked, "");
    of = (*sandbox)->parked_zygote;
  }
  if (parked.empty() || of == zygote_id) return parked;
  ForgetParked(parked, of).IgnoreError();
  return "";
}

void LeanRuntime::Unpark(const std::string& sandbox_id) { TakeParked(sandbox_id, ""); }

absl::Status LeanRuntime::ForgetParked(const std::string& parked, const std::string& zygote_id) {
  if (parked.empty()) return absl::OkStatus();
  absl::StatusOr<ZygoteUse> use = UseZygote(zygote_id);  // a frozen process of cgroup v1 does not die
  return Forget(parked);
}

absl::StatusOr<ZygoteUse> LeanRuntime::UseZygote(const std::string& id) const {
  absl::StatusOr<std::shared_ptr<Container>> zygote = FindContainer(id);
  if (!zygote.ok()) return absl::AbortedError("its Zygote is gone");
  Container& one = **zygote;
  std::lock_guard lock(one.use_mutex);
  if (one.frozen) {
    absl::Status thawed = cgroups_->Freeze(one.cgroup_path, false);
    if (!thawed.ok()) return absl::AbortedError(std::string(thawed.message()));
    one.frozen = false;
  }
  ++one.uses;
  return ZygoteUse(*std::move(zygote));
}

absl::Status LeanRuntime::FreezeZygote(const std::string& id) {
  ASSIGN_OR_RETURN(std::shared_ptr<Container> zygote, FindContainer(id));
  std::lock_guard lock(zygote->use_mutex);
  if (zygote->uses > 0) return absl::FailedPreconditionError(Cat("Zygote `", id, "` is in use"));
  if (zygote->frozen) return absl::OkStatus();
  RETURN_IF_ERROR(cgroups_->Freeze(zygote->cgroup_path, true));
  zygote->frozen = true;
  return absl::OkStatus();
}

absl::StatusOr<Fields> LeanRuntime::CallZygote(const std::string& id, const Fields& request,
                                               milliseconds timeout) {
  ASSIGN_OR_RETURN(ZygoteUse use, UseZygote(id));
  monitor::Request call;
  call.mutable_call_zygote()->set_id(id);
  ASSIGN_OR_RETURN(*call.mutable_call_zygote()->mutable_fields(), request.Serialize());
  ASSIGN_OR_RETURN(monitor::Answer answer, Call(call, {}, timeout));
  return Fields::Parse(answer.reply.fields());
}

absl::StatusOr<SpareSandbox> LeanRuntime::MakeSpare(const SpareKind& kind) {
  SpareSandbox spare;
  spare.owner_uid = kind.owner_uid;
  IdMappings ids;
  absl::Cleanup undo = [&] { DiscardSpare(std::move(spare)); };
  if (kind.own_users) {
    ASSIGN_OR_RETURN(spare.first_id, ranges_.Take());
    ids = {{0, spare.first_id, IdRanges::kSize}};
  }
  ASSIGN_OR_RETURN(Sandbox made,
                   MakeNamespaces(NewId(), true, true, true, false, {}, ids, ids, kind.owner_uid));
  const std::string pins = NewId();
  RETURN_IF_ERROR(Pin(pins, made, {spare.first_id, spare.first_id}));
  spare.pins = pins;
  ASSIGN_OR_RETURN(spare.shm, pins_->Shm(spare.pins));
  spare.user = std::move(made.user);
  spare.net = std::move(made.net);
  spare.ipc = std::move(made.ipc);
  spare.uts = std::move(made.uts);
  // A failure here shows where it matters: Attach makes what is missing, or tells why it can't.
  if (absl::StatusOr<std::string> token = network_->Prepare(spare.net.get()); token.ok())
    spare.token = *std::move(token);
  if (!kind.zygote_id.empty()) {
    monitor::Request park;
    const std::string id = NewId();
    park.mutable_park()->set_id(id);
    park.mutable_park()->set_zygote_id(kind.zygote_id);
    const int fds[] = {spare.user.get(), spare.net.get(), spare.ipc.get(), spare.uts.get()};
    spare.parked_zygote = kind.zygote_id;
    absl::StatusOr<ZygoteUse> use = UseZygote(kind.zygote_id);
    // Without one the sandbox serves as well: the process is forked when it is asked for.
    if (use.ok() && Call(park, fds, kForkPatience).ok())
      spare.parked = id;
    else
      Forget(id).IgnoreError();
  }
  std::move(undo).Cancel();
  return spare;
}

void LeanRuntime::DiscardSpare(SpareSandbox spare) {
  ForgetParked(spare.parked, spare.parked_zygote).IgnoreError();
  if (!spare.token.empty()) network_->Unprepare(spare.token);
  if (!spare.pins.empty()) pins_->Remove(spare.pins);
  if (spare.first_id != 0) ranges_.Free(spare.first_id);
}

absl::StatusOr<SpareSandbox> LeanRuntime::TakeSpare(const SpareKind& kind) {
  std::shared_ptr<SparePool> pool, blank;
  SpareKind wanted = kind;
  {
    std::lock_guard lock(pools_mutex_);
    if (auto owner = zygote_owners_.find(kind.zygote_id); owner != zygote_owners_.end())
      wanted.owner_uid = owner->second;
    else
      wanted.zygote_id.clear();  // it has ended meanwhile
    if (auto found = pools_.find(PoolOf(wanted)); found != pools_.end()) pool = found->second;
  }
  SpareSandbox spare;
  if (pool && pool->Take(spare)) return spare;
  return MakeSpare(wanted);
}

void LeanRuntime::StartPool(const SpareKind& kind, int size) {
  auto pool = std::make_shared<SparePool>(
      size, [this, kind] { return MakeSpare(kind); },
      [this](SpareSandbox spare) { DiscardSpare(std::move(spare)); });
  std::lock_guard lock(pools_mutex_);
  pools_[PoolOf(kind)] = std::move(pool);
}

void LeanRuntime::KeepParked(const std::string& zygote_id, uint32_t owner_uid, int count) {
  {
    std::lock_guard lock(pools_mutex_);
    zygote_owners_[zygote_id] = owner_uid;
  }
  StartPool({true, zygote_id, owner_uid}, count);
}

void LeanRuntime::ResizeParked(const std::string& zygote_id, int count) {
  std::lock_guard lock(pools_mutex_);
  if (auto pool = pools_.find(PoolOf({true, zygote_id, 0})); pool != pools_.end())
    pool->second->Resize(count);
}

void LeanRuntime::DropParked(const std::string& zygote_id) {
  std::shared_ptr<SparePool> old;  // ends without the lock: its thread may be making one
  std::lock_guard lock(pools_mutex_);
  if (auto node = pools_.extract(PoolOf({true, zygote_id, 0}))) old = std::move(node.mapped());
  zygote_owners_.erase(zygote_id);
}

size_t LeanRuntime::CountParked(const std::string& zygote_id) const {
  std::lock_guard lock(pools_mutex_);
  auto pool = pools_.find(PoolOf({true, zygote_id, 0}));
  return pool == pools_.end() ? 0 : pool->second->ready();
}

}  // namespace sock::runtime
