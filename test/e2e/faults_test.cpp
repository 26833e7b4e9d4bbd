// What goes wrong around a pod: log disks, output without measure, a fork bomb, removal while it starts. Each
// is contained, other pods go on, and nothing is left.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <thread>

#include "absl/cleanup/cleanup.h"
#include "runtime/base/fd.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"
#include "test/e2e/node_fixture.h"

namespace sock::test {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;
using testing::HasSubstr;
using testing::IsEmpty;

const auto kSoon = seconds(10) * Slowness();

class FaultsTest : public NodeFixture {
 protected:
  // Another pod starts and ends as always, within a time that tells that it waited for nobody.
  void AnotherPodRuns(const std::string& name) {
    const auto begin = steady_clock::now();
    std::string container = Run(node_.PodConfig(name), {"sh", "-c", "echo hello; exit 6"});
    EXPECT_EQ(node_.WaitExit(container).exit_code(), 6);
    EXPECT_LT(steady_clock::now() - begin, kSoon);
    EXPECT_TRUE(node_.RemovePod(pod_).ok());
  }
  // A disk of the test's own for logs; a pod's configuration that has its log directory there.
  api::PodSandboxConfig PodWithLogsAt(const std::string& name, const std::string& directory) {
    api::PodSandboxConfig config = node_.PodConfig(name);
    config.set_log_directory(directory);
    return config;
  }
  void ExpectWholeRecords(const std::string& log) {
    static const std::regex record("[0-9-]{10}T[0-9:]{8}\\.[0-9]{9}Z (stdout|stderr) [FP] .*");
    std::istringstream lines(log);
    for (std::string line; std::getline(lines, line);) EXPECT_TRUE(std::regex_match(line, record)) << line;
    EXPECT_TRUE(log.empty() || log.back() == '\n');
  }
  // Memory of the daemon in KiB.
  long DaemonMemory() {
    std::ifstream status(Cat("/proc/", node_.daemon(), "/status"));
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("VmRSS:")) return atol(line.c_str() + 6);
    ADD_FAILURE() << "no VmRSS";
    return 0;
  }
};

TEST_F(FaultsTest, AFullLogDiskHoldsUpNobody) {
  const std::string disk = node_.dir() + "/disk";
  std::filesystem::create_directory(disk);
  ASSERT_EQ(mount("full", disk.c_str(), "tmpfs", 0, "size=64k"), 0) << strerror(errno);
  absl::Cleanup unmount = [&] { umount2(disk.c_str(), MNT_DETACH); };
  ASSERT_EQ(mount(nullptr, disk.c_str(), nullptr, MS_PRIVATE, nullptr), 0);
  {
    Fd filler(open((disk + "/filler").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    const std::string page(4096, 'x');
    for (int i = 0; i < 14; ++i) ASSERT_EQ(write(filler.get(), page.data(), page.size()), 4096);
  }
  std::string container =
      Run(PodWithLogsAt("full", disk),
          {"sh", "-c",
           "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; touch /tmp/written; "
           "until [ -e /tmp/go ]; do usleep 10000; done; echo late; sleep 1000"});
  std::string pod = pod_;
  EXPECT_TRUE(Until([&] {
    return node_.Exec(container, {"test", "-e", "/tmp/written"}, 10).exit_code() == 0;
  })) << "it waits for its log";
  AnotherPodRuns("other");
  EXPECT_THAT(node_.WaitLog("other", "hello"), HasSubstr("F hello\n"));
  std::filesystem::remove(disk + "/filler");
  EXPECT_EQ(node_.Exec(container, {"touch", "/tmp/go"}, 10).exit_code(), 0);
  std::string log;
  EXPECT_TRUE(Until([&] {
    log = ReadFile(disk + "/full.log").value_or("");
    return log.ends_with(" stdout F late\n");
  })) << log;
  ExpectWholeRecords(log);
  EXPECT_THAT(log, HasSubstr("lines were dropped"));
  EXPECT_THAT(log, HasSubstr(" F line 0\n"));
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  std::move(unmount).Cancel();
  EXPECT_TRUE(Until([&] { return umount(disk.c_str()) == 0; })) << "somebody has the log still";
}

TEST_F(FaultsTest, ALogDiskThatHangsHoldsUpNobody) {
  const std::string disk = node_.dir() + "/disk";
  if (system(Cat("cd ", node_.dir(), " && mkdir disk && truncate -s 64M image && mkfs.ext4 -q image && ",
                 "mount -o loop --make-private image disk && mkdir disk/logs")
                 .c_str()) != 0)
    GTEST_SKIP() << "no loop devices here";
  absl::Cleanup unmount = [&] { umount2(disk.c_str(), MNT_DETACH); };
  Fd top(open(disk.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  api::PodSandboxConfig config = PodWithLogsAt("slow", disk + "/logs");
  std::string container =
      Run(config, {"sh", "-c",
                   "until [ -e /tmp/go ]; do usleep 10000; done; "
                   "head -c 8000000 /dev/zero | tr '\\0' x | fold -w 99; echo last; exit 3"});
  std::string pod = pod_;
  ASSERT_EQ(ioctl(top.get(), FIFREEZE, 0), 0) << strerror(errno);
  absl::Cleanup thaw = [&] { ioctl(top.get(), FITHAW, 0); };
  // One that is asked for meanwhile waits for its log file, and nobody waits for it.
  std::string waiting_pod = node_.RunPod(PodWithLogsAt("waits", disk + "/logs"));
  std::atomic<bool> created{false};
  std::thread creating([&] {
    node_.Create(waiting_pod, PodWithLogsAt("waits", disk + "/logs"),
                 node_.ContainerConfig("waits", {"true"}));
    created = true;
  });
  EXPECT_EQ(node_.Exec(container, {"touch", "/tmp/go"}, 10).exit_code(), 0);
  EXPECT_EQ(node_.WaitExit(container).exit_code(), 3);
  AnotherPodRuns("other");
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  EXPECT_FALSE(created);
  std::move(thaw).Invoke();
  creating.join();
  EXPECT_TRUE(node_.RemovePod(waiting_pod).ok());
  EXPECT_THAT(node_.WaitLog("other", "hello"), HasSubstr("F hello\n"));
  std::string log;
  EXPECT_TRUE(Until([&] {
    log = ReadFile(disk + "/logs/slow.log").value_or("");
    return log.find("lines were dropped") != std::string::npos;
  })) << log.size();
  ExpectWholeRecords(log.substr(0, log.find('\n', 64 << 10) + 1));
  top.Reset();
  std::move(unmount).Cancel();
  EXPECT_TRUE(Until([&] { return umount(disk.c_str()) == 0; })) << "somebody has the log still";
}

TEST_F(FaultsTest, OutputOfExecSyncIsLimited) {
  constexpr size_t kLimit = (8 << 20) - (64 << 10);  // of each stream (cri/container_exec.cpp)
  std::string container = Run(node_.PodConfig("exec"), {"sleep", "1000"});
  const std::vector<std::string> much = {
      "sh", "-c", "head -c 16777216 /dev/zero; head -c 16777216 /dev/zero >&2; exit 5"};
  long first = 0;
  for (int i = 0; i < 6; ++i) {
    api::ExecSyncResponse answer = node_.Exec(container, much, 60);
    EXPECT_EQ(answer.exit_code(), 5);
    EXPECT_EQ(answer.stdout().size(), kLimit);
    EXPECT_EQ(answer.stderr().size(), kLimit);
    if (i == 0) first = DaemonMemory();
  }
  // Far less than what was written: 192 MiB.
  EXPECT_LT(DaemonMemory(), first + (64 << 10));
  // Without end, it is the time that ends it.
  const auto begin = steady_clock::now();
  grpc::Status status;
  node_.Exec(container, {"yes"}, 1, &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << status.error_message();
  // What goes on behind the command's back is not waited for.
  EXPECT_EQ(node_.Exec(container, {"sh", "-c", "yes & exit 4"}, 60).exit_code(), 4);
  EXPECT_LT(steady_clock::now() - begin, kSoon);
  EXPECT_LT(DaemonMemory(), first + (64 << 10));
}

TEST_F(FaultsTest, AForkBombStaysInItsPod) {
  // The pod's cgroup and its limit are kubelet's work.
  api::PodSandboxConfig config = node_.PodConfig("bomb");
  const std::string parent = config.linux().cgroup_parent() + "/bomb";
  config.mutable_linux()->set_cgroup_parent(parent);
  std::string pod = node_.RunPod(config);
  std::string directory = "/sys/fs/cgroup/pids" + parent;
  if (!std::filesystem::exists(directory)) directory = "/sys/fs/cgroup" + parent;
  ASSERT_TRUE(WriteExisting(directory + "/pids.max", "64").ok()) << directory;
  api::ContainerConfig bomb = node_.ContainerConfig("bomb", {"sh", "-c", "b() { b | b & }; b; sleep 1000"});
  bomb.mutable_linux()->mutable_resources()->set_cpu_period(100000);
  bomb.mutable_linux()->mutable_resources()->set_cpu_quota(50000);
  std::string container = node_.Create(pod, config, bomb);
  ASSERT_TRUE(node_.Start(container).ok());
  node_.WaitLog("bomb", "can't fork");
  EXPECT_LE(atol(ReadFile(directory + "/pids.current").value_or("").c_str()), 64);
  AnotherPodRuns("other");
  grpc::Status status;  // an answer, if only that there is no room
  node_.Exec(container, {"true"}, 10, &status);
  const auto begin = steady_clock::now();
  status = node_.RemovePod(pod);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_LT(steady_clock::now() - begin, kSoon);
  EXPECT_EQ(atol(ReadFile(directory + "/pids.current").value_or("-1").c_str()), 0);
  ASSERT_EQ(system(Cat("find /sys/fs/cgroup -depth -type d -path '*", parent, "' -exec rmdir {} +").c_str()),
            0);
}

TEST_F(FaultsTest, APodRemovedWhileItStartsLeavesNothing) {
  std::atomic<int> ran{0}, refused{0};
  auto round = [&](const std::string& name, int delay_us) {
    api::PodSandboxConfig config = node_.PodConfig(name);
    std::string pod = node_.RunPod(config);
    std::thread remover([&] {
      std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
      grpc::Status removed = node_.RemovePod(pod);
      EXPECT_TRUE(removed.ok()) << removed.error_message();
    });
    grpc::Status status;
    for (int i = 0; i < 3 && status.ok(); ++i) {
      std::string container =
          node_.Create(pod, config, node_.ContainerConfig(Cat(name, "-", i), {"sleep", "1000"}), &status);
      if (status.ok()) status = node_.Start(container);
      status.ok() ? ++ran : ++refused;
    }
    // That the pod or the container is there no more, or that it is on its way out.
    EXPECT_THAT(status.error_code(), testing::AnyOf(grpc::StatusCode::OK, grpc::StatusCode::NOT_FOUND,
                                                    grpc::StatusCode::FAILED_PRECONDITION))
        << status.error_message();
    remover.join();
  };
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 25; ++i) round(Cat("r", t, "-", i), i * 1500);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(ran, 0);
  EXPECT_GT(refused, 0);
  EXPECT_THAT(node_.Leftovers(), IsEmpty());
}

}  // namespace
}  // namespace sock::test
