#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "runtime/base/atomic_file.h"
#include "runtime/base/channel.h"
#include "runtime/base/ids.h"
#include "runtime/base/path.h"
#include "runtime/base/pidref.h"
#include "runtime/base/status.h"
#include "runtime/base/toml.h"

namespace sock {
namespace {

class BaseTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sock-base-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
    root_ = *OpenPath(dir_, O_RDONLY | O_DIRECTORY);
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(dir_).ok()); }
  std::string dir_;
  Fd root_;
};

TEST(StatusTest, KeepsErrnoThroughAnnotateAndWithCode) {
  absl::Status s = WithCode(Annotate(ErrnoStatus(ENOENT, "open `x`"), "create"), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrnoOf(s), ENOENT);
  EXPECT_EQ(s.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(s.message(), "create: open `x`: No such file or directory");
  EXPECT_EQ(ErrnoStatus(ENOSPC, "w").code(), absl::StatusCode::kResourceExhausted);
}

TEST(IdsTest, RefusesWhatIsNoPathComponent) {
  EXPECT_TRUE(CheckId(NewId(), "id").ok());
  EXPECT_NE(NewId(), NewId());
  for (const char* bad : {"", "..", ".x", "a/b", "a b", "-a", "a\n"})
    EXPECT_FALSE(CheckId(bad, "id").ok()) << bad;
  EXPECT_FALSE(CheckId(std::string(129, 'a'), "id").ok());
}

TEST_F(BaseTest, OpenInRootKeepsSymlinksInside) {
  ASSERT_EQ(symlink("/etc/passwd", (dir_ + "/absolute").c_str()), 0);
  ASSERT_EQ(symlink("../../../../etc/passwd", (dir_ + "/relative").c_str()), 0);
  EXPECT_TRUE(absl::IsNotFound(OpenInRoot(root_.get(), "absolute", O_RDONLY).status()));
  EXPECT_TRUE(absl::IsNotFound(OpenInRoot(root_.get(), "relative", O_RDONLY).status()));
  ASSERT_TRUE(MakeFileInRoot(root_.get(), "/etc/passwd").ok());
  EXPECT_TRUE(OpenInRoot(root_.get(), "relative", O_RDONLY).ok());
}

TEST_F(BaseTest, MakeDirsFollowsLinksInsideTheRootOnly) {
  ASSERT_EQ(mkdir((dir_ + "/real").c_str(), 0755), 0);
  ASSERT_EQ(symlink("/real", (dir_ + "/link").c_str()), 0);
  ASSERT_TRUE(MakeDirsInRoot(root_.get(), "/link/a/b").ok());
  struct stat st;
  EXPECT_EQ(stat((dir_ + "/real/a/b").c_str(), &st), 0);
  ASSERT_TRUE(MakeDirsInRoot(root_.get(), "/../../c").ok());
  EXPECT_EQ(stat((dir_ + "/c").c_str(), &st), 0);
}

TEST_F(BaseTest, AtomicFileLeavesNothingAside) {
  ASSERT_TRUE(WriteFileAtomic(dir_ + "/f", "one", Durability::kProcess).ok());
  ASSERT_TRUE(WriteFileAtomic(dir_ + "/f", "two", Durability::kReboot).ok());
  EXPECT_EQ(*ReadFile(dir_ + "/f"), "two");
  EXPECT_FALSE(WriteFileAtomic(dir_ + "/missing/f", "x", Durability::kProcess).ok());
  EXPECT_TRUE(absl::IsNotFound(ReadFile(dir_ + "/g").status()));
  EXPECT_TRUE(absl::IsResourceExhausted(ReadFile(dir_ + "/f", 2).status()));
}

TEST_F(BaseTest, RemoveTreeDoesNotFollowLinks) {
  ASSERT_TRUE(MakeDirs(dir_ + "/keep").ok());
  ASSERT_TRUE(WriteFileAtomic(dir_ + "/keep/f", "x", Durability::kProcess).ok());
  ASSERT_TRUE(MakeDirs(dir_ + "/gone/deep").ok());
  ASSERT_EQ(symlink((dir_ + "/keep").c_str(), (dir_ + "/gone/deep/link").c_str()), 0);
  ASSERT_TRUE(RemoveTree(dir_ + "/gone").ok());
  EXPECT_EQ(*ReadFile(dir_ + "/keep/f"), "x");
  EXPECT_TRUE(RemoveTree(dir_ + "/gone").ok());
}

TEST(ChannelTest, SmallAndLargeMessagesArriveWithTheirDescriptors) {
  ChannelPair pair = *MakeChannel();
  Pipe pipe = *MakePipe();
  for (size_t size : {size_t{0}, size_t{10}, size_t{64 << 10}, size_t{1 << 20}}) {
    std::string data(size, 'x');
    int fds[] = {pipe.read.get(), pipe.write.get()};
    ASSERT_TRUE(SendMessage(pair.a.get(), data, fds).ok());
    absl::StatusOr<Message> got = RecvMessage(pair.b.get());
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->data, data);
    ASSERT_EQ(got->fds.size(), 2u);
    EXPECT_TRUE(fcntl(got->fds[0].get(), F_GETFD) & FD_CLOEXEC);
  }
  pair.a.Reset();
  EXPECT_TRUE(absl::IsUnavailable(RecvMessage(pair.b.get()).status()));
  EXPECT_TRUE(absl::IsUnavailable(SendMessage(pair.b.get(), "x")));
}

TEST(PidRefTest, ExitIsSeenAndGoneIsSuccess) {
  pid_t pid = fork();
  if (pid == 0) {
    pause();
    _exit(0);
  }
  absl::StatusOr<PidRef> ref = OpenPid(pid);
  ASSERT_TRUE(ref.ok());
  EXPECT_FALSE(HasExited(*ref));
  EXPECT_TRUE(OpenPid(pid, ref->start_time).ok());
  EXPECT_TRUE(absl::IsNotFound(OpenPid(pid, ref->start_time + 1).status()));
  EXPECT_TRUE(SendSignal(*ref, SIGKILL).ok());
  int status;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(HasExited(*ref));
  EXPECT_TRUE(SendSignal(*ref, SIGKILL).ok());
  if (std::optional<int> told = ExitStatus(ref->pid, ref->pidfd.get())) {
    EXPECT_EQ(*told, status);
  }
  EXPECT_TRUE(absl::IsNotFound(OpenPid(pid).status()));
}

TEST(PidRefTest, DescendantsAreKilledOrphansToo) {
  int held[2];  // its end of file: no descendant lives
  ASSERT_EQ(pipe2(held, O_CLOEXEC), 0);
  pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    for (int i = 0; i < 3; ++i) {
      pid_t child = fork();
      if (child == 0) {
        setsid();
        if (fork() != 0) _exit(0);
        if (write(held[1], "x", 1) != 1) _exit(1);
        for (;;) pause();
      }
      waitpid(child, nullptr, 0);
    }
    close(held[1]);
    for (;;) pause();
  }
  close(held[1]);
  char byte;
  for (int i = 0; i < 3; ++i) ASSERT_EQ(read(held[0], &byte, 1), 1);
  absl::StatusOr<PidRef> ancestor = OpenPid(pid);
  ASSERT_TRUE(ancestor.ok());
  ASSERT_TRUE(SendSignal(*ancestor, SIGSTOP).ok());
  KillDescendants(*ancestor);
  EXPECT_FALSE(HasExited(*ancestor));
  ASSERT_TRUE(SendSignal(*ancestor, SIGCONT).ok());
  EXPECT_EQ(read(held[0], &byte, 1), 0);
  ASSERT_TRUE(SendSignal(*ancestor, SIGKILL).ok());
  waitpid(pid, nullptr, 0);
  close(held[0]);
}

TEST(TomlTest, OnlyWhatTheParserBears) {
  for (const char* good :
       {"", "a = \"\xc3\xa9\"  # \xc3\xa9\n[t]\r\n[[u]]\n[ \"q\" . r ]\n", "b = [\n  [\n\"x\"], [ 1 ] ]\n[t]",
        "c = \"\"\"\n[=] \xc3\xa9 \"\"\n\"\"\"\"\"\nd = '''[=]\n[=]'''\n",
        "\xef\xbb\xbf[t]\ne = \"\\\"[\\\\\"\n"})
    EXPECT_TRUE(CheckToml(good).ok()) << good << ": " << CheckToml(good);
  for (const char* bad :
       {"[=]", "a = 1\n  [[)", "[", "[\n", "\xc3\xa9 = 1", "a = [\n1]\n[=]", "\xef\xbb\xbf[=]",
        "a = \"\"\"x\\\n \xc3\xa9\"\"\"", "a = \"[\"\n[=]", "a = 'x' \xef\xbb\x9f", "a = 1\"\xc3\xa9\""})
    EXPECT_TRUE(absl::IsInvalidArgument(CheckToml(bad))) << bad;
  EXPECT_EQ(CheckToml("a = 1\n\n[=]").message(), "line 3: a table's header must begin with a key");
}

}  // namespace
}  // namespace sock
