#include "runtime/container/seccomp_profile.h"

#include <linux/sched.h>
#include <sys/socket.h>

#include <algorithm>
#include <bitset>
#include <cerrno>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>
#include <unordered_map>

#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime {
namespace {

using Json = nlohmann::json;

#if defined(__x86_64__)
constexpr const char* kArch = "amd64";
const std::vector<std::string> kArchitectures = {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"};
#elif defined(__aarch64__)
constexpr const char* kArch = "arm64";
const std::vector<std::string> kArchitectures = {"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"};
#else
constexpr const char* kArch = "";
const std::vector<std::string> kArchitectures;
#endif

// What every container may call, by subject.
constexpr const char* kAllowed =
    // files and directories
    "access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat "
    "faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat "
    "fcntl fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 "
    "fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat "
    "ioctl lchown lchown32 lgetxattr link linkat listxattr listxattrat llistxattr _llseek lremovexattr "
    "lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat "
    "openat2 read readahead readlink readlinkat readv pread64 preadv preadv2 pwrite64 pwritev pwritev2 "
    "removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat "
    "splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range sync_file_range2 "
    "arm_sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat "
    "utimensat_time64 utimes vmsplice write writev cachestat file_getattr file_setattr "
    // waiting and events
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old "
    "eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel "
    "io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect pipe pipe2 "
    "poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4 "
    // memory
    "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock "
    "mlock2 mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free "
    "pkey_mprotect process_mrelease remap_file_pages "
    // processes, threads, ids
    "alarm arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 "
    "futex_wait futex_waitv futex_wake get_robust_list get_thread_area getcpu getegid getegid32 geteuid "
    "geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpgid getpgrp getpid getppid getpriority "
    "getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid "
    "getuid32 ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self "
    "pause pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq sched_get_priority_max "
    "sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler "
    "sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam "
    "sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address setfsgid "
    "setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority "
    "setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid "
    "setuid setuid32 sysinfo tgkill tkill times ugetrlimit uname vfork wait4 waitid waitpid "
    // signals
    "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait "
    "rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction sigaltstack signal sigpending sigprocmask sigreturn "
    "sigsuspend uretprobe uprobe "
    // sockets, without socket(2) itself
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg "
    "recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair "
    // System V and POSIX IPC
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend "
    "mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop "
    "semtimedop_time64 shmat shmctl shmdt shmget "
    // time
    "adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 "
    "clock_nanosleep clock_nanosleep_time64 gettimeofday nanosleep time timer_create timer_delete "
    "timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create "
    "timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 "
    // tracing of the container's own processes: Linux 4.8 and later check it soundly
    "process_vm_readv process_vm_writev ptrace "
    // one architecture's own
    "modify_ldt cacheflush set_tls breakpoint arm_fadvise64_64";

struct CapabilityGroup {
  const char* capability;
  const char* syscalls;
};
constexpr CapabilityGroup kByCapability[] = {
    {"CAP_DAC_READ_SEARCH", "open_by_handle_at"},
    {"CAP_SYS_ADMIN",
     "bpf clone fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie mount mount_setattr "
     "move_mount open_tree open_tree_attr perf_event_open quotactl quotactl_fd setdomainname sethostname "
     "setns statmount syslog umount umount2 unshare clone3"},
    {"CAP_SYS_BOOT", "reboot"},
    {"CAP_SYS_CHROOT", "chroot"},
    {"CAP_SYS_MODULE", "delete_module finit_module init_module"},
    {"CAP_SYS_PACCT", "acct"},
    {"CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"},
    {"CAP_SYS_RAWIO", "iopl ioperm"},
    {"CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"},
    {"CAP_SYS_TTY_CONFIG", "vhangup"},
    {"CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"},
    {"CAP_SYSLOG", "syslog"},
    {"CAP_BPF", "bpf"},
    {"CAP_PERFMON", "perf_event_open"},
};

oci::SeccompSyscall Rule(const char* names, const char* action = "SCMP_ACT_ALLOW") {
  oci::SeccompSyscall rule;
  std::istringstream words(names);
  for (std::string name; words >> name;) rule.names.push_back(name);
  rule.action = action;
  return rule;
}

oci::SeccompSyscall ArgRule(const char* name, oci::SeccompArg arg) {
  oci::SeccompSyscall rule = Rule(name);
  rule.args.push_back(std::move(arg));
  return rule;
}

bool Has(const std::vector<std::string>& list, const std::string& item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

// JSON readers: a field that is absent or null keeps its default.
absl::Status BadField(const std::string& field, const char* wanted) {
  return absl::InvalidArgumentError(Cat("seccomp profile: ", field, " is not ", wanted));
}
const Json* Find(const Json& in, const char* name) {
  auto at = in.find(name);
  return at == in.end() || at->is_null() ? nullptr : &*at;
}
absl::Status Get(const Json& in, const char* name, const std::string& field, std::string* out) {
  const Json* value = Find(in, name);
  if (!value) return absl::OkStatus();
  if (!value->is_string()) return BadField(field, "a string");
  *out = value->get<std::string>();
  return absl::OkStatus();
}
absl::Status Get(const Json& in, const char* name, const std::string& field, std::vector<std::string>* out) {
  const Json* value = Find(in, name);
  if (!value) return absl::OkStatus();
  if (!value->is_array()) return BadField(field, "an array");
  for (const Json& item : *value) {
    if (!item.is_string()) return BadField(field, "an array of strings");
    out->push_back(item.get<std::string>());
  }
  return absl::OkStatus();
}
template <typename Number>
absl::Status GetNumber(const Json& in, const char* name, const std::string& field, Number* out) {
  const Json* value = Find(in, name);
  if (!value) return absl::OkStatus();
  if (!value->is_number_unsigned()) return BadField(field, "an unsigned number");
  const uint64_t number = value->get<uint64_t>();
  if constexpr (std::is_same_v<Number, uint64_t>) {
    *out = number;
  } else {
    if (number > UINT32_MAX) return BadField(field, "a number of 32 bits");
    *out = static_cast<uint32_t>(number);
  }
  return absl::OkStatus();
}

// A rule's condition, "includes" (all must hold) or "excludes" (none may hold).
struct Condition {
  std::vector<std::string> caps, arches;
  std::string min_kernel;
};
absl::StatusOr<Condition> ReadCondition(const Json& rule, const char* name, const std::string& field) {
  Condition condition;
  const Json* value = Find(rule, name);
  if (!value) return condition;
  if (!value->is_object()) return BadField(field, "an object");
  RETURN_IF_ERROR(Get(*value, "caps", field + ".caps", &condition.caps));
  RETURN_IF_ERROR(Get(*value, "arches", field + ".arches", &condition.arches));
  // minKernel is taken as met: every kernel that cri-sock runs on is newer than those that profiles name.
  RETURN_IF_ERROR(Get(*value, "minKernel", field + ".minKernel", &condition.min_kernel));
  return condition;
}

absl::Status ReadRule(const Json& in, const std::string& field, const std::vector<std::string>& capabilities,
                      std::vector<oci::SeccompSyscall>* out) {
  if (!in.is_object()) return BadField(field, "an object");
  oci::SeccompSyscall rule;
  std::string name;
  RETURN_IF_ERROR(Get(in, "name", field + ".name", &name));
  RETURN_IF_ERROR(Get(in, "names", field + ".names", &rule.names));
  if (!name.empty()) rule.names.push_back(name);
  if (rule.names.empty())
    return absl::InvalidArgumentError(Cat("seccomp profile: ", field, ".names is empty"));
  RETURN_IF_ERROR(Get(in, "action", field + ".action", &rule.action));
  if (rule.action.empty())
    return absl::InvalidArgumentError(Cat("seccomp profile: ", field, ".action is empty"));
  RETURN_IF_ERROR(GetNumber(in, "errnoRet", field + ".errnoRet", &rule.errno_ret));
  if (const Json* args = Find(in, "args")) {
    if (!args->is_array()) return BadField(field + ".args", "an array");
    for (const Json& item : *args) {
      if (!item.is_object()) return BadField(field + ".args", "an array of objects");
      oci::SeccompArg arg;
      RETURN_IF_ERROR(GetNumber(item, "index", field + ".args.index", &arg.index));
      RETURN_IF_ERROR(GetNumber(item, "value", field + ".args.value", &arg.value));
      RETURN_IF_ERROR(GetNumber(item, "valueTwo", field + ".args.valueTwo", &arg.value_two));
      RETURN_IF_ERROR(Get(item, "op", field + ".args.op", &arg.op));
      rule.args.push_back(std::move(arg));
    }
  }
  ASSIGN_OR_RETURN(Condition includes, ReadCondition(in, "includes", field + ".includes"));
  ASSIGN_OR_RETURN(Condition excludes, ReadCondition(in, "excludes", field + ".excludes"));
  auto held = [&](const std::string& cap) { return Has(capabilities, cap); };
  if (!std::all_of(includes.caps.begin(), includes.caps.end(), held) ||
      (!includes.arches.empty() && !Has(includes.arches, kArch)) ||
      std::any_of(excludes.caps.begin(), excludes.caps.end(), held) || Has(excludes.arches, kArch) ||
      !excludes.min_kernel.empty())
    return absl::OkStatus();
  out->push_back(std::move(rule));
  return absl::OkStatus();
}

constexpr size_t kGroups = std::size(kByCapability);

oci::Seccomp MakeDefault(const std::bitset<kGroups>& groups) {
  oci::Seccomp profile;
  profile.default_action = "SCMP_ACT_ERRNO";
  profile.default_errno_ret = EPERM;
  profile.architectures = kArchitectures;
  profile.syscalls.push_back(Rule(kAllowed));
  // personality(2): Linux, Linux with 32-bit uname, 2.6 versions, and the question.
  for (uint64_t persona : {0x0ull, 0x0008ull, 0x20000ull, 0x20008ull, 0xffffffffull})
    profile.syscalls.push_back(ArgRule("personality", {0, persona, 0, "SCMP_CMP_EQ"}));
  // A VM socket would reach the hypervisor around the pod's network.
  profile.syscalls.push_back(ArgRule("socket", {0, AF_VSOCK, 0, "SCMP_CMP_NE"}));
  bool admin = false;
  for (size_t i = 0; i < kGroups; ++i) {
    if (!groups[i]) continue;
    profile.syscalls.push_back(Rule(kByCapability[i].syscalls));
    admin = admin || std::string_view(kByCapability[i].capability) == "CAP_SYS_ADMIN";
  }
  if (!admin) {
    // No new namespaces. clone3(2) has its flags in memory, where a filter cannot look: ENOSYS makes the C
    // library take clone(2).
    constexpr uint64_t kNamespaces = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                                     CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP;
    profile.syscalls.push_back(ArgRule("clone", {0, kNamespaces, 0, "SCMP_CMP_MASKED_EQ"}));
    profile.syscalls.push_back(Rule("clone3", "SCMP_ACT_ERRNO"));
    profile.syscalls.back().errno_ret = ENOSYS;
  }
  return profile;
}

}  // namespace

std::shared_ptr<const oci::Seccomp> DefaultSeccompProfile(const std::vector<std::string>& capabilities) {
  static std::mutex mutex;
  static auto& made = *new std::unordered_map<std::bitset<kGroups>, std::shared_ptr<const oci::Seccomp>>;
  std::bitset<kGroups> groups;
  for (size_t i = 0; i < kGroups; ++i) groups[i] = Has(capabilities, kByCapability[i].capability);
  std::lock_guard lock(mutex);
  std::shared_ptr<const oci::Seccomp>& profile = made[groups];
  if (!profile) profile = std::make_shared<oci::Seccomp>(MakeDefault(groups));
  return profile;
}

absl::StatusOr<oci::Seccomp> ParseSeccompProfile(const std::string& json,
                                                 const std::vector<std::string>& capabilities) {
  const Json in = Json::parse(json, nullptr, false);
  if (!in.is_object()) return absl::InvalidArgumentError("seccomp profile: not a JSON object");
  oci::Seccomp profile;
  RETURN_IF_ERROR(Get(in, "defaultAction", "defaultAction", &profile.default_action));
  if (profile.default_action.empty())
    return absl::InvalidArgumentError("seccomp profile: defaultAction is empty");
  RETURN_IF_ERROR(GetNumber(in, "defaultErrnoRet", "defaultErrnoRet", &profile.default_errno_ret));
  RETURN_IF_ERROR(Get(in, "architectures", "architectures", &profile.architectures));
  RETURN_IF_ERROR(Get(in, "flags", "flags", &profile.flags));
  if (Find(in, "listenerPath")) return absl::UnimplementedError("seccomp profile: listenerPath");
  if (const Json* map = Find(in, "archMap")) {
    if (!profile.architectures.empty())
      return absl::InvalidArgumentError("seccomp profile: both architectures and archMap are set");
    if (!map->is_array()) return BadField("archMap", "an array");
    for (const Json& entry : *map) {
      if (!entry.is_object()) return BadField("archMap", "an array of objects");
      std::vector<std::string> sub;
      std::string arch;
      RETURN_IF_ERROR(Get(entry, "architecture", "archMap.architecture", &arch));
      RETURN_IF_ERROR(Get(entry, "subArchitectures", "archMap.subArchitectures", &sub));
      if (kArchitectures.empty() || arch != kArchitectures.front()) continue;
      profile.architectures.push_back(arch);
      profile.architectures.insert(profile.architectures.end(), sub.begin(), sub.end());
    }
  }
  if (const Json* rules = Find(in, "syscalls")) {
    if (!rules->is_array()) return BadField("syscalls", "an array");
    for (size_t i = 0; i < rules->size(); ++i)
      RETURN_IF_ERROR(ReadRule((*rules)[i], Cat("syscalls[", i, "]"), capabilities, &profile.syscalls));
  }
  return profile;
}

}  // namespace sock::runtime
