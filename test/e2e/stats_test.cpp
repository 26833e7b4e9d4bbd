// Statistics against what a container is known to do: the real kernel, the real daemon.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <thread>

#include "test/e2e/node.h"

namespace sock::test {
namespace {

using testing::IsEmpty;

class StatsTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(node_.Pull(node_.image()).ok());
    config_ = node_.PodConfig("stats");
    pod_ = node_.RunPod(config_);
    ASSERT_NE(pod_, "");
  }
  void TearDown() override {
    EXPECT_TRUE(node_.RemovePod(pod_).ok());
    EXPECT_THAT(node_.Leftovers(), IsEmpty());
  }
  api::LinuxPodSandboxStats PodStats() {
    grpc::ClientContext context;
    api::PodSandboxStatsRequest request;
    request.set_pod_sandbox_id(pod_);
    api::PodSandboxStatsResponse response;
    grpc::Status status = node_.runtime().PodSandboxStats(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.stats().attributes().id(), pod_);
    return response.stats().linux();
  }
  // Asks until `done`, at most 40 s: four rounds of the daemon's sampler.
  api::LinuxPodSandboxStats WaitFor(const std::function<bool(const api::LinuxPodSandboxStats&)>& done) {
    api::LinuxPodSandboxStats stats = PodStats();
    for (int i = 0; i < 200 && !done(stats); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      stats = PodStats();
    }
    EXPECT_TRUE(done(stats)) << stats.DebugString();
    return stats;
  }

  Node node_;
  api::PodSandboxConfig config_;
  std::string pod_;
};

TEST_F(StatsTest, TellWhatAContainerUses) {
  // 24 MiB in a tmpfs that the container's cgroup pays for, 5 MiB in its layer, one busy process beside the
  // first.
  api::ContainerConfig config =
      node_.ContainerConfig("busy", {"sh", "-c",
                                     "dd if=/dev/zero of=/dev/shm/held bs=1M count=24 2>/dev/null; dd "
                                     "if=/dev/zero of=/written bs=1M count=5 "
                                     "2>/dev/null; while :; do :; done & echo ready; wait"});
  config.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(64 << 20);
  config.mutable_linux()->mutable_resources()->set_cpu_period(100'000);
  config.mutable_linux()->mutable_resources()->set_cpu_quota(20'000);
  std::string container = node_.Create(pod_, config_, config);
  ASSERT_TRUE(node_.Start(container).ok());
  node_.WaitLog("busy", "ready");

  api::LinuxPodSandboxStats stats = WaitFor([](const api::LinuxPodSandboxStats& s) {
    return s.containers_size() == 1 && s.containers(0).cpu().usage_nano_cores().value() > 0 &&
           s.containers(0).writable_layer().used_bytes().value() >= (5u << 20);
  });
  const api::ContainerStats& one = stats.containers(0);
  EXPECT_EQ(one.attributes().id(), container);
  EXPECT_EQ(one.attributes().metadata().name(), "busy");
  EXPECT_GT(one.cpu().timestamp(), 0);
  EXPECT_GT(one.cpu().usage_core_nano_seconds().value(), 10'000'000u);
  // Limited to a fifth of a core; the rate of a short time may be somewhat above it.
  EXPECT_LT(one.cpu().usage_nano_cores().value(), 300'000'000u);
  EXPECT_GE(one.memory().usage_bytes().value(), 24u << 20);
  EXPECT_GE(one.memory().working_set_bytes().value(), 24u << 20);
  EXPECT_EQ(one.memory().working_set_bytes().value() + one.memory().available_bytes().value(), 64u << 20);
  EXPECT_GT(one.memory().page_faults().value(), 0u);
  EXPECT_LT(one.writable_layer().used_bytes().value(), 6u << 20);
  EXPECT_GE(one.writable_layer().inodes_used().value(), 1u);
  EXPECT_EQ(stats.process().process_count().value(), 2u);
  EXPECT_EQ(stats.network().default_interface().name(), "eth0");
  EXPECT_GE(stats.cpu().usage_core_nano_seconds().value(), one.cpu().usage_core_nano_seconds().value());

  // What it did stays counted in its pod after it is gone.
  grpc::ClientContext stop_context;
  api::StopContainerRequest stop;
  stop.set_container_id(container);
  api::StopContainerResponse stopped;
  ASSERT_TRUE(node_.runtime().StopContainer(&stop_context, stop, &stopped).ok());
  // The kernel counts a process until it is reaped.
  api::LinuxPodSandboxStats after =
      WaitFor([](const api::LinuxPodSandboxStats& s) { return s.process().process_count().value() == 0; });
  EXPECT_EQ(after.containers_size(), 0);
  EXPECT_GE(after.cpu().usage_core_nano_seconds().value(), stats.cpu().usage_core_nano_seconds().value());

  // A question for the ended one is answered: its layer is still there.
  grpc::ClientContext context;
  api::ContainerStatsRequest request;
  request.set_container_id(container);
  api::ContainerStatsResponse response;
  ASSERT_TRUE(node_.runtime().ContainerStats(&context, request, &response).ok());
  EXPECT_GE(response.stats().writable_layer().used_bytes().value(), 5u << 20);
}

TEST_F(StatsTest, CountTrafficAndRefuseStrangers) {
  api::LinuxPodSandboxStats before = PodStats();
  std::string container = node_.Create(pod_, config_, node_.ContainerConfig("net", {"sleep", "1000"}));
  ASSERT_TRUE(node_.Start(container).ok());
  ASSERT_EQ(node_
                .Exec(container,
                      {"sh", "-c", "ping -c 3 -A -w 5 -s 1000 $(ip route | awk '/default/ {print $3}')"}, 10)
                .exit_code(),
            0);
  api::LinuxPodSandboxStats after = PodStats();
  EXPECT_GE(after.network().default_interface().tx_bytes().value(),
            before.network().default_interface().tx_bytes().value() + 3000);
  EXPECT_GE(after.network().default_interface().rx_bytes().value(),
            before.network().default_interface().rx_bytes().value() + 3000);

  grpc::ClientContext one, two;
  api::ContainerStatsRequest request;
  request.set_container_id("nosuch");
  api::ContainerStatsResponse response;
  EXPECT_EQ(node_.runtime().ContainerStats(&one, request, &response).error_code(),
            grpc::StatusCode::NOT_FOUND);
  api::PodSandboxStatsRequest pod_request;
  pod_request.set_pod_sandbox_id("nosuch");
  api::PodSandboxStatsResponse pod_response;
  EXPECT_EQ(node_.runtime().PodSandboxStats(&two, pod_request, &pod_response).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace sock::test
