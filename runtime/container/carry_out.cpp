#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <exception>

#include "runtime/base/channel.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/container/container.h"
#include "runtime/container/filesystem.h"

namespace sock::runtime {
namespace {

class Child {
 public:
  Child(const Plan& plan, std::vector<Fd>& fds, int stdio[3], int barrier)
      : plan_(plan), fds_(fds), stdio_(stdio), barrier_(barrier) {}

  // Comes back only with an error, or OK where the other side wants no program.
  absl::Status Run() {
    step_ = "signals";
    RETURN_IF_ERROR(ResetSignals());
    umask(0);
    // Nobody in the container may look into this process before it is the program (ptrace(2), /proc/PID/fd).
    prctl(PR_SET_DUMPABLE, 0);
    RETURN_IF_ERROR(GivePipes());
    if (!plan_.build_only()) RETURN_IF_ERROR(Limits());  // raising one needs a capability of the host's
    RETURN_IF_ERROR(Join());
    if (plan_.has_root()) RETURN_IF_ERROR(Build());
    if (plan_.build_only()) {
      (void)!chdir(plan_.cwd().c_str());  // what it is compared with
      return AwaitEnd();
    }
    Fd inherited = plan_.has_inherit() ? std::move(fds_[static_cast<size_t>(plan_.inherit())]) : Fd();
    fds_.clear();
    setsid();  // fails only where it leads its session already
    if (plan_.terminal()) RETURN_IF_ERROR(OpenTerminal());
    RETURN_IF_ERROR(Stdio());
    bool entered = chdir(plan_.cwd().c_str()) == 0;
    RETURN_IF_ERROR(Credentials());
    step_ = "cwd";
    if (!entered && chdir(plan_.cwd().c_str()) < 0)
      return ErrnoStatus(errno, Cat("enter working directory `", plan_.cwd(), "`"));
    umask(plan_.umask());
    step_ = "exec";
    std::string program;
    RETURN_IF_ERROR(FindProgram(program));
    std::vector<char*> args = Pointers(plan_.args()), env = Pointers(plan_.env());
    if (close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
      return ErrnoStatus(errno, "mark descriptors close-on-exec");
    if (inherited.valid() && dup2(inherited.get(), 3) < 0) return ErrnoStatus(errno, "place descriptor 3");

    step_ = "barrier";
    Report ready;
    ready.set_ready(true);
    std::vector<int> sent;
    if (master_.valid()) sent.push_back(master_.get());
    RETURN_IF_ERROR(SendMessage(barrier_, ready.SerializeAsString(), sent));
    master_.Reset();
    if (!RecvMessage(barrier_).ok()) return absl::OkStatus();

    // Last of all, so that a filter need allow no more than execve(2). Without no_new_privileges the kernel
    // asks for CAP_SYS_ADMIN: Credentials() kept it in the permitted set, which execve(2) computes anew from
    // the bounding, inheritable and ambient sets, whatever it was.
    step_ = "seccomp";
    RETURN_IF_ERROR(LoadSeccomp());
    step_ = "exec";
    execve(program.c_str(), args.data(), env.data());
    return ErrnoStatus(errno, Cat("execute `", program, "`"));
  }

  // The monitor takes the mount namespace from /proc/PID/ns, then ends this process.
  absl::Status AwaitEnd() {
    step_ = "barrier";
    Report ready;
    ready.set_ready(true);
    RETURN_IF_ERROR(SendMessage(barrier_, ready.SerializeAsString()));
    RecvMessage(barrier_).status().IgnoreError();
    return absl::OkStatus();
  }

  void Fail(const absl::Status& status) {
    Report report;
    report.set_step(step_);
    report.set_errno_value(ErrnoOf(status));
    report.set_text(std::string(status.message()));
    SendMessage(barrier_, report.SerializeAsString()).IgnoreError();
  }

 private:
  static std::vector<char*> Pointers(const google::protobuf::RepeatedPtrField<std::string>& texts) {
    std::vector<char*> pointers;
    for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
    pointers.push_back(nullptr);
    return pointers;
  }

  int At(int index) const { return fds_[static_cast<size_t>(index)].get(); }

  absl::Status ResetSignals() {
    struct sigaction usual {};
    usual.sa_handler = SIG_DFL;
    for (int signal = 1; signal < NSIG; ++signal) sigaction(signal, &usual, nullptr);
    sigset_t none;
    sigemptyset(&none);
    if (sigprocmask(SIG_SETMASK, &none, nullptr) < 0) return ErrnoStatus(errno, "unblock signals");
    return absl::OkStatus();
  }

  // A pipe is the user's, so that opening /dev/stdout again is permitted.
  absl::Status GivePipes() {
    step_ = "stdio";
    const uid_t owner = plan_.has_host_uid() ? plan_.host_uid() : plan_.uid();
    for (int i = 0; i < 3; ++i) {
      struct stat st;
      if (fstat(stdio_[i], &st) == 0 && S_ISFIFO(st.st_mode) && st.st_uid != owner &&
          fchown(stdio_[i], owner, static_cast<gid_t>(-1)) < 0)
        return ErrnoStatus(errno, Cat("change owner of standard descriptor ", i));
    }
    return absl::OkStatus();
  }

  // user_namespaces(7), mount_namespaces(7): the root is built by the host's root in a mount namespace of the
  // host's; in the copy that is made inside the user namespace nothing of it can be remounted or taken off.
  absl::Status Build() {
    if (!plan_.has_user_ns()) return BuildFilesystem(plan_, fds_, step_);
    step_ = "user namespace";
    RETURN_IF_ERROR(CreateFilesAs(plan_.host_root_uid(), plan_.host_root_gid()));
    RETURN_IF_ERROR(BuildFilesystem(plan_, fds_, step_));
    step_ = "user namespace";
    RETURN_IF_ERROR(CreateFilesAs(0, 0));
    if (setns(At(plan_.user_ns()), CLONE_NEWUSER) < 0) return ErrnoStatus(errno, "enter user namespace");
    RETURN_IF_ERROR(BecomeRoot());
    // The cgroup namespace, too, shall be the user namespace's own.
    if (unshare(CLONE_NEWNS | (plan_.new_cgroup_ns() ? CLONE_NEWCGROUP : 0)) < 0)
      return ErrnoStatus(errno, "make namespaces in user namespace");
    return absl::OkStatus();
  }

  // Files, file systems and devices made from here on belong to these ids. credentials(7): leaving fsuid 0
  // takes capabilities from the effective set, which are put back.
  static absl::Status CreateFilesAs(uid_t uid, gid_t gid) {
    setfsgid(gid);
    setfsuid(uid);
    if (static_cast<uid_t>(setfsuid(static_cast<uid_t>(-1))) != uid ||
        static_cast<gid_t>(setfsgid(static_cast<gid_t>(-1))) != gid)
      return ErrnoStatus(EPERM, Cat("create files as user ", uid, " and group ", gid));
    return RaiseCapabilities();
  }

  // In a user namespace just entered: its root, with no group of the host's.
  static absl::Status BecomeRoot() {
    if (setgroups(0, nullptr) < 0) return ErrnoStatus(errno, "drop supplementary groups");
    if (setresgid(0, 0, 0) < 0) return ErrnoStatus(errno, "become the user namespace's root group");
    if (setresuid(0, 0, 0) < 0) return ErrnoStatus(errno, "become the user namespace's root");
    return absl::OkStatus();
  }

  absl::Status Join() {
    step_ = "cgroup";
    for (int index : plan_.cgroup_procs())
      if (write(At(index), "0", 1) < 0) return ErrnoStatus(errno, "enter cgroup");
    if (plan_.take_in() != 0) {
      const Fd procs(openat(At(plan_.cgroup_unified()), "cgroup.procs", O_WRONLY | O_CLOEXEC));
      const std::string number = Cat(plan_.take_in());
      if (write(procs.get(), number.data(), number.size()) < 0 &&
          errno != ESRCH)  // its end is told by others
        return ErrnoStatus(errno, "move the forked process into the cgroup");
    }
    step_ = "limits";  // while the host's /proc is still there
    if (plan_.has_oom_score_adj()) {
      absl::Status done = WriteExisting("/proc/self/oom_score_adj", Cat(plan_.oom_score_adj()));
      if (!done.ok() && ErrnoOf(done) != EACCES) return done;  // lowering it needs CAP_SYS_RESOURCE
    }
    if (!plan_.apparmor_profile().empty()) RETURN_IF_ERROR(ConfineOnExec());
    step_ = "namespaces";
    struct {
      bool wanted;
      int index, type;
      const char* name;
    } const joins[] = {
        {plan_.has_net_ns(), plan_.net_ns(), CLONE_NEWNET, "network"},
        {plan_.has_ipc_ns(), plan_.ipc_ns(), CLONE_NEWIPC, "ipc"},
        {plan_.has_uts_ns(), plan_.uts_ns(), CLONE_NEWUTS, "uts"},
        {plan_.has_join_pidfd(), plan_.join_pidfd(), static_cast<int>(plan_.join_flags()), "container's"}};
    for (const auto& join : joins)
      if (join.wanted && setns(At(join.index), join.type) < 0)
        return ErrnoStatus(errno, Cat("enter ", join.name, " namespace"));
    if (plan_.join_flags() & CLONE_NEWUSER) RETURN_IF_ERROR(BecomeRoot());
    if (plan_.new_cgroup_ns() && unshare(CLONE_NEWCGROUP) < 0)
      return ErrnoStatus(errno, "make cgroup namespace");
    if (!plan_.hostname().empty() && sethostname(plan_.hostname().data(), plan_.hostname().size()) < 0)
      return ErrnoStatus(errno, Cat("set hostname `", plan_.hostname(), "`"));
    // A session keyring of its own (keyctl(2)); a kernel without keys, or a full quota, has none to leak.
    if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr) < 0 && errno != ENOSYS && errno != EDQUOT &&
        errno != EPERM)
      return ErrnoStatus(errno, "make session keyring");
    return absl::OkStatus();
  }

  // apparmor(7): the profile that execve(2) puts on, asked for while the host's /proc is there.
  absl::Status ConfineOnExec() {
    step_ = "apparmor";
    const std::string& profile = plan_.apparmor_profile();
    absl::Status done = WriteExisting("/proc/self/attr/apparmor/exec", Cat("exec ", profile));
    if (absl::IsNotFound(done) && access("/proc/self/attr/apparmor", F_OK) < 0)
      done = WriteExisting("/proc/self/attr/exec", Cat("exec ", profile));  // before Linux 5.8
    return Annotate(done, Cat("apply AppArmor profile `", profile, "`, which must be loaded"));
  }

  absl::Status Limits() {
    step_ = "limits";
    return SetRlimits(0, plan_);
  }

  // pty(7): the pair comes from the container's own devpts; the slave is also its /dev/console.
  absl::Status OpenTerminal() {
    step_ = "terminal";
    ASSIGN_OR_RETURN(master_, OpenPath("/dev/pts/ptmx", O_RDWR | O_NOCTTY));
    int unlock = 0;
    if (ioctl(master_.get(), TIOCSPTLCK, &unlock) < 0) return ErrnoStatus(errno, "unlock terminal");
    slave_ = Fd(ioctl(master_.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!slave_.valid()) return ErrnoStatus(errno, "open terminal");
    winsize size{};
    size.ws_row = static_cast<unsigned short>(plan_.terminal_rows());
    size.ws_col = static_cast<unsigned short>(plan_.terminal_columns());
    if (size.ws_row && ioctl(slave_.get(), TIOCSWINSZ, &size) < 0)
      return ErrnoStatus(errno, "size the terminal");
    if (fchown(slave_.get(), plan_.uid(), static_cast<gid_t>(-1)) < 0)
      return ErrnoStatus(errno, "change owner of terminal");
    if (ioctl(slave_.get(), TIOCSCTTY, 0) < 0) return ErrnoStatus(errno, "take controlling terminal");
    if (plan_.has_root()) {
      unsigned number = 0;
      if (ioctl(master_.get(), TIOCGPTN, &number) < 0) return ErrnoStatus(errno, "number of terminal");
      Fd root(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
      ASSIGN_OR_RETURN(Fd console, MakeFileInRoot(root.get(), "/dev/console"));
      Fd tree(open_tree(AT_FDCWD, Cat("/dev/pts/", number).c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
      if (!tree.valid() || move_mount(tree.get(), "", console.get(), "",
                                      MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
        return ErrnoStatus(errno, "bind terminal to `/dev/console`");
    }
    return absl::OkStatus();
  }

  absl::Status Stdio() {
    step_ = "stdio";
    // First out of the way of 0 to 2, then into place: in whatever order they came.
    Fd high[3];
    for (int i = 0; i < 3; ++i) {
      high[i] = Fd(fcntl(slave_.valid() ? slave_.get() : stdio_[i], F_DUPFD_CLOEXEC, 3));
      if (!high[i].valid()) return ErrnoStatus(errno, Cat("copy standard descriptor ", i));
    }
    for (int i = 0; i < 3; ++i) {
      if (dup2(high[i].get(), i) < 0) return ErrnoStatus(errno, Cat("set standard descriptor ", i));
    }
    slave_.Reset();
    return absl::OkStatus();
  }

  // capabilities(7). Sets are cut to what this process has itself.
  absl::Status Credentials() {
    step_ = "credentials";
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    if (syscall(SYS_capget, &header, data) < 0) return ErrnoStatus(errno, "read capabilities");
    uint64_t have = data[0].permitted | static_cast<uint64_t>(data[1].permitted) << 32;
    uint64_t bounding = plan_.cap_bounding();
    for (int cap = 0; cap < 64; ++cap) {
      int held = prctl(PR_CAPBSET_READ, cap, 0, 0, 0);
      if (held < 0) break;  // past the kernel's last
      if (held == 1 && !(bounding >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
        return ErrnoStatus(errno, Cat("drop capability ", cap));
    }
    std::vector<gid_t> groups(plan_.groups().begin(), plan_.groups().end());
    if (setgroups(groups.size(), groups.data()) < 0) return ErrnoStatus(errno, "set supplementary groups");
    if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0) return ErrnoStatus(errno, "keep capabilities");
    if (setresgid(plan_.gid(), plan_.gid(), plan_.gid()) < 0)
      return ErrnoStatus(errno, Cat("become group ", plan_.gid()));
    if (setresuid(plan_.uid(), plan_.uid(), plan_.uid()) < 0)
      return ErrnoStatus(errno, Cat("become user ", plan_.uid()));
    if (prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0) return ErrnoStatus(errno, "stop keeping capabilities");
    uint64_t extra = plan_.seccomp().empty() || plan_.no_new_privileges() ? 0 : uint64_t{1} << CAP_SYS_ADMIN;
    const uint64_t sets[3] = {(plan_.cap_effective() | extra) & have, (plan_.cap_permitted() | extra) & have,
                              plan_.cap_inheritable() & have};
    for (int i = 0; i < 2; ++i) {
      data[i].effective = static_cast<uint32_t>(sets[0] >> 32 * i);
      data[i].permitted = static_cast<uint32_t>(sets[1] >> 32 * i);
      data[i].inheritable = static_cast<uint32_t>(sets[2] >> 32 * i);
    }
    if (syscall(SYS_capset, &header, data) < 0) return ErrnoStatus(errno, "set capabilities");
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (int cap = 0; cap < 64; ++cap)
      if ((plan_.cap_ambient() & sets[1] & sets[2]) >> cap & 1 &&
          prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
        return ErrnoStatus(errno, Cat("raise ambient capability ", cap));
    if (plan_.no_new_privileges() && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
      return ErrnoStatus(errno, "set no_new_privs");
    // Changed credentials may have changed it back (prctl(2), PR_SET_DUMPABLE).
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return ErrnoStatus(errno, "set not dumpable");
    return absl::OkStatus();
  }

  absl::Status LoadSeccomp() {
    const std::string& code = plan_.seccomp();
    if (code.empty()) return absl::OkStatus();
    sock_fprog program{static_cast<unsigned short>(code.size() / sizeof(sock_filter)),
                       reinterpret_cast<sock_filter*>(const_cast<char*>(code.data()))};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, plan_.seccomp_flags(), &program) < 0)
      return ErrnoStatus(errno, "load seccomp filter");
    return absl::OkStatus();
  }

  // execvp(3), but before the barrier, with the container's PATH and as its user.
  absl::Status FindProgram(std::string& program) {
    const std::string& name = plan_.args(0);
    auto check = [](const std::string& path) {
      struct stat st;
      if (stat(path.c_str(), &st) < 0) return errno;
      if (!S_ISREG(st.st_mode)) return EACCES;
      return faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) < 0 ? errno : 0;
    };
    int err = ENOENT;
    if (name.find('/') != std::string::npos) {
      program = name;
      err = check(program);
    } else if (!name.empty()) {
      std::string path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
      for (const std::string& entry : plan_.env())
        if (entry.starts_with("PATH=")) path = entry.substr(5);
      for (size_t from = 0; from <= path.size();) {
        size_t to = std::min(path.find(':', from), path.size());
        program = to == from ? name : path.substr(from, to - from) + "/" + name;
        int problem = check(program);
        if (problem == 0) return absl::OkStatus();
        if (problem == EACCES) err = EACCES;
        from = to + 1;
      }
    }
    return err == 0 ? absl::OkStatus() : ErrnoStatus(err, Cat("find program `", name, "`"));
  }

  const Plan& plan_;
  std::vector<Fd>& fds_;
  int* stdio_;
  int barrier_;
  Fd master_, slave_;
  const char* step_ = "start";
};

}  // namespace

absl::Status SetRlimits(pid_t pid, const Plan& plan) {
  for (const PlanRlimit& limit : plan.rlimits()) {
    auto which = static_cast<__rlimit_resource>(limit.resource());
    rlimit wanted{limit.soft(), limit.hard()}, now{};
    if (prlimit(pid, which, &wanted, nullptr) == 0) continue;
    // Raising a hard limit needs CAP_SYS_RESOURCE.
    if (errno != EPERM || prlimit(pid, which, nullptr, &now) < 0)
      return ErrnoStatus(errno, Cat("set resource limit ", limit.resource()));
    wanted = {std::min(wanted.rlim_cur, now.rlim_max), std::min(wanted.rlim_max, now.rlim_max)};
    if (prlimit(pid, which, &wanted, nullptr) < 0)
      return ErrnoStatus(errno, Cat("set resource limit ", limit.resource()));
  }
  return absl::OkStatus();
}

absl::Status RaiseCapabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (syscall(SYS_capget, &header, data) < 0) return ErrnoStatus(errno, "read capabilities");
  for (__user_cap_data_struct& half : data) half.effective = half.permitted;
  if (syscall(SYS_capset, &header, data) < 0) return ErrnoStatus(errno, "set capabilities");
  return absl::OkStatus();
}

void CarryOut(const Plan& plan, std::vector<Fd> fds, int stdio[3], int barrier) {
  // An exit that flushes and destroys nothing of the parent's.
  try {
    // The barrier, too, must not lie where stdio or the inherited descriptor will.
    constexpr int kFree = 4;
    if (barrier < kFree) barrier = fcntl(barrier, F_DUPFD_CLOEXEC, kFree);
    for (Fd& fd : fds)
      if (fd.get() < kFree) fd.Reset(fcntl(fd.get(), F_DUPFD_CLOEXEC, kFree));
    Child child(plan, fds, stdio, barrier);
    absl::Status status = child.Run();
    if (status.ok()) _exit(0);
    child.Fail(status);
  } catch (const std::exception&) {  // out of memory: the other side sees end of file
  }
  _exit(127);
}

}  // namespace sock::runtime
