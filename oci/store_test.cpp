// What hostile layers and layouts can't do, and the store's life cycle. Needs root: device nodes, trusted
// xattrs.
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "oci/image_store.h"
#include "oci/manifest.h"
#include "oci/unpack.h"
#include "runtime/base/fd.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

struct Item {
  std::string path;
  mode_t type = S_IFREG;
  std::string data;  // or a link's target
  mode_t mode = 0644;
  bool hardlink = false;
  std::map<std::string, std::string> xattrs;
  time_t mtime = 1000000000;
  int uid = 0, gid = 0;
  dev_t rdev = 0;
};

enum class Filter { kPlain, kGzip, kZstd };

std::string MakeTar(const std::vector<Item>& items, Filter filter = Filter::kPlain) {
  std::string out(4 << 20, 0);
  size_t used = 0;
  archive* a = archive_write_new();
  archive_write_set_format_pax(a);
  if (filter == Filter::kGzip) archive_write_add_filter_gzip(a);
  if (filter == Filter::kZstd) archive_write_add_filter_zstd(a);
  archive_write_set_bytes_in_last_block(a, 1);
  archive_write_open_memory(a, out.data(), out.size(), &used);
  for (const Item& item : items) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, item.path.c_str());
    archive_entry_set_mode(entry, item.type | item.mode);
    archive_entry_set_mtime(entry, item.mtime, 0);
    archive_entry_set_uid(entry, item.uid);
    archive_entry_set_gid(entry, item.gid);
    archive_entry_set_rdev(entry, item.rdev);
    for (const auto& [name, value] : item.xattrs)
      archive_entry_xattr_add_entry(entry, name.c_str(), value.data(), value.size());
    const bool file = item.type == S_IFREG && !item.hardlink;
    archive_entry_set_size(entry, file ? static_cast<la_int64_t>(item.data.size()) : 0);
    if (item.hardlink) archive_entry_set_hardlink(entry, item.data.c_str());
    if (item.type == S_IFLNK) archive_entry_set_symlink(entry, item.data.c_str());
    EXPECT_GE(archive_write_header(a, entry), ARCHIVE_WARN) << archive_error_string(a);
    if (file && !item.data.empty()) archive_write_data(a, item.data.data(), item.data.size());
    archive_entry_free(entry);
  }
  archive_write_close(a);
  archive_write_free(a);
  out.resize(used);
  return out;
}

class LayerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/store_test.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(dir_).ok()); }
  absl::StatusOr<Unpacked> Unpack(const std::string& tar, UnpackOptions options = {}) {
    Write(dir_ + "/tar", tar);
    Fd fd(open((dir_ + "/tar").c_str(), O_RDONLY | O_CLOEXEC));
    return UnpackLayer(fd.get(), layer(), options);
  }
  bool IsOpaque(const std::string& path) {
    char value = 0;
    return lgetxattr((layer() + path).c_str(), "trusted.overlay.opaque", &value, 1) == 1 && value == 'y';
  }
  std::string layer() const { return dir_ + "/layer"; }
  static void Write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }
  static std::string Read(const std::string& path) { return ReadFile(path).value_or("<none>"); }
  std::string dir_;
};

TEST_F(LayerTest, EveryCompressionGivesTheSameTree) {
  const std::string capability("\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
  const std::string name = "d/cafe\xcc\x81";  // not in NFC: must stay as it is
  const std::vector<Item> items = {
      {.path = "./", .type = S_IFDIR, .mode = 0555},
      {.path = "d/", .type = S_IFDIR, .mode = 01777, .mtime = 1234567890},
      {.path = name,
       .data = "x",
       .xattrs = {{"security.capability", capability}, {"trusted.overlay.redirect", "/etc"}}},
  };
  for (Filter filter : {Filter::kPlain, Filter::kGzip, Filter::kZstd}) {
    auto result = Unpack(MakeTar(items, filter), {.diff_id = Sha256(MakeTar(items))});
    ASSERT_TRUE(result.ok()) << result.status();
    struct stat root, d;
    ASSERT_EQ(stat(layer().c_str(), &root), 0);
    ASSERT_EQ(stat((layer() + "/d").c_str(), &d), 0);
    EXPECT_EQ(root.st_mode & 07777, 0555u);
    EXPECT_EQ(d.st_mode & 07777, 01777u);
    EXPECT_EQ(d.st_mtime, 1234567890);
    char value[64];
    EXPECT_EQ(lgetxattr((layer() + "/" + name).c_str(), "security.capability", value, 64), 20);
    EXPECT_LT(lgetxattr((layer() + "/" + name).c_str(), "trusted.overlay.redirect", value, 64), 0);
    ASSERT_TRUE(RemoveTree(layer()).ok());
  }
}

TEST_F(LayerTest, DevicesOwnersAndAttributesAreKept) {
  auto result = Unpack(
      MakeTar({{.path = "null", .type = S_IFCHR, .mode = 0666, .uid = 3, .gid = 70000, .rdev = makedev(1, 3)},
               {.path = "disk", .type = S_IFBLK, .mode = 0640, .rdev = makedev(259, 1048575)},
               {.path = "fifo", .type = S_IFIFO, .mode = 0600},
               {.path = "link", .type = S_IFLNK, .data = "null", .uid = 5, .gid = 6},
               {.path = "set", .data = "s", .mode = 06755, .xattrs = {{"user.a", "1"}}, .uid = 7, .gid = 8},
               {.path = "o/", .type = S_IFDIR, .mode = 02770, .uid = 9},
               {.path = "o/.wh..wh..opq"}}));
  ASSERT_TRUE(result.ok()) << result.status();
  auto at = [&](const std::string& name) {
    struct stat st {};
    EXPECT_EQ(lstat((layer() + "/" + name).c_str(), &st), 0) << name;
    return st;
  };
  EXPECT_EQ(at("null").st_mode, S_IFCHR | 0666u);
  EXPECT_EQ(at("null").st_rdev, makedev(1, 3));
  EXPECT_EQ(at("null").st_gid, 70000u);
  EXPECT_EQ(at("disk").st_mode, S_IFBLK | 0640u);
  EXPECT_EQ(at("disk").st_rdev, makedev(259, 1048575));
  EXPECT_EQ(at("fifo").st_mode, S_IFIFO | 0600u);
  EXPECT_EQ(at("link").st_uid, 5u);
  EXPECT_EQ(at("null").st_uid, 3u);  // not through the link
  EXPECT_EQ(at("set").st_mode, S_IFREG | 06755u);
  EXPECT_EQ(at("o").st_mode, S_IFDIR | 02770u);
  EXPECT_TRUE(IsOpaque("/o"));
  char value = 0;
  EXPECT_EQ(lgetxattr((layer() + "/set").c_str(), "user.a", &value, 1), 1);
  EXPECT_EQ(value, '1');
}

// The process that unpacks, while it waits for the rest of a layer.
TEST_F(LayerTest, TheProcessIsConfinedAndItsDeathIsAnError) {
  auto pipe = MakePipe();
  ASSERT_TRUE(pipe.ok());
  absl::Status status;
  std::thread unpacking([&] { status = UnpackLayer(pipe->read.get(), layer(), {}).status(); });
  // More than the pipe takes: once this is written, some was read, and the process is what it will be.
  const std::string tar = MakeTar({{.path = "large", .data = std::string(1 << 20, 'x')}});
  EXPECT_TRUE(WriteAll(pipe->write.get(), tar.substr(0, 300'000)).ok());
  std::string child;
  for (const auto& task : fs::directory_iterator("/proc/self/task"))
    if (std::string children = Read(task.path().string() + "/children"); children != "<none>")
      child += children;
  child = child.substr(0, child.find(' '));
  const std::string proc_status = Read("/proc/" + child + "/status");
  EXPECT_THAT(proc_status, testing::HasSubstr("Name:\tcri-sock-unpack\n"));
  EXPECT_THAT(proc_status, testing::HasSubstr("NoNewPrivs:\t1\n"));
  EXPECT_THAT(proc_status, testing::HasSubstr("Seccomp:\t2\n"));
  EXPECT_THAT(proc_status, testing::HasSubstr("CapEff:\t000000008820001b\n"));
  const std::string mounts = Read("/proc/" + child + "/mountinfo");
  EXPECT_EQ(std::count(mounts.begin(), mounts.end(), '\n'), 1) << mounts;
  EXPECT_THAT(mounts, testing::HasSubstr("nodev"));
  for (const auto& fd : fs::directory_iterator("/proc/" + child + "/fd"))
    EXPECT_THAT(fs::read_symlink(fd.path()).string(),
                testing::AnyOf(testing::StartsWith("pipe:"), testing::Eq("/"), testing::StartsWith("/large"),
                               testing::Eq(fs::read_symlink("/proc/self/fd/2").string())));
  kill(std::stoi(child), SIGKILL);
  unpacking.join();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("signal 9"));
  EXPECT_FALSE(fs::exists(layer()));
}

TEST_F(LayerTest, AWhiteoutMeansTheLayersBelow) {
  auto result = Unpack(MakeTar({{.path = "app/", .type = S_IFDIR, .mode = 0755},
                                {.path = ".wh.app"},
                                {.path = ".wh.late"},
                                {.path = "late/", .type = S_IFDIR, .mode = 0755},
                                {.path = "own", .data = "o"},
                                {.path = ".wh.own"},
                                {.path = ".wh..wh.plnk/", .type = S_IFDIR}}));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(IsOpaque("/app"));
  EXPECT_TRUE(IsOpaque("/late"));
  EXPECT_EQ(Read(layer() + "/own"), "o");
  EXPECT_FALSE(fs::exists(layer() + "/.wh..wh.plnk"));
}

TEST_F(LayerTest, LinksAndWhiteoutsStayInside) {
  const std::string outside = dir_ + "/outside";
  Write(outside, "safe");
  const std::vector<std::vector<Item>> refused = {
      {{.path = "x", .data = outside, .hardlink = true}},
      {{.path = "l", .type = S_IFLNK, .data = ".."}, {.path = "x", .data = "l/outside", .hardlink = true}},
      {{.path = "../.wh.outside"}},
      {{.path = ".wh..."}, {.path = ".wh.."}},
      {{.path = ".wh."}},
      {{.path = "f", .data = "file"}, {.path = "f/below", .data = "evil"}},
      {{.path = "loop", .type = S_IFLNK, .data = "loop"}, {.path = "loop/x", .data = "evil"}},
      {{.path = "d/", .type = S_IFDIR}, {.path = "x", .data = "d", .hardlink = true}},
  };
  for (size_t i = 0; i < refused.size(); ++i) {
    auto result = Unpack(MakeTar(refused[i]));
    EXPECT_TRUE(absl::IsInvalidArgument(result.status())) << i << ": " << result.status();
    EXPECT_FALSE(fs::exists(layer())) << i;
    ASSERT_TRUE(RemoveTree(layer()).ok());
  }
  auto result = Unpack(MakeTar({{.path = Cat(dir_, "/"), .type = S_IFDIR, .mode = 0755},
                                {.path = "abs", .type = S_IFLNK, .data = dir_},
                                {.path = "abs/outside", .data = "in"},
                                {.path = "file", .type = S_IFLNK, .data = outside},
                                {.path = "file", .data = "replaced"},
                                {.path = "a", .data = "one"},
                                {.path = "b", .data = "a", .hardlink = true},
                                {.path = "a", .data = "two"},
                                {.path = "a", .data = "a", .hardlink = true}}));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Read(layer() + outside), "in");
  EXPECT_EQ(Read(layer() + "/file"), "replaced");
  EXPECT_EQ(Read(layer() + "/a"), "two");
  EXPECT_EQ(Read(layer() + "/b"), "one");  // not written through the link
  EXPECT_EQ(Read(outside), "safe");
}

TEST_F(LayerTest, ACutOrCancelledLayerLeavesNothing) {
  const std::string tar = MakeTar({{.path = "a", .data = std::string(100000, 'a')}}, Filter::kGzip);
  EXPECT_TRUE(absl::IsCancelled(Unpack(tar, {.cancelled = [] { return true; }}).status()));
  EXPECT_FALSE(fs::exists(layer()));
  EXPECT_TRUE(absl::IsInvalidArgument(Unpack(tar.substr(0, tar.size() / 2)).status()));
  EXPECT_FALSE(fs::exists(layer()));
  EXPECT_TRUE(absl::IsInvalidArgument(Unpack("this is no tar at all, nor compressed").status()));
  EXPECT_FALSE(fs::exists(layer()));
  EXPECT_TRUE(Unpack(std::string(1024, 0)).ok());  // an empty layer
}

class StoreTest : public LayerTest {
 protected:
  struct Made {
    std::string id;
    std::vector<std::string> chains;
  };
  // Adds an image to the layout; its layers are gzip'd tars.
  Made AddImage(const std::string& name, const std::vector<std::vector<Item>>& layers) {
    json diff_ids = json::array(), descriptors = json::array();
    for (const auto& items : layers) {
      diff_ids.push_back(Sha256(MakeTar(items)));
      descriptors.push_back(Put(MakeTar(items, Filter::kGzip)));
    }
    const Platform host = HostPlatform();
    json config = Put(json{{"os", host.os},
                           {"architecture", host.architecture},
                           {"config", {{"Cmd", {name}}}},
                           {"rootfs", {{"type", "layers"}, {"diff_ids", diff_ids}}}}
                          .dump());
    json manifest = Put(json{{"schemaVersion", 2}, {"config", config}, {"layers", descriptors}}.dump());
    manifest["annotations"] = {{"org.opencontainers.image.ref.name", name}};
    index_["manifests"].push_back(manifest);
    Write(layout() + "/index.json", index_.dump());
    last_layer_ = descriptors.empty() ? "" : BlobPath(descriptors.back()["digest"]);
    return {config["digest"], ChainIds(diff_ids)};
  }
  json Put(const std::string& bytes) {
    fs::create_directories(layout() + "/blobs/sha256");
    Write(BlobPath(Sha256(bytes)), bytes);
    return {{"digest", Sha256(bytes)}, {"size", bytes.size()}};
  }
  std::unique_ptr<ImageStore> Open() {
    auto store = ImageStore::Open({.root = dir_ + "/store"});
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }
  size_t Entries(const std::string& folder) {
    return static_cast<size_t>(std::distance(fs::directory_iterator(dir_ + "/store/" + folder), {}));
  }
  std::string BlobPath(const std::string& digest) { return layout() + "/blobs/sha256/" + digest.substr(7); }
  std::string layout() const { return dir_ + "/layout"; }
  json index_ = {{"schemaVersion", 2}, {"manifests", json::array()}};
  std::string last_layer_;
  const std::vector<Item> base_ = {{.path = "base", .data = "b"}}, top_ = {{.path = "top", .data = "t"}};
};

TEST_F(StoreTest, FindsByEveryNameAlsoAfterARestart) {
  const Made made = AddImage("example.com/app:1", {base_, top_});
  auto store = Open();
  ASSERT_TRUE(store->Import(layout(), "").ok());
  fs::create_directories(dir_ + "/store/layers/.tmp-left/x");
  store.reset();
  store = Open();
  EXPECT_EQ(Entries("layers"), 2u);  // what an interrupted pull left is gone
  const std::string hex = made.id.substr(7);
  for (const std::string& name : {std::string("example.com/app:1"), made.id, hex, hex.substr(0, 12)}) {
    auto image = store->Get(name);
    ASSERT_TRUE(image.ok()) << name << ": " << image.status();
    EXPECT_EQ(image->layers, made.chains);
    EXPECT_THAT(image->repo_tags, ElementsAre("example.com/app:1"));
    EXPECT_THAT(image->config.cmd, ElementsAre("example.com/app:1"));
  }
  for (const std::string& name :
       {std::string("example.com/app:2"), hex.substr(0, 11), std::string(64, '0'), std::string("NOT A NAME")})
    EXPECT_TRUE(absl::IsNotFound(store->Get(name).status())) << name << ": " << store->Get(name).status();
  EXPECT_TRUE(store->Remove(std::string(64, '0')).ok());  // gone is success
  EXPECT_EQ(store->List().size(), 1u);
}

TEST_F(StoreTest, TheLastUserTakesALayerAway) {
  const Made app = AddImage("example.com/app:1", {base_, top_}),
             other = AddImage("example.com/other:1", {base_});
  auto store = Open();
  ASSERT_TRUE(store->Import(layout(), "").ok());
  auto rootfs = store->CreateSnapshot("c1", app.id, 5, 6);
  ASSERT_TRUE(rootfs.ok()) << rootfs.status();
  ASSERT_EQ(rootfs->lower_dirs.size(), 2u);
  EXPECT_EQ(Read(rootfs->lower_dirs[0] + "/top"), "t");  // topmost first
  struct stat st;
  ASSERT_EQ(stat(rootfs->upper_dir.c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 5u);
  Write(rootfs->upper_dir + "/written", std::string(8192, 'x'));
  EXPECT_GE(store->SnapshotUsage("c1")->bytes, 8192u);
  const uint64_t before = store->FilesystemUsage()->inodes;
  ASSERT_TRUE(store->Remove("example.com/app:1").ok());
  EXPECT_EQ(Entries("layers"), 2u);
  ASSERT_TRUE(store->RemoveSnapshot("c1").ok());
  EXPECT_EQ(Entries("layers"), 1u);  // the other image uses the lowest
  EXPECT_LT(store->FilesystemUsage()->inodes, before);
  ASSERT_TRUE(store->Remove(other.id).ok());
  EXPECT_EQ(Entries("layers"), 0u);
  EXPECT_EQ(Entries("blobs"), 0u);
  EXPECT_TRUE(absl::IsNotFound(store->CreateSnapshot("c2", other.id, 0, 0).status()));
  EXPECT_THAT(store->ListSnapshots(), IsEmpty());
}

TEST_F(StoreTest, ALayoutThatLiesLeavesNothing) {
  const Made made = AddImage("example.com/app:1", {base_, top_});
  auto store = Open();
  const std::string config = Read(BlobPath(made.id)), layer = Read(last_layer_);
  json changed = json::parse(config);
  changed["config"]["User"] = "root";
  Write(BlobPath(made.id), changed.dump());
  EXPECT_TRUE(absl::IsDataLoss(store->Import(layout(), "").status()));  // a config of another digest
  Write(BlobPath(made.id), config);
  Write(last_layer_, MakeTar({{.path = "evil", .data = "e"}}, Filter::kGzip));
  EXPECT_TRUE(absl::IsDataLoss(store->Import(layout(), "").status()));  // a layer of another digest
  Write(dir_ + "/secret", layer);
  fs::remove(last_layer_);
  fs::create_symlink(dir_ + "/secret", last_layer_);  // a blob outside the layout
  EXPECT_FALSE(store->Import(layout(), "").ok());
  EXPECT_EQ(Entries("layers"), 0u);
  EXPECT_EQ(Entries("blobs"), 0u);
  EXPECT_THAT(store->List(), IsEmpty());
}

TEST_F(StoreTest, ConcurrentImportsMakeEachLayerOnce) {
  const Made made = AddImage("example.com/app:1", {base_, top_});
  auto store = Open();
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&, i] {
      auto images = store->Import(layout(), Cat("example.com/app:", i));
      EXPECT_TRUE(images.ok()) << images.status();
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(store->Get(made.id)->repo_tags.size(), 8u);
  EXPECT_EQ(Entries("layers"), 2u);
  EXPECT_EQ(Entries("blobs"), 2u);
}

TEST_F(StoreTest, DirectoriesWithoutAnEntryAreThoseOfTheLayersBelow) {
  const Made made = AddImage(
      "example.com/app:1",
      {{{.path = "tmp/", .type = S_IFDIR, .mode = 01777}, {.path = "gone/", .type = S_IFDIR, .mode = 0700}},
       {{.path = ".wh.gone"}, {.path = "tmp/a/first", .data = "1"}},
       {{.path = "tmp/a/second", .data = "2"}, {.path = "gone/new/file", .data = "3"}}});
  auto store = Open();
  const mode_t before = umask(077);  // must not matter
  auto images = store->Import(layout(), "");
  umask(before);
  ASSERT_TRUE(images.ok()) << images.status();
  auto rootfs = store->CreateSnapshot("c1", made.id, 0, 0);
  ASSERT_TRUE(rootfs.ok()) << rootfs.status();
  auto mode = [&](size_t layer, const std::string& path) {
    struct stat st {};
    EXPECT_EQ(stat((rootfs->lower_dirs[layer] + path).c_str(), &st), 0) << path;
    return st.st_mode & 07777;
  };
  EXPECT_EQ(mode(1, "/tmp"), 01777u);
  EXPECT_EQ(mode(1, "/tmp/a"), 0755u);
  EXPECT_EQ(mode(0, "/tmp"), 01777u);
  EXPECT_EQ(mode(0, "/gone"), 0755u);  // the whiteout between hides the lowest
  EXPECT_EQ(mode(0, "/gone/new"), 0755u);
}

TEST_F(StoreTest, ADockerSaveArchive) {
  const std::string base = MakeTar(base_), top = MakeTar(top_);
  const Platform host = HostPlatform();
  const std::string config = json{{"os", host.os},
                                  {"architecture", host.architecture},
                                  {"rootfs", {{"diff_ids", {Sha256(base), Sha256(top), Sha256(base)}}}}}
                                 .dump();
  auto save = [&](const json& manifest) {
    Write(dir_ + "/save.tar", MakeTar({{.path = "manifest.json", .data = manifest.dump()},
                                       {.path = "c/layer.tar", .type = S_IFLNK, .data = "../a/layer.tar"},
                                       {.path = "a/layer.tar", .data = base},
                                       {.path = "b/layer.tar", .data = top},
                                       {.path = "c.json", .data = config}},
                                      Filter::kGzip));
    return dir_ + "/save.tar";
  };
  json manifest = {{{"Config", "c.json"},
                    {"RepoTags", {"app:1", "example.com/app:2"}},
                    {"Layers", {"a/layer.tar", "b/layer.tar", "c/layer.tar"}}}};
  auto store = Open();
  auto images = store->Import(save(manifest), "");
  ASSERT_TRUE(images.ok()) << images.status();
  auto image = store->Get("example.com/app:2");
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->id, Sha256(config));
  EXPECT_THAT(image->repo_tags, ElementsAre("docker.io/library/app:1", "example.com/app:2"));
  EXPECT_EQ(Entries("layers"), 3u);
  ASSERT_TRUE(store->Remove(image->id).ok());
  manifest[0]["Layers"][2] = "missing.tar";
  auto missing = store->Import(save(manifest), "").status();
  EXPECT_TRUE(absl::IsInvalidArgument(missing)) << missing;
  EXPECT_THAT(std::string(missing.message()), testing::HasSubstr("missing.tar"));
  manifest[0].erase("RepoTags");
  manifest[0]["Layers"][2] = "c/layer.tar";
  EXPECT_TRUE(absl::IsInvalidArgument(store->Import(save(manifest), "").status()));  // no name
  EXPECT_TRUE(store->Import(save(manifest), "example.com/named:1").ok());
  ASSERT_TRUE(store->Remove("example.com/named:1").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(store->Import(save("no list"), "").status()));
  EXPECT_EQ(Entries("layers"), 0u);
  EXPECT_EQ(Entries("blobs"), 0u);
}

TEST_F(StoreTest, AnImageForAnotherPlatformSaysSo) {
  const Made made = AddImage("example.com/app:1", {base_});
  json config = json::parse(Read(BlobPath(made.id)));
  config["architecture"] = "s390x";
  json manifest = json::parse(Read(BlobPath(index_["manifests"][0]["digest"])));
  manifest["config"] = Put(config.dump());
  index_["manifests"][0].update(Put(manifest.dump()));
  Write(layout() + "/index.json", index_.dump());
  auto store = Open();
  auto status = store->Import(layout(), "").status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              testing::HasSubstr("is for linux/s390x, this machine is linux/"));
  json inner = index_["manifests"][0];
  inner["platform"] = {{"os", "linux"}, {"architecture", "s390x"}};
  json index = Put(json{{"schemaVersion", 2}, {"manifests", {inner}}}.dump());
  index["annotations"] = inner["annotations"];
  Write(layout() + "/index.json", json{{"schemaVersion", 2}, {"manifests", {index}}}.dump());
  status = store->Import(layout(), "").status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("only for linux/s390x"));
  EXPECT_EQ(Entries("blobs"), 0u);
}

TEST_F(StoreTest, AFullDiskLeavesNothing) {
  std::string noise(3 << 18, '\0');
  uint32_t state = 1;
  for (char& c : noise) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  // Full while the layer arrives, and full while it is unpacked.
  for (const char* size : {"size=300k", "size=1200k"}) {
    AddImage("example.com/app:1", {{{.path = "noise", .data = noise}}});
    ASSERT_TRUE(MakeDirs(dir_ + "/store").ok());
    ASSERT_EQ(mount("tmpfs", (dir_ + "/store").c_str(), "tmpfs", 0, size), 0);
    {
      auto store = Open();
      const uint64_t before = store->FilesystemUsage()->bytes;
      auto status = store->Import(layout(), "").status();
      EXPECT_TRUE(absl::IsResourceExhausted(status)) << size << ": " << status;
      EXPECT_EQ(store->FilesystemUsage()->bytes, before);
      EXPECT_EQ(Entries("layers"), 0u);
      EXPECT_EQ(Entries("blobs"), 0u);
      EXPECT_THAT(store->List(), IsEmpty());
    }
    EXPECT_EQ(umount2((dir_ + "/store").c_str(), MNT_DETACH), 0);
  }
}

TEST_F(StoreTest, AnImageWithoutLayersHasALowerDirectory) {
  const Made made = AddImage("example.com/scratch:1", {});
  auto store = Open();
  ASSERT_TRUE(store->Import(layout(), "").ok());
  auto rootfs = store->CreateSnapshot("c1", made.id, 0, 0);
  ASSERT_TRUE(rootfs.ok()) << rootfs.status();
  ASSERT_EQ(rootfs->lower_dirs.size(), 1u);  // overlayfs wants one
  EXPECT_TRUE(fs::is_empty(rootfs->lower_dirs[0]));
}

}  // namespace
}  // namespace sock::oci
