#include "runtime/pins.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace sock::runtime {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class PinsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char dir[] = "/tmp/sock-pins-XXXXXX";
    ASSERT_NE(mkdtemp(dir), nullptr);
    dir_ = dir;
  }
  void TearDown() override {
    EXPECT_THAT(*ReadFile("/proc/self/mountinfo"), Not(HasSubstr(dir_)));
    EXPECT_TRUE(RemoveTree(dir_).ok());
  }
  std::unique_ptr<Pins> Open() {
    absl::StatusOr<std::unique_ptr<Pins>> pins = Pins::Open(dir_ + "/pins");
    EXPECT_TRUE(pins.ok()) << pins.status();
    return pins.ok() ? *std::move(pins) : nullptr;
  }
  static Fd NewUts() {
    Fd fd;
    std::thread([&] {
      EXPECT_EQ(unshare(CLONE_NEWUTS), 0);
      fd = Fd(open("/proc/thread-self/ns/uts", O_RDONLY | O_CLOEXEC));
    }).join();
    return fd;
  }
  static ino_t Inode(const Fd& fd) {
    struct stat st {};
    EXPECT_EQ(fstat(fd.get(), &st), 0);
    return st.st_ino;
  }
  std::string dir_;
};

TEST_F(PinsTest, ANamespaceOutlivesWhoPinnedIt) {
  Fd uts = NewUts();
  const ino_t inode = Inode(uts);
  auto pins = Open();
  ASSERT_NE(pins, nullptr);
  ASSERT_TRUE(pins->Add("one", {{"uts", uts.get()}}, std::nullopt).ok());
  uts.Reset();
  EXPECT_THAT(*ReadFile("/proc/self/mountinfo"), Not(HasSubstr("/one")));
  ASSERT_TRUE(pins->Rename("one", "two").ok());
  pins.reset();

  pins = Open();
  EXPECT_THAT(pins->List(), ElementsAre("two"));
  absl::StatusOr<Fd> again = pins->Namespace("two", "uts");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(Inode(*again), inode);
  EXPECT_TRUE(absl::IsNotFound(pins->Namespace("two", "net").status()));
  EXPECT_TRUE(absl::IsNotFound(pins->Namespace("one", "uts").status()));
  pins->Remove("two");
  pins->Remove("two");
  EXPECT_TRUE(absl::IsNotFound(pins->Namespace("two", "uts").status()));
}

TEST_F(PinsTest, ShmIsOneFileSystemForAllWhoAsk) {
  auto pins = Open();
  ASSERT_TRUE(pins->Add("pod", {}, Pins::Owner{}).ok());
  absl::StatusOr<Fd> first = pins->Shm("pod"), second = pins->Shm("pod");
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  Fd file(openat(first->get(), "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  EXPECT_TRUE(file.valid());
  EXPECT_EQ(faccessat(second->get(), "file", F_OK, 0), 0);
  struct statfs fs {};
  ASSERT_EQ(fstatfs(first->get(), &fs), 0);
  EXPECT_EQ(fs.f_type, TMPFS_MAGIC);
  EXPECT_EQ(fs.f_blocks * static_cast<uint64_t>(fs.f_bsize), 64u << 20);
  EXPECT_TRUE(absl::IsNotFound(pins->Shm("other").status()));
  pins->Remove("pod");
}

TEST_F(PinsTest, WhatCannotBePinnedLeavesNothing) {
  auto pins = Open();
  Fd uts = NewUts();
  EXPECT_FALSE(pins->Add("bad", {{"uts", uts.get()}, {"net", -1}}, std::nullopt).ok());
  EXPECT_THAT(pins->List(), IsEmpty());
  EXPECT_FALSE(pins->Add("twice/x", {}, std::nullopt).ok());
  ASSERT_TRUE(pins->Add("twice", {{"uts", uts.get()}}, std::nullopt).ok());
  EXPECT_FALSE(pins->Add("twice", {{"uts", uts.get()}}, std::nullopt).ok());
  EXPECT_TRUE(pins->Namespace("twice", "uts").ok());  // the first one stays
  EXPECT_FALSE(pins->Rename("none", "some").ok());
  pins->Remove("twice");
  EXPECT_THAT(pins->List(), Not(testing::Contains("twice")));
}

}  // namespace
}  // namespace sock::runtime
