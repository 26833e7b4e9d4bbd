// For tests that have a node each: it has the image, and nothing of its pods is left at the end.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "test/e2e/node.h"

namespace sock::test {

class NodeFixture : public testing::Test {
 protected:
  void SetUp() override {
    grpc::Status pulled = node_.Pull(node_.image());
    ASSERT_TRUE(pulled.ok()) << pulled.error_message();
  }
  void TearDown() override {
    node_.RemovePods();
    EXPECT_THAT(node_.Leftovers(), testing::IsEmpty());
  }
  // The pod config_ with one container of its name that has been started.
  std::string Run(const api::PodSandboxConfig& config, std::vector<std::string> command) {
    config_ = config;
    pod_ = node_.RunPod(config_);
    std::string container =
        node_.Create(pod_, config_, node_.ContainerConfig(config_.metadata().name(), std::move(command)));
    grpc::Status started = node_.Start(container);
    EXPECT_TRUE(started.ok()) << started.error_message();
    return container;
  }
  std::string Run(const std::string& name, std::vector<std::string> command) {
    return Run(node_.PodConfig(name), std::move(command));
  }
  Node node_;
  api::PodSandboxConfig config_;
  std::string pod_;
};

}  // namespace sock::test
