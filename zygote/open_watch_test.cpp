#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>

#include "absl/cleanup/cleanup.h"
#include "runtime/base/fd.h"
#include "zygote/learning.h"

namespace sock::zygote {
namespace {

void Say(const Fd& fd) { (void)!write(fd.get(), "x", 1); }
bool Heard(const Fd& fd) {
  char byte;
  return read(fd.get(), &byte, 1) == 1;
}

// The kernel opens a file for who is told of it, and an open waits for a lease to be given up (fcntl(2)).
TEST(OpenWatch, WaitsForNoProgram) {
  absl::StatusOr<Pipe> there = MakePipe(), back = MakePipe();
  ASSERT_TRUE(there.ok() && back.ok());
  const pid_t program = fork();
  if (program == 0) {
    there->write.Reset();
    signal(SIGIO, SIG_IGN);
    const bool made = unshare(CLONE_NEWNS) == 0 &&
                      mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                      mount("none", "/mnt", "tmpfs", 0, nullptr) == 0 && chroot("/mnt") == 0 &&
                      chdir("/") == 0 && mkdir("/site-packages", 0755) == 0;
    if (!made) _exit(1);
    Say(back->write);
    if (!Heard(there->read)) _exit(1);
    close(open("/site-packages/first.py", O_RDWR | O_CREAT, 0644));
    const int leased = open("/site-packages/leased.py", O_RDWR | O_CREAT, 0644);
    if (fcntl(leased, F_SETLEASE, F_WRLCK) < 0) _exit(1);
    Say(back->write);
    (void)Heard(there->read);
    _exit(0);
  }
  const absl::Cleanup end = [&] {
    kill(program, SIGKILL);
    waitpid(program, nullptr, 0);
  };
  back->write.Reset();
  ASSERT_TRUE(Heard(back->read));
  absl::StatusOr<OpenWatch> opens = OpenWatch::Open(program);
  ASSERT_TRUE(opens.ok()) << opens.status();
  Say(there->write);
  ASSERT_TRUE(Heard(back->read));
  const auto begin = std::chrono::steady_clock::now();
  opens->Drain();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));  // a lease: 45 s
  EXPECT_EQ(opens->modules(), std::vector<std::string>{"first"});
}

}  // namespace
}  // namespace sock::zygote
