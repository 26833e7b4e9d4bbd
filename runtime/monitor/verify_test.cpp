// The barrier's look at a forked process, by processes that keep to the plan but for one thing.
#include "runtime/monitor/verify.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "runtime/base/fd.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace sock::runtime::monitor {
namespace {

using testing::HasSubstr;

std::string Filter(long denied) {
  const sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                              BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(denied), 0, 1),
                              BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                              BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  return {reinterpret_cast<const char*>(code), sizeof code};
}

// What the process does; each step can be left out or replaced.
struct Steps {
  std::function<void()> first = [] {};  // with all privileges
  bool capabilities = true, no_new_privs = true;
  std::vector<std::string> filters{Filter(SYS_acct)};
  uint64_t filter_flags = 0;
  std::function<void()> last = [] {};
};

class VerifyTest : public testing::Test {
 protected:
  VerifyTest() {
    plan_.set_no_new_privileges(true);
    plan_.set_seccomp(Filter(SYS_acct));
    expected_.plan = &plan_;
    expected_.seccomp_filters = 1;
    expected_.host_uid = 1000;
    expected_.host_gid = 1001;
    expected_.host_groups = {1002, 1003};
    expected_.parent = getpid();
  }

  static void Run(const Steps& steps, int null, int channel) {
    for (int i = 0; i < 3; ++i) dup2(null, i);
    const int kept = dup2(channel, 9);
    close_range(3, 8, 0);
    close_range(10, ~0U, 0);
    steps.first();
    if (unshare(CLONE_NEWCGROUP) < 0) _exit(1);
    for (int cap = 0; steps.capabilities && prctl(PR_CAPBSET_READ, cap) >= 0; ++cap)
      prctl(PR_CAPBSET_DROP, cap);
    const gid_t groups[] = {1002, 1003};
    if (!steps.capabilities) prctl(PR_SET_KEEPCAPS, 1);
    if (setgroups(2, groups) < 0 || setresgid(1001, 1001, 1001) < 0 || setresuid(1000, 1000, 1000) < 0)
      _exit(2);
    if (steps.no_new_privs) prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    for (const std::string& filter : steps.filters) {
      const sock_fprog program{static_cast<unsigned short>(filter.size() / sizeof(sock_filter)),
                               reinterpret_cast<sock_filter*>(const_cast<char*>(filter.data()))};
      if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, steps.filter_flags, &program) < 0) _exit(3);
    }
    prctl(PR_SET_DUMPABLE, 1);
    steps.last();
    char byte = 0;
    if (write(kept, &byte, 1) != 1) _exit(4);
    while (read(kept, &byte, 1) > 0) {
    }
    _exit(0);
  }

  absl::Status Verify(const Steps& steps) {
    int pair[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    Fd ours(pair[0]), other(pair[1]), null(open("/dev/null", O_RDWR | O_CLOEXEC));
    const pid_t pid = fork();
    if (pid == 0) Run(steps, null.get(), other.get());
    expected_.channel = IdentityOf(other.get());
    other.Reset();
    for (FileIdentity& identity : expected_.descriptors) identity = IdentityOf(null.get());
    char byte;
    EXPECT_EQ(read(ours.get(), &byte, 1), 1) << "the process did not come to its end";
    Namespaces();
    expected_.root = *PlaceOf(getpid(), "root");
    expected_.cwd = *PlaceOf(getpid(), "cwd");
    if (expected_.cgroups.empty()) expected_.cgroups = *ReadFile(Cat("/proc/", pid, "/cgroup"), 1 << 16);
    int status = 0;
    EXPECT_EQ(ptrace(PTRACE_SEIZE, pid, nullptr, nullptr), 0);
    EXPECT_EQ(ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr), 0);
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFSTOPPED(status));
    const absl::Status verified = VerifyForked(pid, expected_);
    kill(pid, SIGKILL);
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return verified;
  }
  // Those of this process, which the other has not left.
  void Namespaces() {
    expected_.namespaces.clear();
    for (const char* kind : {"mnt", "user", "net", "ipc", "uts", "pid"})
      expected_.namespaces.emplace_back(kind, Of(kind));
    expected_.own_cgroup_ns = Of("cgroup");
  }
  static FileIdentity Of(const char* kind) {
    struct stat st {};
    stat(Cat("/proc/self/ns/", kind).c_str(), &st);
    return {st.st_dev, st.st_ino};
  }
  void ExpectCaught(const Steps& steps, const std::string& reason) {
    const absl::Status status = Verify(steps);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(reason));
  }

  Plan plan_;
  Expected expected_;
};

TEST_F(VerifyTest, WhatKeepsToThePlanPasses) {
  EXPECT_TRUE(Verify({}).ok()) << Verify({});
  plan_.set_seccomp_flags(SECCOMP_FILTER_FLAG_LOG);
  EXPECT_TRUE(Verify({.filter_flags = SECCOMP_FILTER_FLAG_LOG}).ok());
}

TEST_F(VerifyTest, PrivilegesThatAreKept) {
  ExpectCaught({.capabilities = false}, "CapBnd");
  ExpectCaught({.no_new_privs = false, .filters = {}}, "NoNewPrivs");
  plan_.set_cap_permitted(1ull << CAP_CHOWN);
  ExpectCaught({}, "CapPrm");
}

TEST_F(VerifyTest, SeccompFilters) {
  ExpectCaught({.filters = {}}, "number of seccomp filters");
  ExpectCaught({.filters = {Filter(SYS_acct), Filter(SYS_acct)}}, "number of seccomp filters");
  ExpectCaught({.filters = {Filter(SYS_swapon)}}, "another seccomp filter");
  ExpectCaught({.filters = {Filter(SYS_acct).substr(3 * sizeof(sock_filter))}}, "another seccomp filter");
  plan_.set_seccomp_flags(SECCOMP_FILTER_FLAG_LOG);
  ExpectCaught({}, "another seccomp filter");
  // Those that were there before are not the plan's.
  plan_.set_seccomp_flags(0);
  expected_.seccomp_filters = 2;
  ExpectCaught({.filters = {Filter(SYS_acct), Filter(SYS_swapon)}}, "another seccomp filter");
  EXPECT_TRUE(Verify({.filters = {Filter(SYS_swapon), Filter(SYS_acct)}}).ok());
}

TEST_F(VerifyTest, Ids) {
  expected_.host_uid = 1004;
  ExpectCaught({}, "Uid");
  expected_.host_uid = 1000;
  expected_.host_gid = 1004;
  ExpectCaught({}, "Gid");
  expected_.host_gid = 1001;
  expected_.host_groups = {1002};
  ExpectCaught({}, "Groups");
}

TEST_F(VerifyTest, Descriptors) {
  ExpectCaught({.last = [] { (void)!dup(0); }}, "descriptor 3 open");
  ExpectCaught({.last = [] { dup2(9, 200); }}, "open");
  ExpectCaught({.last = [] { dup2(open("/dev/zero", O_RDONLY), 0); }}, "descriptor 0");
}

TEST_F(VerifyTest, Company) {
  ExpectCaught({.last = [] { std::thread([] { pause(); }).detach(); }}, "threads");
  expected_.parent = 1;
  ExpectCaught({}, "parent");
  expected_.parent = getpid();
  expected_.first_in_pid_ns = true;
  ExpectCaught({}, "NSpid");
}

TEST_F(VerifyTest, Namespaces) {
  for (auto [flag, kind] :
       {std::pair{CLONE_NEWNS, "mnt"}, {CLONE_NEWNET, "net"}, {CLONE_NEWIPC, "ipc"}, {CLONE_NEWUTS, "uts"}})
    ExpectCaught({.first = [flag = flag] { unshare(flag); }}, Cat("another ", kind, " namespace"));
  ExpectCaught({.last = [] { unshare(CLONE_NEWUSER); }}, "Cap");
  ExpectCaught({.first = [] { (void)!chroot("/tmp"); }}, "another root");
  ExpectCaught({.first = [] { (void)!chdir("/proc"); }}, "another cwd");
  expected_.mounts = *ReadFile("/proc/self/mountinfo", 1 << 22);
  EXPECT_TRUE(Verify({}).ok());
  expected_.mounts += "one more";
  ExpectCaught({}, "changed its mounts");
  expected_.mounts.clear();
  expected_.cgroups = "0::/elsewhere\n";
  ExpectCaught({}, "another cgroup");
}

}  // namespace
}  // namespace sock::runtime::monitor
