#include <fcntl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/capability.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cctype>
#include <string>

#include "absl/strings/numbers.h"
#include "runtime/base/channel.h"
#include "runtime/base/path.h"
#include "runtime/base/pidref.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/container/container.h"
#include "runtime/container/mounts.h"
#include "runtime/container/seccomp.h"
#include "runtime/container/user.h"

namespace sock::runtime {
namespace {

int Keep(PreparedPlan& prepared, Fd fd) {
  prepared.fds.push_back(std::move(fd));
  return static_cast<int>(prepared.fds.size()) - 1;
}

absl::StatusOr<uint64_t> CapabilityMask(const std::vector<std::string>& names) {
  uint64_t mask = 0;
  for (const std::string& name : names) {
    std::string lower = name;
    for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    cap_value_t value = 0;
    if (cap_from_name(lower.c_str(), &value) < 0 || value < 0 || value > 63)
      return absl::InvalidArgumentError(Cat("capabilities: `", name, "` is not known"));
    mask |= uint64_t{1} << value;
  }
  return mask;
}

absl::StatusOr<int> RlimitNumber(const std::string& name) {
  static constexpr struct {
    const char* name;
    int value;
  } kNames[] = {{"RLIMIT_AS", RLIMIT_AS},
                {"RLIMIT_CORE", RLIMIT_CORE},
                {"RLIMIT_CPU", RLIMIT_CPU},
                {"RLIMIT_DATA", RLIMIT_DATA},
                {"RLIMIT_FSIZE", RLIMIT_FSIZE},
                {"RLIMIT_LOCKS", RLIMIT_LOCKS},
                {"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK},
                {"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE},
                {"RLIMIT_NICE", RLIMIT_NICE},
                {"RLIMIT_NOFILE", RLIMIT_NOFILE},
                {"RLIMIT_NPROC", RLIMIT_NPROC},
                {"RLIMIT_RSS", RLIMIT_RSS},
                {"RLIMIT_RTPRIO", RLIMIT_RTPRIO},
                {"RLIMIT_RTTIME", RLIMIT_RTTIME},
                {"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING},
                {"RLIMIT_STACK", RLIMIT_STACK}};
  for (const auto& known : kNames)
    if (name == known.name) return known.value;
  return absl::InvalidArgumentError(Cat("rlimits: `", name, "` is not known"));
}

bool HasVariable(const Plan& plan, std::string_view name) {
  return std::any_of(plan.env().begin(), plan.env().end(), [&](const std::string& entry) {
    return entry.size() > name.size() && entry.starts_with(name) && entry[name.size()] == '=';
  });
}

// The user namespace that `mount` is idmapped by; -1: none.
absl::StatusOr<int> UserNsOf(const oci::Mount& mount, const oci::Spec& spec,
                             const SandboxNamespaces& namespaces) {
  if (mount.uid_mappings.empty() && mount.gid_mappings.empty()) return -1;
  if (namespaces.user.valid() && mount.uid_mappings == spec.uid_mappings &&
      mount.gid_mappings == spec.gid_mappings)
    return namespaces.user.get();
  for (const SandboxNamespaces::Mapped& one : namespaces.mapped)
    if (mount.uid_mappings == one.uids && mount.gid_mappings == one.gids) return one.user.get();
  return absl::InternalError(
      Cat("mounts[].uidMappings: no user namespace was made for `", mount.source, "`"));
}

// Options of file systems (devpts's group of terminals) mean ids as the mounter counts them: the host's root.
// An id that isn't mapped stays nobody's.
void MapIds(const oci::Spec& spec, PlanMount& mount) {
  for (std::string& option : *mount.mutable_options()) {
    const bool gid = option.starts_with("gid=");
    uint32_t id = 0;
    if ((!gid && !option.starts_with("uid=")) || !absl::SimpleAtoi(option.substr(4), &id)) continue;
    absl::StatusOr<uint32_t> host = HostId(gid ? spec.gid_mappings : spec.uid_mappings, id, "option");
    if (host.ok()) option = Cat(option.substr(0, 4), *host);
  }
}

// What a container's first process and a further one have in common.
bool HasZero(const std::string& text) { return text.find('\0') != std::string::npos; }

absl::Status CheckArgs(const char* field, const std::vector<std::string>& args) {
  if (args.empty() || args[0].empty()) return absl::InvalidArgumentError(Cat(field, ": must not be empty"));
  if (std::any_of(args.begin(), args.end(), HasZero))
    return absl::InvalidArgumentError(Cat(field, ": a zero byte in an argument"));
  return absl::OkStatus();
}

void KeepCgroup(PreparedPlan& prepared, CgroupEntry cgroup) {
  for (Fd& fd : cgroup.procs) prepared.plan.add_cgroup_procs(Keep(prepared, std::move(fd)));
  if (cgroup.unified.valid()) prepared.plan.set_cgroup_unified(Keep(prepared, std::move(cgroup.unified)));
}

absl::Status PrepareProcess(const ContainerSpec& container, const oci::User& user, const std::string& home,
                            CgroupEntry cgroup, PreparedPlan& prepared) {
  const oci::Process& process = container.spec.process;
  Plan& plan = prepared.plan;
  const std::vector<std::string>& args = process.args;
  RETURN_IF_ERROR(CheckArgs("process.args", args));
  if (std::any_of(process.env.begin(), process.env.end(), HasZero))
    return absl::InvalidArgumentError("process.env: a zero byte in a variable");
  std::string cwd = process.cwd.empty() ? "/" : process.cwd;
  if (!cwd.starts_with('/'))
    return absl::InvalidArgumentError(Cat("process.cwd: `", cwd, "` is not an absolute path"));
  if (!container.spec.uid_mappings.empty()) {
    ASSIGN_OR_RETURN(uint32_t host_uid, HostId(container.spec.uid_mappings, user.uid, "user"));
    plan.set_host_uid(host_uid);
    RETURN_IF_ERROR(HostId(container.spec.gid_mappings, user.gid, "group").status());
    for (uint32_t gid : user.additional_gids)
      RETURN_IF_ERROR(HostId(container.spec.gid_mappings, gid, "supplemental group").status());
  }
  KeepCgroup(prepared, std::move(cgroup));
  *plan.mutable_args() = {args.begin(), args.end()};
  *plan.mutable_env() = {process.env.begin(), process.env.end()};
  if (!HasVariable(plan, "HOME")) plan.add_env("HOME=" + home);
  plan.set_cwd(cwd);
  plan.set_uid(user.uid);
  plan.set_gid(user.gid);
  *plan.mutable_groups() = {user.additional_gids.begin(), user.additional_gids.end()};
  plan.set_umask(user.umask.value_or(process.user.umask.value_or(022)));
  prepared.user = user;
  for (const oci::Rlimit& limit : process.rlimits) {
    PlanRlimit* entry = plan.add_rlimits();
    ASSIGN_OR_RETURN(int resource, RlimitNumber(limit.type));
    entry->set_resource(resource);
    entry->set_soft(limit.soft);
    entry->set_hard(limit.hard);
  }
  if (process.oom_score_adj) plan.set_oom_score_adj(*process.oom_score_adj);
  plan.set_no_new_privileges(process.no_new_privileges);
  plan.set_apparmor_profile(process.apparmor_profile);

  ASSIGN_OR_RETURN(uint64_t bounding, CapabilityMask(process.capabilities.bounding));
  ASSIGN_OR_RETURN(uint64_t effective, CapabilityMask(process.capabilities.effective));
  ASSIGN_OR_RETURN(uint64_t permitted, CapabilityMask(process.capabilities.permitted));
  ASSIGN_OR_RETURN(uint64_t inheritable, CapabilityMask(process.capabilities.inheritable));
  ASSIGN_OR_RETURN(uint64_t ambient, CapabilityMask(process.capabilities.ambient));
  plan.set_cap_bounding(bounding);
  plan.set_cap_effective(effective & permitted);
  plan.set_cap_permitted(permitted);
  plan.set_cap_inheritable(inheritable);
  plan.set_cap_ambient(ambient);

  if (container.spec.seccomp) {
#ifdef CRI_SOCK_NO_SECCOMP
    return absl::UnimplementedError("seccomp: this build has no filter compiler");
#else
    ASSIGN_OR_RETURN(*plan.mutable_seccomp(), CompileSeccomp(*container.spec.seccomp));
    uint32_t flags = 0;
    for (const std::string& flag : container.spec.seccomp->flags) {
      if (flag == "SECCOMP_FILTER_FLAG_LOG") flags |= SECCOMP_FILTER_FLAG_LOG;
      if (flag == "SECCOMP_FILTER_FLAG_SPEC_ALLOW") flags |= SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    }
    plan.set_seccomp_flags(flags);
#endif
  }
  if (prepared.fds.size() > kMaxMessageFds)
    return absl::ResourceExhaustedError(Cat("mounts: ", prepared.fds.size(), " descriptors are too many"));
  return absl::OkStatus();
}

absl::Status AddDevice(const oci::Device& device, const oci::Spec& spec, Plan& plan) {
  if (!device.path.starts_with('/') || device.path.ends_with('/'))
    return absl::InvalidArgumentError(
        Cat("devices[].container_path: `", device.path, "` is not an absolute path"));
  int64_t major_number = device.major, minor_number = device.minor;
  mode_t type = device.type == 'b' ? S_IFBLK : device.type == 'p' ? S_IFIFO : S_IFCHR;
  if (major_number == 0 && minor_number == 0 && !device.host_path.empty()) {
    struct stat st;
    if (stat(device.host_path.c_str(), &st) < 0) {
      absl::Status status = ErrnoStatus(errno, Cat("devices[].host_path `", device.host_path, "`"));
      return errno == ENOENT ? WithCode(status, absl::StatusCode::kNotFound) : status;
    }
    if (!S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode))
      return absl::InvalidArgumentError(Cat("devices[].host_path: `", device.host_path, "` is not a device"));
    type = st.st_mode & S_IFMT;
    major_number = major(st.st_rdev);
    minor_number = minor(st.st_rdev);
  }
  PlanDevice* entry = plan.add_devices();
  entry->set_path(device.path);
  entry->set_mode(type | (device.file_mode & 07777));
  entry->set_major_number(static_cast<uint32_t>(major_number));
  entry->set_minor_number(static_cast<uint32_t>(minor_number));
  entry->set_uid(device.uid);
  entry->set_gid(device.gid);
  if (!spec.uid_mappings.empty()) {
    ASSIGN_OR_RETURN(uint32_t uid, HostId(spec.uid_mappings, device.uid, "owner of a device"));
    ASSIGN_OR_RETURN(uint32_t gid, HostId(spec.gid_mappings, device.gid, "group of a device"));
    entry->set_uid(uid);
    entry->set_gid(gid);
  }
  entry->set_host_path(device.host_path);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<uint32_t> HostId(const std::vector<oci::IdMapping>& mappings, uint32_t id,
                                std::string_view what) {
  for (const oci::IdMapping& mapping : mappings)
    if (id >= mapping.container_id && id - mapping.container_id < mapping.size)
      return mapping.host_id + (id - mapping.container_id);
  return absl::InvalidArgumentError(Cat(what, " ", id, " is not mapped in the pod's user namespace"));
}

absl::StatusOr<PreparedPlan> PrepareContainer(const ContainerSpec& spec, const SandboxNamespaces& namespaces,
                                              CgroupEntry cgroup) {
  const oci::Spec& wanted = spec.spec;
  if (namespaces.user.valid() == wanted.uid_mappings.empty() ||
      wanted.uid_mappings.empty() != wanted.gid_mappings.empty())
    return absl::InternalError("user namespace: namespace and mappings do not come together");
  PreparedPlan prepared;
  Plan& plan = prepared.plan;
  ASSIGN_OR_RETURN(Fd root, MountRootfs(spec.rootfs, namespaces.user.get()));
  ASSIGN_OR_RETURN(ResolvedUser user, ResolveUser(root.get(), spec.user));
  plan.set_root(Keep(prepared, std::move(root)));
  plan.set_root_readonly(spec.spec.root_readonly);
  plan.set_root_nosuid(spec.zygote);

  plan.set_clone_flags(CLONE_NEWNS);
  plan.set_new_cgroup_ns(true);
  struct {
    const Fd& fd;
    void (Plan::*set)(int32_t);
  } const joins[] = {{namespaces.net, &Plan::set_net_ns},
                     {namespaces.ipc, &Plan::set_ipc_ns},
                     {namespaces.uts, &Plan::set_uts_ns},
                     {namespaces.pid, &Plan::set_join_pid_ns_fd}};
  for (const auto& join : joins) {
    if (!join.fd.valid()) continue;
    ASSIGN_OR_RETURN(Fd copy, join.fd.Dup());
    (plan.*join.set)(Keep(prepared, std::move(copy)));
  }
  if (!namespaces.pid.valid() && !spec.host_pid) plan.set_clone_flags(CLONE_NEWNS | CLONE_NEWPID);
  if (namespaces.user.valid()) {
    ASSIGN_OR_RETURN(Fd user_ns, namespaces.user.Dup());
    plan.set_user_ns(Keep(prepared, std::move(user_ns)));
    ASSIGN_OR_RETURN(uint32_t root_uid, HostId(wanted.uid_mappings, 0, "root"));
    ASSIGN_OR_RETURN(uint32_t root_gid, HostId(wanted.gid_mappings, 0, "root's group"));
    plan.set_host_root_uid(root_uid);
    plan.set_host_root_gid(root_gid);
  }
  if (namespaces.uts.valid()) plan.set_hostname(spec.spec.hostname);

  for (const oci::Mount& mount : spec.spec.mounts) {
    Fd tree;
    if (mount.type == "bind" && mount.source == kSandboxShm && namespaces.shm.valid()) {
      ASSIGN_OR_RETURN(tree, namespaces.shm.Dup());
    }
    PlanMount* entry = plan.add_mounts();
    ASSIGN_OR_RETURN(int user_ns, UserNsOf(mount, wanted, namespaces));
    RETURN_IF_ERROR(PrepareMount(mount, user_ns, *entry, tree));
    if (namespaces.user.valid()) MapIds(wanted, *entry);
    if (tree.valid()) entry->set_fd(Keep(prepared, std::move(tree)));
    if (entry->target() == "/dev") plan.set_populate_dev(entry->type() == "tmpfs");
  }
  if (plan.populate_dev()) {
    static constexpr struct {
      const char* path;
      int major_number, minor_number;
    } kDevices[] = {{"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
                    {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};
    for (const auto& device : kDevices)
      RETURN_IF_ERROR(
          AddDevice({device.path, 'c', device.major_number, device.minor_number, 0666, 0, 0, device.path},
                    wanted, plan));
  }
  for (const oci::Device& device : wanted.devices) RETURN_IF_ERROR(AddDevice(device, wanted, plan));
  for (const auto& [name, value] : spec.spec.sysctl) {
    PlanSysctl* entry = plan.add_sysctls();
    std::string path = name;
    if (path.find('/') == std::string::npos) std::replace(path.begin(), path.end(), '.', '/');
    if (path.find("..") != std::string::npos || path.empty())
      return absl::InvalidArgumentError(Cat("sysctls: `", name, "` is not a sysctl"));
    entry->set_path("/proc/sys/" + path);
    entry->set_value(value);
  }
  *plan.mutable_masked_paths() = {spec.spec.masked_paths.begin(), spec.spec.masked_paths.end()};
  *plan.mutable_readonly_paths() = {spec.spec.readonly_paths.begin(), spec.spec.readonly_paths.end()};
  plan.set_terminal(spec.spec.process.terminal);
  RETURN_IF_ERROR(PrepareProcess(spec, user.user, user.home, std::move(cgroup), prepared));
  return prepared;
}

absl::StatusOr<PreparedPlan> PrepareExec(const Plan& container, const PidRef& process,
                                         const std::vector<std::string>& args, CgroupEntry cgroup) {
  RETURN_IF_ERROR(CheckArgs("cmd", args));
  PreparedPlan prepared;
  Plan& plan = prepared.plan = container;
  plan.clear_clone_flags();
  plan.clear_join_pid_ns_fd();
  plan.clear_cgroup_unified();
  plan.clear_cgroup_procs();
  plan.clear_net_ns();
  plan.clear_ipc_ns();
  plan.clear_uts_ns();
  plan.clear_user_ns();
  plan.clear_new_cgroup_ns();
  plan.clear_hostname();
  plan.clear_root();
  plan.clear_root_readonly();
  plan.clear_mounts();
  plan.clear_devices();
  plan.clear_populate_dev();
  plan.clear_sysctls();
  plan.clear_masked_paths();
  plan.clear_readonly_paths();
  plan.clear_terminal();
  *plan.mutable_args() = {args.begin(), args.end()};
  // The namespace is the right process's if that lives still after it was opened.
  absl::StatusOr<Fd> pid_ns = OpenPath(Cat("/proc/", process.pid, "/ns/pid"), O_RDONLY);
  if (HasExited(process)) return absl::NotFoundError(Cat("process ", process.pid, " has exited"));
  RETURN_IF_ERROR(pid_ns.status());
  ASSIGN_OR_RETURN(Fd pidfd, process.pidfd.Dup());
  plan.set_join_pid_ns_fd(Keep(prepared, *std::move(pid_ns)));
  plan.set_join_pidfd(Keep(prepared, std::move(pidfd)));
  plan.set_join_flags(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP |
                      (container.has_user_ns() ? CLONE_NEWUSER : 0));
  KeepCgroup(prepared, std::move(cgroup));
  return prepared;
}

}  // namespace sock::runtime
