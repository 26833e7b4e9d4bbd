#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

#include "oci/image_store.h"
#include "oci/manifest.h"
#include "oci/unpack.h"
#include "runtime/base/fd.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

struct Entry {
  std::string name;
  mode_t type = AE_IFREG;
  std::string content;  // or the target of a link
  bool hard = false;
  mode_t mode = 0644;
  int uid = 0;
};

class UnpackTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sock-oci-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(dir_).ok()); }

  // A gzip'd tar of the entries, at its beginning.
  Fd Tar(const std::vector<Entry>& entries) {
    Fd file(open(dir_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    std::unique_ptr<archive, int (*)(archive*)> writer(archive_write_new(), archive_write_free);
    archive_write_set_format_pax(writer.get());
    archive_write_add_filter_gzip(writer.get());
    archive_write_open_fd(writer.get(), file.get());
    for (const Entry& e : entries) {
      std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(archive_entry_new(), archive_entry_free);
      archive_entry_set_pathname(entry.get(), e.name.c_str());
      archive_entry_set_mode(entry.get(), e.type | e.mode);
      archive_entry_set_uid(entry.get(), e.uid);
      if (e.hard) {
        archive_entry_set_hardlink(entry.get(), e.content.c_str());
      } else if (e.type == AE_IFLNK) {
        archive_entry_set_symlink(entry.get(), e.content.c_str());
      } else if (e.type == AE_IFREG) {
        archive_entry_set_size(entry.get(), static_cast<la_int64_t>(e.content.size()));
      }
      archive_write_header(writer.get(), entry.get());
      if (e.type == AE_IFREG && !e.hard) archive_write_data(writer.get(), e.content.data(), e.content.size());
    }
    archive_write_close(writer.get());
    lseek(file.get(), 0, SEEK_SET);
    return file;
  }
  absl::Status Unpack(const std::vector<Entry>& entries, UnpackOptions options = {}) {
    return UnpackLayer(Tar(entries).get(), dir_ + "/layer", options).status();
  }
  bool Exists(const std::string& path) {
    struct stat st;
    return lstat((dir_ + path).c_str(), &st) == 0;
  }
  std::string dir_;
};

TEST_F(UnpackTest, KeepsOwnersModesAndLinks) {
  ASSERT_TRUE(Unpack({{"bin", AE_IFDIR, "", false, 0755},
                      {"bin/su", AE_IFREG, "program", false, 04755, 7},
                      {"bin/hard", AE_IFREG, "bin/su", true},
                      {"soft", AE_IFLNK, "/bin/su"}})
                  .ok());
  struct stat st, hard;
  ASSERT_EQ(stat((dir_ + "/layer/bin/su").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 04755u);
  EXPECT_EQ(st.st_uid, 7u);
  ASSERT_EQ(stat((dir_ + "/layer/bin/hard").c_str(), &hard), 0);
  EXPECT_EQ(st.st_ino, hard.st_ino);
  EXPECT_TRUE(Exists("/layer/soft"));
}

TEST_F(UnpackTest, WhiteoutsBecomeOverlayfss) {
  ASSERT_TRUE(Unpack({{"d", AE_IFDIR, "", false, 0755},
                      {"d/.wh.gone"},
                      {"o", AE_IFDIR, "", false, 0755},
                      {"o/.wh..wh..opq"}})
                  .ok());
  struct stat st;
  ASSERT_EQ(lstat((dir_ + "/layer/d/gone").c_str(), &st), 0);
  EXPECT_TRUE(S_ISCHR(st.st_mode));
  EXPECT_EQ(st.st_rdev, makedev(0, 0));
  char value[4];
  EXPECT_EQ(getxattr((dir_ + "/layer/o").c_str(), "trusted.overlay.opaque", value, sizeof value), 1);
  EXPECT_FALSE(Exists("/layer/o/.wh..wh..opq"));
}

TEST_F(UnpackTest, NothingIsWrittenOutsideAndARefusedLayerLeavesNothing) {
  const std::vector<std::vector<Entry>> hostile = {
      {{"../escaped", AE_IFREG, "x"}},
      {{"a/../../escaped", AE_IFREG, "x"}},
      {{"link", AE_IFLNK, dir_}, {"link/escaped", AE_IFREG, "x"}},
      {{"link", AE_IFLNK, ".."}, {"link/escaped", AE_IFREG, "x"}},
      {{"hard", AE_IFREG, "../../etc/passwd", true}},
  };
  for (const auto& entries : hostile) {
    absl::Status status = Unpack(entries);
    EXPECT_FALSE(Exists("/escaped")) << entries.back().name;
    // Refused whole, or made harmless inside the layer (a link that means the layer's own root).
    if (!status.ok()) {
      EXPECT_FALSE(Exists("/layer")) << status;
    }
    EXPECT_TRUE(RemoveTree(dir_ + "/layer").ok());
  }
  EXPECT_TRUE(absl::IsInvalidArgument(Unpack(hostile[0])));
  EXPECT_TRUE(absl::IsInvalidArgument(Unpack(hostile[4])));
}

TEST_F(UnpackTest, BombsAndWrongDigestsAreRefused) {
  UnpackOptions small;
  small.max_bytes = 1 << 20;
  EXPECT_TRUE(absl::IsResourceExhausted(Unpack({{"zeros", AE_IFREG, std::string(4 << 20, '\0')}}, small)));
  EXPECT_FALSE(Exists("/layer"));
  UnpackOptions other;
  other.diff_id = Sha256("another");
  EXPECT_TRUE(absl::IsDataLoss(Unpack({{"f", AE_IFREG, "x"}}, other)));
  EXPECT_FALSE(Exists("/layer"));
}

TEST(ManifestTest, WhatIsNoManifestIsRefused) {
  for (const char* bad :
       {"", "[]", "{}",
        "{\"schemaVersion\":2,\"config\":{\"digest\":\"sha256:..\",\"size\":1},\"layers\":[]}",
        "{\"schemaVersion\":2,\"layers\":7}"})
    EXPECT_TRUE(absl::IsInvalidArgument(ParseManifest(bad).status())) << bad;
}

TEST_F(UnpackTest, ALayersFilesOutliveTheImageWhileASnapshotUsesThem) {
  std::string make = Cat(SOURCE_DIR "/hack/images/make-image --busybox /bin/busybox ", dir_, "/layout");
  ASSERT_EQ(system(make.c_str()), 0);
  ImageStoreOptions options;
  options.root = dir_ + "/store";
  absl::StatusOr<std::unique_ptr<ImageStore>> store = ImageStore::Open(options);
  ASSERT_TRUE(store.ok()) << store.status();
  auto images = (*store)->Import(dir_ + "/layout", "test:1");
  ASSERT_TRUE(images.ok()) << images.status();
  auto rootfs = (*store)->CreateSnapshot("c1", images->front().id, 0, 0);
  ASSERT_TRUE(rootfs.ok()) << rootfs.status();
  ASSERT_EQ(rootfs->lower_dirs.size(), 1u);
  ASSERT_TRUE((*store)->Remove("test:1").ok());
  EXPECT_TRUE(absl::IsNotFound((*store)->Get("test:1").status()));
  EXPECT_EQ(access((rootfs->lower_dirs[0] + "/bin/busybox").c_str(), F_OK), 0);
  store = ImageStore::Open(options);  // a restart forgets nothing of it
  ASSERT_TRUE(store.ok());
  EXPECT_EQ(access((rootfs->lower_dirs[0] + "/bin/busybox").c_str(), F_OK), 0);
  ASSERT_TRUE((*store)->RemoveSnapshot("c1").ok());
  EXPECT_NE(access(rootfs->lower_dirs[0].c_str(), F_OK), 0);
  EXPECT_TRUE((*store)->RemoveSnapshot("c1").ok());
}

}  // namespace
}  // namespace sock::oci
