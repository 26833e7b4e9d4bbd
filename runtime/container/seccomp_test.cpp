#include "runtime/container/seccomp.h"

#include <gmock/gmock.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>

#include "runtime/container/seccomp_profile.h"

namespace sock::runtime {
namespace {

// errno of `call` in a child under `code`; 0: it succeeded; -1: the child died otherwise.
int ErrnoUnder(const std::string& code, const std::function<long()>& call) {
  const pid_t pid = fork();
  if (pid == 0) {
    sock_fprog program{static_cast<unsigned short>(code.size() / sizeof(sock_filter)),
                       reinterpret_cast<sock_filter*>(const_cast<char*>(code.data()))};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
      _exit(255);
    _exit(call() < 0 ? errno : 0);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) != 255 ? WEXITSTATUS(status) : -1;
}

TEST(Seccomp, DefaultProfileInTheKernel) {
  auto plain = CompileSeccomp(*DefaultSeccompProfile({}));
  auto admin = CompileSeccomp(*DefaultSeccompProfile({"CAP_SYS_ADMIN"}));
  ASSERT_TRUE(plain.ok()) << plain.status();
  ASSERT_TRUE(admin.ok()) << admin.status();
  auto unshare_uts = [] { return syscall(SYS_unshare, CLONE_NEWUTS); };
  EXPECT_EQ(ErrnoUnder(*plain, [] { return syscall(SYS_getpid); }), 0);
  EXPECT_EQ(ErrnoUnder(*plain, unshare_uts), EPERM);
  EXPECT_NE(ErrnoUnder(*plain, [] { return syscall(SYS_personality, 0xffffffff); }), EPERM);
  EXPECT_EQ(ErrnoUnder(*plain, [] { return syscall(SYS_personality, 0x0040000); }), EPERM);
  EXPECT_EQ(ErrnoUnder(*plain, [] { return syscall(SYS_clone3, nullptr, 0); }), ENOSYS);
  EXPECT_EQ(ErrnoUnder(*plain, [] { return syscall(SYS_clone, CLONE_NEWUSER, 0, 0, 0, 0); }), EPERM);
  EXPECT_EQ(ErrnoUnder(*plain, [] { return syscall(SYS_keyctl, 0, 0); }), EPERM);
  EXPECT_EQ(ErrnoUnder(*plain, [] { return syscall(SYS_io_uring_setup, 1, nullptr); }), EPERM);
  EXPECT_EQ(ErrnoUnder(*plain, [] { return syscall(SYS_socket, AF_VSOCK, SOCK_STREAM, 0); }), EPERM);
  EXPECT_EQ(ErrnoUnder(*plain, [] { return syscall(SYS_socket, AF_INET, SOCK_STREAM, 0); }), 0);
  EXPECT_EQ(ErrnoUnder(*plain, [] { return syscall(9999); }), ENOSYS);
  EXPECT_EQ(ErrnoUnder(*admin, [] { return syscall(SYS_clone3, nullptr, 0); }), EINVAL);
  if (geteuid() == 0) {
    EXPECT_EQ(ErrnoUnder(*admin, unshare_uts), 0);
  }
}

TEST(Seccomp, Arguments) {
  oci::Seccomp s{.default_action = "SCMP_ACT_ALLOW"};
  s.architectures = {"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_S390X"};
  s.syscalls = {{{"no_such_call", "getpgid"},
                 "SCMP_ACT_ERRNO",
                 77,
                 {{0, 5, 0, "SCMP_CMP_EQ"}, {0, 6, 0, "SCMP_CMP_EQ"}}}};
  auto code = CompileSeccomp(s);
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(ErrnoUnder(*code, [] { return syscall(SYS_getpgid, 5); }), 77);
  EXPECT_EQ(ErrnoUnder(*code, [] { return syscall(SYS_getpgid, 6); }), 77);
  EXPECT_EQ(ErrnoUnder(*code, [] { return syscall(SYS_getpgid, 0); }), 0);
  EXPECT_EQ(*CompileSeccomp(s), *code);
}

TEST(Seccomp, RefusesWhatIsUnknown) {
  auto code_of = [](const oci::Seccomp& s) { return CompileSeccomp(s).status().code(); };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code_of({.default_action = "SCMP_ACT_MAYBE"}), kInvalid);
  EXPECT_EQ(code_of({.default_action = "SCMP_ACT_ALLOW", .architectures = {"SCMP_ARCH_Z80"}}), kInvalid);
  EXPECT_EQ(code_of({.default_action = "SCMP_ACT_ALLOW", .flags = {"X"}}), kInvalid);
  oci::Seccomp s{.default_action = "SCMP_ACT_ALLOW"};
  s.syscalls = {{{"getpid"}, "SCMP_ACT_ERRNO", {}, {{0, 1, 0, "SCMP_CMP_ISH"}}}};
  EXPECT_EQ(code_of(s), kInvalid);
  s.syscalls[0].args[0] = {9, 1, 0, "SCMP_CMP_EQ"};
  EXPECT_EQ(code_of(s), kInvalid);
}

TEST(Seccomp, ProfileFile) {
  auto s = ParseSeccompProfile(R"({"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,
    "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
               {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":["SCMP_ARCH_ARM"]}],
    "syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":null},
      {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
      {"names":["clone"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]},
       "args":[{"index":0,"value":2114060288,"valueTwo":1,"op":"SCMP_CMP_MASKED_EQ"}]},
      {"names":["x"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["ppc64le"]}}]})");
  ASSERT_TRUE(s.ok()) << s.status();
  EXPECT_EQ(s->default_errno_ret, 38u);
  EXPECT_EQ(s->architectures.size(), 2u);
  ASSERT_EQ(s->syscalls.size(), 2u);
  EXPECT_EQ(s->syscalls[1].names, std::vector<std::string>{"clone"});
  EXPECT_EQ(s->syscalls[1].args[0].value_two, 1u);
  for (const char* bad :
       {"", "[]", "{}", R"({"defaultAction":1})", R"({"defaultAction":"A","syscalls":[1]})",
        R"({"defaultAction":"A","syscalls":[{"names":[],"action":"A"}]})",
        R"({"defaultAction":"A","syscalls":[{"names":["a"],"action":"A","args":[{"index":-1}]}]})"})
    EXPECT_EQ(ParseSeccompProfile(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
}

}  // namespace
}  // namespace sock::runtime
