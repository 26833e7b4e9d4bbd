// What sockctl does without a daemon: it tells what a machine lacks, and imports images.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "runtime/base/path.h"
#include "runtime/base/text.h"
#include "test/e2e/node_fixture.h"

namespace sock::test {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

struct Said {
  std::string text;
  int exit = 0;
};

Said Shell(const std::string& command) {
  Said said;
  FILE* pipe = popen(("( " + command + " ) 2>&1").c_str(), "re");
  for (int c; (c = fgetc(pipe)) != EOF;) said.text += static_cast<char>(c);
  said.exit = WEXITSTATUS(pclose(pipe));
  return said;
}

class DoctorTest : public testing::Test {
 protected:
  // What it says after these commands, which see mount and network namespaces of their own.
  static Said Doctor(const std::string& before) {
    return Shell(
        Cat("unshare --mount --net --propagation private sh -ec '", before, "\n", SOCKCTL, " doctor'"));
  }
  // In a copy-on-write /etc.
  static std::string WithCni(const std::string& content) {
    return Cat(
        "mount -t tmpfs tmpfs /mnt; mkdir /mnt/upper /mnt/work;"
        "mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work overlay /etc;"
        "rm -rf /etc/cni; mkdir -p /etc/cni/net.d; echo \"",
        content, "\" >/etc/cni/net.d/10-doctor.conflist;");
  }
};

TEST_F(DoctorTest, WhereNothingIsMissingItSaysSo) {
  const Said said = Doctor("");
  EXPECT_EQ(said.exit, 0) << said.text;
  EXPECT_THAT(said.text, Not(HasSubstr("MISSING")));
  for (const char* line : {"ok       root: uid 0\n", "ok       kernel: ", "ok       cgroup memory: ",
                           "ok       file system overlay: ", "ok       seccomp: ",
                           "ok       pod network: built-in bridge\n", "ok       nft: nftables\n"})
    EXPECT_THAT(said.text, HasSubstr(line));
}

TEST_F(DoctorTest, WhatIsMissingIsNamedWithWhatMendsIt) {
  const struct {
    const char *hide, *missing, *mend;
  } cases[] = {
      {"for f in $(which -a nft); do mount --bind /dev/null $f; done", "nft: nftables",
       "apt-get install nftables"},
      {"mount -t tmpfs tmpfs /mnt; grep -v overlay /proc/filesystems >/mnt/f;"
       "mount --bind /mnt/f /proc/filesystems",
       "file system overlay: /proc/filesystems", "modprobe overlay"},
      {"mount -t tmpfs tmpfs /sys/fs/cgroup; echo cpuset cpu io pids >/sys/fs/cgroup/cgroup.controllers",
       "cgroup memory: cgroup v2",
       "boot without `cgroup_disable=memory`, and unmount a v1 hierarchy that has it"},
      {"mount -t tmpfs tmpfs /proc/sys/kernel/seccomp", "seccomp: filters",
       "use a kernel that is built with CONFIG_SECCOMP_FILTER"},
      {"mount -t tmpfs tmpfs /proc/sys/net/ipv4", "pod network: built-in bridge",
       "use a kernel that is built with IPv4"},
      {"exec unshare --user " SOCKCTL " doctor", "root: uid 65534", "sudo sockctl doctor"},
  };
  for (const auto& one : cases) {
    const Said said = Doctor(one.hide);
    EXPECT_EQ(said.exit, 1) << one.missing;
    const std::string line = Cat("MISSING  ", one.missing, "\n         mend: ", one.mend, "\n");
    EXPECT_THAT(said.text, HasSubstr(line));
    EXPECT_EQ(said.text.find("MISSING"), said.text.rfind("MISSING")) << said.text;
  }
}

TEST_F(DoctorTest, WhatItSaysOfCgroupsMendsThem) {
  const Said bare = Doctor("mount -t tmpfs tmpfs /sys/fs/cgroup");
  EXPECT_EQ(bare.exit, 1);
  std::string mend;
  for (size_t at = 0; (at = bare.text.find("mend: ", at)) != std::string::npos;) {
    at += 6;
    mend += bare.text.substr(at, bare.text.find('\n', at) - at) + ";";
  }
  EXPECT_THAT(mend, HasSubstr("/sys/fs/cgroup"));
  const Said mended = Doctor("mount -t tmpfs tmpfs /sys/fs/cgroup;" + mend);
  EXPECT_EQ(mended.exit, 0) << mend << mended.text;
}

TEST_F(DoctorTest, WithCniItLooksForThePluginsThatAreNamed) {
  const std::string config = R"({\"cniVersion\": \"1.0.0\", \"name\": \"d\", \"plugins\": [
    {\"type\": \"bridge\"}, {\"type\": \"portmap\"}]})";
  const Said bare = Doctor(WithCni(config) + "sysctl -qw net.ipv4.ip_forward=0;" +
                           "for d in /opt/cni/bin /usr/lib/cni; do"
                           " test ! -d $d || mount -t tmpfs tmpfs $d; done");
  EXPECT_EQ(bare.exit, 1);
  EXPECT_THAT(bare.text,
              HasSubstr("MISSING  CNI plugins: cni plugin `bridge` is in none of `/opt/cni/bin`, "
                        "`/usr/lib/cni`\n         mend: apt-get install containernetworking-plugins"));
  EXPECT_THAT(bare.text, HasSubstr("MISSING  ip forwarding: net.ipv4.ip_forward\n"
                                   "         mend: sysctl -w net.ipv4.ip_forward=1\n"));
  const Said good = Doctor(WithCni(config) + "sysctl -qw net.ipv4.ip_forward=1");
  EXPECT_EQ(good.exit, 0) << good.text;
  EXPECT_THAT(good.text, HasSubstr("ok       CNI plugins: "));
  const Said broken = Doctor(WithCni("{"));
  EXPECT_EQ(broken.exit, 1);
  EXPECT_THAT(broken.text, HasSubstr("MISSING  CNI configuration: cni configuration "
                                     "`/etc/cni/net.d/10-doctor.conflist`: no JSON object\n"));
}

class ImportTest : public NodeFixture {
 protected:
  Said Import(const std::string& what) {
    Said said;
    said.text = node_.Sockctl(Cat("--root ", node_.dir(), "/lib images import ", what), &said.exit);
    return said;
  }
  // Every file of the image store, with its size.
  std::set<std::string> Stored() const {
    std::set<std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(node_.dir() + "/lib/images")) {
      if (entry.path().string().find("/aside/") != std::string::npos) continue;  // ready for snapshots
      found.insert(Cat(entry.path().string(), " ", entry.is_regular_file() ? entry.file_size() : 0));
    }
    return found;
  }
  // Makes an archive of the node's image; its path.
  std::string Save(const std::string& kind, const std::string& name) {
    const std::string path = Cat(node_.dir(), "/", kind, ".tar");
    const Said said =
        Shell(Cat("skopeo copy -q oci:", node_.dir(), "/layout:latest ", kind, ":", path, ":", name));
    EXPECT_EQ(said.exit, 0) << said.text;
    return path;
  }
};

TEST_F(ImportTest, ImagesOfEveryFormRunAfterIt) {
  const std::string running = Run("stays", {"sleep", "1000"});
  node_.KillDaemon(SIGTERM);
  const std::string named[] = {
      Cat(node_.dir(), "/layout e2e.test/layout:1"),
      Save("oci-archive", "e2e.test/oci:2"),
      Save("docker-archive", "e2e.test/docker:3"),
  };
  for (const std::string& one : named) {
    const Said said = Import(one);
    EXPECT_EQ(said.exit, 0) << said.text;
    EXPECT_THAT(said.text, StartsWith("sha256:"));
  }
  node_.StartDaemon();
  EXPECT_EQ(node_.Status(running).state(), api::CONTAINER_RUNNING);
  for (const char* name : {"e2e.test/layout:1", "e2e.test/oci:2", "e2e.test/docker:3"}) {
    const std::string id = Cat("from-", std::string(name).substr(9, 3));
    config_ = node_.PodConfig(id);
    pod_ = node_.RunPod(config_);
    api::ContainerConfig config = node_.ContainerConfig(id, {"echo", "it runs"});
    config.mutable_image()->set_image(name);
    ASSERT_TRUE(node_.Start(node_.Create(pod_, config_, config)).ok());
    EXPECT_THAT(node_.WaitLog(id, "it runs"), HasSubstr("stdout F it runs\n"));
  }
}

TEST_F(ImportTest, ABrokenOneIsRefusedAndLeavesNothing) {
  const std::string oci = Save("oci-archive", "e2e.test/oci:2"),
                    docker = Save("docker-archive", "e2e.test/docker:3");
  node_.KillDaemon(SIGTERM);
  ASSERT_EQ(node_.Sockctl(Cat("--root ", node_.dir(), "/lib images import ", oci)).find("sha256:"), 0u);
  const std::set<std::string> before = Stored();
  const std::string copy = node_.dir() + "/broken";
  // Every blob of the layout with one byte changed.
  const std::string spoil =
      Cat("cp -r ", node_.dir(), "/layout ", copy, "; for f in ", copy,
          "/blobs/sha256/*; do printf X | dd of=$f bs=1 seek=20 conv=notrunc status=none; done");
  const struct {
    std::string make, name, says;
  } cases[] = {
      {spoil, " e2e.test/broken:1", "has another digest"},
      {Cat("mkdir ", copy), "", "no index.json: not an OCI layout"},
      {Cat("echo text >", copy), "", "read archive: "},
      {Cat("head -c 100000 ", oci, " >", copy), "", "read archive: "},
      {Cat("head -c 100000 ", docker, " >", copy), "", "read archive: "},
      {Cat("tar -C ", node_.dir(), " -cf ", copy, " registry.yml"), "",
       "neither index.json nor manifest.json"},
      {"true", "", Cat("import `", copy, "`: No such file or directory")},
  };
  for (const auto& one : cases) {
    Shell("rm -rf " + copy);
    Shell(one.make);
    const Said said = Import(copy + one.name);
    EXPECT_EQ(said.exit, 1) << one.make;
    EXPECT_THAT(said.text, AllOf(StartsWith("sockctl: "), HasSubstr(one.says))) << one.make;
    EXPECT_EQ(Stored(), before) << one.make;
  }
  node_.StartDaemon();
  EXPECT_THAT(node_.Sockctl("images"), AllOf(HasSubstr(node_.image()), Not(HasSubstr("broken"))));
}

TEST_F(ImportTest, ADaemonThatRunsIsLeftInPeace) {
  const std::set<std::string> before = Stored();
  const Said said = Import(node_.dir() + "/layout e2e.test/layout:1");
  EXPECT_EQ(said.exit, 1);
  EXPECT_EQ(said.text,
            Cat("sockctl: import images: a daemon runs over `", node_.dir(), "/lib`; stop it first\n"));
  EXPECT_EQ(Stored(), before);
  EXPECT_THAT(node_.Sockctl("images"), Not(HasSubstr("e2e.test")));
}

}  // namespace
}  // namespace sock::test
