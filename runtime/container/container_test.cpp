#include "runtime/container/container.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "runtime/base/channel.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace sock::runtime {
namespace {

using testing::HasSubstr;
using testing::Not;

struct Outcome {
  Report report, failure;  // of building, and of executing
  std::string output;
  int status = -1;
};

// As the monitor does: the child of clone3(2), the barrier, GO, and what the program writes.
Outcome RunIt(PreparedPlan prepared) {
  Outcome outcome;
  ChannelPair barrier = *MakeChannel();
  Pipe out = *MakePipe();
  Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  clone_args args{};
  args.flags = prepared.plan.clone_flags();
  args.exit_signal = SIGCHLD;
  pid_t pid = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
  if (pid == 0) {
    barrier.a.Reset();
    int stdio[3] = {null.get(), out.write.get(), out.write.get()};
    CarryOut(prepared.plan, std::move(prepared.fds), stdio, barrier.b.get());
  }
  EXPECT_GT(pid, 0);
  barrier.b.Reset();
  out.write.Reset();
  if (auto message = RecvMessage(barrier.a.get()); message.ok())
    outcome.report.ParseFromString(message->data);
  if (outcome.report.ready()) {
    EXPECT_TRUE(SendMessage(barrier.a.get(), "go").ok());
    if (auto message = RecvMessage(barrier.a.get()); message.ok())
      outcome.failure.ParseFromString(message->data);
  }
  char buffer[4096];
  for (ssize_t n; (n = read(out.read.get(), buffer, sizeof buffer)) > 0;)
    outcome.output.append(buffer, static_cast<size_t>(n));
  waitpid(pid, &outcome.status, 0);
  return outcome;
}

class ContainerTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/container_test.XXXXXX";
    dir_ = mkdtemp(name);
    for (const char* sub : {"lower/bin", "lower/etc", "lower/secret", "top", "upper", "work", "volume"})
      std::filesystem::create_directories(dir_ + "/" + sub);
    std::filesystem::copy_file("/bin/busybox", dir_ + "/lower/bin/busybox");
    std::filesystem::create_symlink("busybox", dir_ + "/lower/bin/sh");
    Write("lower/etc/passwd", "root:x:0:0::/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n");
    Write("lower/etc/group", "root:x:0:\nann:x:1001:\nextra:x:2000:bob,ann\n");
    Write("lower/secret/file", "hidden");
    Write("lower/secretfile", "hidden");
    Write("lower/bin/text", "echo hi\n");
    std::filesystem::permissions(dir_ + "/lower/bin/text", std::filesystem::perms(0755));
    Write("volume/data", "of the volume");

    spec_.id = "test";
    spec_.rootfs = {{dir_ + "/top", dir_ + "/lower"}, dir_ + "/upper", dir_ + "/work"};
    oci::Spec& spec = spec_.spec;
    spec.hostname = "inside";
    spec.process.env = {"PATH=/bin"};
    spec.process.no_new_privileges = true;
    spec.mounts = {
        {"/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}},
        {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}},
        {"/dev/pts", "devpts", "devpts", {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
        {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}},
        {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}},
        {"/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", "ro"}},
        {"/volume", "bind", dir_ + "/volume", {"rbind", "rprivate", "ro"}}};
    spec.masked_paths = {"/secret", "/secretfile", "/proc/kcore", "/nothing/there"};
    spec.readonly_paths = {"/proc/sys"};
    std::thread([this] {  // a UTS namespace that only the descriptor holds
      if (unshare(CLONE_NEWUTS) == 0)
        namespaces_.uts = Fd(open("/proc/thread-self/ns/uts", O_RDONLY | O_CLOEXEC));
    })
        .join();
    ASSERT_TRUE(namespaces_.uts.valid());
  }
  // A user namespace of 65536 ids from 300000, and network, IPC and UTS namespaces that belong to it.
  void UseUserNamespace() {
    spec_.spec.uid_mappings = spec_.spec.gid_mappings = {{0, 300000, 65536}};
    Pipe hold = *MakePipe();
    clone_args args{};
    args.flags = CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    args.exit_signal = SIGCHLD;
    pid_t pid = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
    if (pid == 0) {
      hold.write.Reset();
      char byte;
      _exit(read(hold.read.get(), &byte, 1) == 0 ? 0 : 1);
    }
    ASSERT_GT(pid, 0);
    for (const char* file : {"uid_map", "gid_map"})
      EXPECT_TRUE(WriteExisting(Cat("/proc/", pid, "/", file), "0 300000 65536").ok());
    for (auto [kind, fd] : {std::pair{"user", &namespaces_.user},
                            {"net", &namespaces_.net},
                            {"ipc", &namespaces_.ipc},
                            {"uts", &namespaces_.uts}})
      *fd = *OpenPath(Cat("/proc/", pid, "/ns/", kind), O_RDONLY);
    hold.write.Reset();
    waitpid(pid, nullptr, 0);
    ASSERT_EQ(chown((dir_ + "/upper").c_str(), 300000, 300000), 0);
    spec_.spec.mounts[2].options.push_back("gid=5");
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(dir_).ok()); }

  void Write(const std::string& name, const std::string& text) { std::ofstream(dir_ + "/" + name) << text; }
  absl::StatusOr<PreparedPlan> Prepare() { return PrepareContainer(spec_, namespaces_, {}); }
  Outcome Shell(const std::string& script) {
    spec_.spec.process.args = {"sh", "-c", "b=/bin/busybox; " + script};
    auto prepared = Prepare();
    EXPECT_TRUE(prepared.ok()) << prepared.status();
    if (!prepared.ok()) return {};
    Outcome outcome = RunIt(*std::move(prepared));
    EXPECT_TRUE(outcome.report.ready()) << outcome.report.step() << ": " << outcome.report.text();
    EXPECT_EQ(outcome.failure.text(), "");
    return outcome;
  }

  std::string dir_;
  ContainerSpec spec_;
  SandboxNamespaces namespaces_;
};

TEST_F(ContainerTest, ShowsItsOwnWorld) {
  std::string out =
      Shell(
          "echo pid=$$; $b hostname; $b cat /proc/mounts; $b ls /sys/fs/cgroup /dev; echo x >/dev/null && "
          "echo null-ok; echo $HOME; $b ls -d /tmp; echo new >/made && $b cat /made; $b pwd")
          .output;
  EXPECT_THAT(out, HasSubstr("pid=1\ninside\n"));
  EXPECT_THAT(out, HasSubstr("overlay / overlay rw"));
  EXPECT_THAT(out, HasSubstr("proc /proc proc"));
  EXPECT_THAT(out, HasSubstr("devpts /dev/pts devpts"));
  EXPECT_THAT(out, HasSubstr("sysfs /sys sysfs ro"));
  EXPECT_THAT(out, HasSubstr("/sys/fs/cgroup"));
  EXPECT_THAT(out, HasSubstr("null-ok\n/root\n"));
  EXPECT_THAT(out, HasSubstr("urandom"));
  EXPECT_THAT(out, HasSubstr("new\n/\n"));
  EXPECT_THAT(out, Not(HasSubstr(" /home "))) << "the host's mounts are gone";
  char host[65];
  gethostname(host, sizeof host);
  EXPECT_STRNE(host, "inside");
}

TEST_F(ContainerTest, HidesAndProtects) {
  std::string out = Shell(
                        "$b cat /volume/data; echo x >/volume/data; $b ls -A /secret | $b wc -l; "
                        "$b cat /secretfile | $b wc -c; echo x >/secret/new; echo 1 >/proc/sys/kernel/panic")
                        .output;
  EXPECT_THAT(out, HasSubstr("of the volume"));
  EXPECT_THAT(out, HasSubstr("/volume/data: Read-only file system"));
  EXPECT_THAT(out, HasSubstr("0\n0\n"));
  EXPECT_THAT(out, HasSubstr("/secret/new: Read-only file system"));
  EXPECT_THAT(out, HasSubstr("/proc/sys/kernel/panic: Read-only file system"));
  EXPECT_THAT(out, Not(HasSubstr("hidden")));
  spec_.spec.root_readonly = true;
  EXPECT_THAT(Shell("echo x >/made").output, HasSubstr("/made: Read-only file system"));
}

TEST_F(ContainerTest, TakesManyLayersWithLongAndOddNames) {
  std::vector<std::string> layers;
  for (int i = 0; i < 120; ++i) {
    layers.push_back(dir_ + "/a,b:c\\d/" + std::string(240, 'x') + "/" + std::to_string(i));
    std::filesystem::create_directories(layers.back());
    std::ofstream(layers.back() + "/layer" + std::to_string(i)) << i;
    std::ofstream(layers.back() + "/top") << i;
  }
  layers.push_back(dir_ + "/lower");
  spec_.rootfs.lower_dirs = layers;
  EXPECT_THAT(Shell("cat /top /layer119 && echo new >/layer0 && cat /layer0").output, HasSubstr("0119new"));
  EXPECT_EQ(ReadFile(dir_ + "/upper/layer0").value_or(""), "new\n");
}

TEST_F(ContainerTest, BecomesTheUser) {
  spec_.user.username = "ann";
  spec_.user.supplemental_groups = {3000};
  spec_.spec.process.capabilities.bounding = spec_.spec.process.capabilities.permitted =
      spec_.spec.process.capabilities.effective = {"CAP_NET_RAW", "CAP_KILL"};
  spec_.spec.process.cwd = "/made/for/me";
  std::string out = Shell(
                        "$b id -u; $b id -g; $b id -G; $b grep -E 'Cap|NoNew' /proc/self/status; "
                        "$b pwd; echo $HOME; umask")
                        .output;
  EXPECT_THAT(out, HasSubstr("1000\n1001\n1001 2000 3000\n"));
  EXPECT_THAT(out, HasSubstr("CapEff:\t0000000000000000"));
  EXPECT_THAT(out, HasSubstr("CapBnd:\t0000000000002020"));
  EXPECT_THAT(out, HasSubstr("NoNewPrivs:\t1"));
  EXPECT_THAT(out, HasSubstr("/made/for/me\n/home/ann\n0022\n"));

  spec_.user.username = "0";
  spec_.spec.process.no_new_privileges = false;
  out = Shell("$b grep -E 'Cap|NoNew' /proc/self/status").output;
  EXPECT_THAT(out, HasSubstr("CapEff:\t0000000000002020"));
  EXPECT_THAT(out, HasSubstr("NoNewPrivs:\t0"));
}

TEST_F(ContainerTest, LivesInAUserNamespace) {
  UseUserNamespace();
  oci::Mount& volume = spec_.spec.mounts.back();
  volume.uid_mappings = spec_.spec.uid_mappings;
  volume.gid_mappings = spec_.spec.gid_mappings;
  std::filesystem::create_directories(dir_ + "/plain");
  Write("plain/file", "x");
  spec_.spec.mounts.push_back({"/rw", "bind", dir_ + "/plain", {"rbind", "rprivate"}});
  spec_.spec.mounts.back().uid_mappings = spec_.spec.mounts.back().gid_mappings = spec_.spec.uid_mappings;
  std::filesystem::create_directories(dir_ + "/unmapped");
  spec_.spec.mounts.push_back({"/unmapped", "bind", dir_ + "/unmapped", {"rbind", "rprivate"}});
  spec_.spec.process.capabilities.bounding = spec_.spec.process.capabilities.permitted =
      spec_.spec.process.capabilities.effective = {"CAP_SYS_ADMIN", "CAP_CHOWN",  "CAP_DAC_OVERRIDE",
                                                   "CAP_MKNOD",     "CAP_SETUID", "CAP_NET_ADMIN"};
  spec_.spec.devices = {{"/dev/mine", 'c', 1, 5, 0640, 0, 6, "/dev/zero"}};
  std::string out =
      Shell(
          "$b cat /proc/self/uid_map; $b id; $b hostname; $b stat -c '%n %u:%g %a' / /bin/busybox "
          "/volume/data /dev /dev/null /dev/pts/ptmx /dev/mine /rw/file /unmapped; echo x >/dev/null && "
          "echo null-ok; $b dd if=/dev/mine bs=1 count=1 2>/dev/null | $b wc -c; "
          "echo made >/made; $b chown 7:8 /made; $b touch /rw/made; $b chown 7:8 /rw/made; "
          "echo more >>/bin/text; $b mkdir /dev/shm; "
          "$b mount -o remount,rw,bind /volume; $b umount /volume; $b umount /proc; "
          "$b mount -o remount,bind,rw /proc/sys; $b mknod /tmpdev c 1 3; "
          "echo x >/unmapped/new || echo unmapped-refused; "
          "$b mkdir /mnt; $b mount -t tmpfs none /mnt && echo own-mount; $b ip link set lo up && echo lo-up; "
          "echo x >/dev/stdout && echo stdout-ok; "
          "$b grep CapEff /proc/self/status")
          .output;
  EXPECT_THAT(out, testing::ContainsRegex("^ +0 +300000 +65536\n"));
  EXPECT_THAT(out, HasSubstr("uid=0(root) gid=0(root) groups=0(root)\n"));
  EXPECT_THAT(out, HasSubstr("\ninside\n"));
  for (const char* owned : {"/ 0:0", "/bin/busybox 0:0", "/volume/data 0:0", "/dev 0:0", "/dev/null 0:0 666",
                            "/dev/mine 0:6 640", "/rw/file 0:0", "/unmapped 65534:65534"})
    EXPECT_THAT(out, HasSubstr(std::string("\n") + owned));
  EXPECT_THAT(out, HasSubstr("null-ok\n1\n"));
  EXPECT_THAT(out, HasSubstr("unmapped-refused"));
  EXPECT_THAT(out, HasSubstr("own-mount\nlo-up\nx\nstdout-ok\nCapEff:\t0000000008201083"));
  // Neither is the read-only volume made writable, nor is what hides /proc/sys.
  EXPECT_THAT(out, testing::ContainsRegex("mount: permission denied[^\n]*\numount"));
  EXPECT_THAT(out, testing::ContainsRegex("mount: permission denied[^\n]*\nmknod"));
  EXPECT_THAT(out, HasSubstr("umount: can't unmount /volume: Invalid argument"));
  EXPECT_THAT(out, HasSubstr("umount: can't unmount /proc: Invalid argument"));
  EXPECT_THAT(out, HasSubstr("/tmpdev: Operation not permitted"));
  struct stat st;
  ASSERT_EQ(stat((dir_ + "/upper/made").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 300007u);
  EXPECT_EQ(st.st_gid, 300008u);
  ASSERT_EQ(stat((dir_ + "/plain/made").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 7u);
  EXPECT_EQ(st.st_gid, 8u);
  ASSERT_EQ(stat((dir_ + "/upper/bin/text").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 300000u) << "copied up";
  EXPECT_EQ(ReadFile(dir_ + "/lower/bin/text").value_or(""), "echo hi\n");

  spec_.user.uid = 65536;
  absl::Status unmapped = Prepare().status();
  EXPECT_EQ(unmapped.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unmapped.message()), HasSubstr("user 65536 is not mapped"));
  spec_.user.uid = 33;
  EXPECT_THAT(Shell("$b id -u; $b touch /volume/x; echo x >/dev/stdout && echo stdout-ok").output,
              testing::AllOf(HasSubstr("33\n"), HasSubstr("x\nstdout-ok")));
  spec_.spec.mounts[6].source = "/proc/self";
  absl::Status unable = Prepare().status();
  EXPECT_EQ(unable.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unable.message()),
              HasSubstr("`/proc/self` lies on a file system that can't be idmapped"));
}

TEST_F(ContainerTest, NamesWhatIsWrong) {
  spec_.spec.process.args = {"no-such-program"};
  Outcome outcome = RunIt(*Prepare());
  EXPECT_FALSE(outcome.report.ready());
  EXPECT_EQ(outcome.report.step(), "exec");
  EXPECT_EQ(outcome.report.errno_value(), ENOENT);
  EXPECT_EQ(WEXITSTATUS(outcome.status), 127);

  spec_.spec.process.args = {"/bin/text"};
  outcome = RunIt(*Prepare());
  EXPECT_TRUE(outcome.report.ready());
  EXPECT_EQ(outcome.failure.step(), "exec");
  EXPECT_EQ(outcome.failure.errno_value(), ENOEXEC);

  spec_.user.username = "nobody-here";
  EXPECT_EQ(Prepare().status().code(), absl::StatusCode::kInvalidArgument);
  spec_.user.username = "";
  spec_.spec.mounts.push_back({"/x", "bind", dir_ + "/absent", {"rbind"}});
  absl::Status missing = Prepare().status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("mounts[].host_path `" + dir_ + "/absent`"));
}

TEST_F(ContainerTest, NoLinkLeadsAVolumeIntoProc) {
  std::filesystem::create_symlink("/proc/sys", dir_ + "/lower/link");
  spec_.spec.process.args = {"sh", "-c", "true"};
  spec_.spec.mounts.push_back({"/link/kernel", "bind", dir_ + "/volume", {"rbind"}});
  Outcome outcome = RunIt(*Prepare());
  EXPECT_FALSE(outcome.report.ready());
  EXPECT_EQ(outcome.report.errno_value(), EINVAL);
  EXPECT_THAT(outcome.report.text(), HasSubstr("mount `/link/kernel`: the path leads to /proc"));
  // The host's, which a volume brought along, is not the container's own.
  spec_.spec.mounts.back().destination = "/host/sys/kernel";
  spec_.spec.mounts.insert(spec_.spec.mounts.end() - 1, {"/host", "bind", "/proc", {"rbind", "rprivate"}});
  EXPECT_EQ(Shell("cat /host/sys/kernel/data").output, "of the volume");
}

TEST_F(ContainerTest, WithoutGoNothingRuns) {
  spec_.spec.process.args = {"sh", "-c", "/bin/busybox touch /volume/ran /ran"};
  PreparedPlan prepared = *Prepare();
  ChannelPair barrier = *MakeChannel();
  clone_args args{};
  args.flags = prepared.plan.clone_flags();
  args.exit_signal = SIGCHLD;
  pid_t pid = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
  if (pid == 0) {
    barrier.a.Reset();
    int stdio[3] = {0, 1, 2};
    CarryOut(prepared.plan, std::move(prepared.fds), stdio, barrier.b.get());
  }
  barrier.b.Reset();
  ASSERT_TRUE(RecvMessage(barrier.a.get()).ok());
  barrier.a.Reset();
  int status = -1;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/upper/ran"));
}

TEST_F(ContainerTest, LoadsTheFilterWithAndWithoutNoNewPrivileges) {
  oci::Seccomp seccomp;
  seccomp.default_action = "SCMP_ACT_ALLOW";
  seccomp.architectures = {"SCMP_ARCH_X86_64"};
  seccomp.syscalls = {{{"mkdir", "mkdirat"}, "SCMP_ACT_ERRNO", 1, {}}};
  spec_.spec.seccomp = std::make_shared<oci::Seccomp>(seccomp);
  spec_.user.username = "ann";
  for (bool no_new_privileges : {true, false}) {
    spec_.spec.process.no_new_privileges = no_new_privileges;
    std::string out =
        Shell("$b mkdir /dev/shm; $b grep -E 'Seccomp:|CapEff|CapPrm' /proc/self/status").output;
    EXPECT_THAT(out, HasSubstr("Operation not permitted"));
    EXPECT_THAT(out, HasSubstr("Seccomp:\t2"));
    EXPECT_THAT(out, HasSubstr("CapPrm:\t0000000000000000\nCapEff:\t0000000000000000"));
  }
}

// A running container, a terminal and a further process in it, as the monitor makes one: the PID namespace is
// entered by a process of its own that forks the child.
TEST_F(ContainerTest, HasTerminalAndTakesFurtherProcesses) {
  spec_.spec.process.terminal = true;
  spec_.spec.process.args = {"sh", "-c", "/bin/busybox tty; /bin/busybox cat"};
  spec_.user.username = "ann";
  PreparedPlan prepared = *Prepare();
  const Plan plan = prepared.plan;
  ChannelPair barrier = *MakeChannel();
  clone_args args{};
  args.flags = prepared.plan.clone_flags();
  args.exit_signal = SIGCHLD;
  pid_t pid = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
  if (pid == 0) {
    barrier.a.Reset();
    int stdio[3] = {-1, -1, -1};
    CarryOut(prepared.plan, std::move(prepared.fds), stdio, barrier.b.get());
  }
  barrier.b.Reset();
  auto ready = RecvMessage(barrier.a.get());
  ASSERT_TRUE(ready.ok());
  Report report;
  report.ParseFromString(ready->data);
  EXPECT_TRUE(report.ready()) << report.step() << ": " << report.text();
  ASSERT_EQ(ready->fds.size(), 1u);
  ASSERT_TRUE(SendMessage(barrier.a.get(), "go").ok());
  EXPECT_FALSE(RecvMessage(barrier.a.get()).ok()) << "the program runs";
  std::string seen;
  char buffer[512];
  while (seen.find('\n') == std::string::npos) {
    ssize_t n = read(ready->fds[0].get(), buffer, sizeof buffer);
    if (n <= 0) break;
    seen.append(buffer, static_cast<size_t>(n));
  }
  EXPECT_THAT(seen, HasSubstr("/dev/pts/0"));

  PidRef process = *OpenPid(pid);
  EXPECT_EQ(PrepareExec(plan, process, {"sh", std::string(1, '\0')}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  auto exec = PrepareExec(plan, process,
                          {"sh", "-c",
                           "/bin/busybox hostname; /bin/busybox id -u; echo $HOME; echo $$; "
                           "/bin/busybox cat /volume/data"},
                          {});
  ASSERT_TRUE(exec.ok()) << exec.status();
  Pipe out = *MakePipe();
  ChannelPair second = *MakeChannel();
  Fd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  pid_t middle = fork();
  if (middle == 0) {
    second.a.Reset();
    if (setns(exec->fds[static_cast<size_t>(exec->plan.join_pid_ns_fd())].get(), CLONE_NEWPID) < 0) _exit(1);
    pid_t child = fork();
    int stdio[3] = {null.get(), out.write.get(), out.write.get()};
    if (child == 0) CarryOut(exec->plan, std::move(exec->fds), stdio, second.b.get());
    int status = 1;
    waitpid(child, &status, 0);
    _exit(WEXITSTATUS(status));
  }
  second.b.Reset();
  out.write.Reset();
  auto built = RecvMessage(second.a.get());
  ASSERT_TRUE(built.ok());
  report.ParseFromString(built->data);
  EXPECT_TRUE(report.ready()) << report.step() << ": " << report.text();
  SendMessage(second.a.get(), "go").IgnoreError();
  std::string output;
  for (ssize_t n; (n = read(out.read.get(), buffer, sizeof buffer)) > 0;)
    output.append(buffer, static_cast<size_t>(n));
  EXPECT_THAT(output, HasSubstr("inside\n1000\n/home/ann\n"));
  EXPECT_THAT(output, HasSubstr("of the volume"));
  int status = -1;
  waitpid(middle, &status, 0);
  EXPECT_EQ(status, 0);
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  absl::Status gone = PrepareExec(plan, process, {"sh"}, {}).status();
  EXPECT_EQ(gone.code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace sock::runtime
