// For tests of Zygotes: a node with an image of Python, and pods of one container.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/base/text.h"
#include "test/e2e/node.h"
#include "test/e2e/python.h"

namespace sock::test {

// A suite sets node_ and image_ up.
class ZygoteFixture : public testing::Test {
 protected:
  static inline Node* node_ = nullptr;
  static inline std::string image_;
  static inline std::function<void(api::PodSandboxConfig&)> change_pod_;  // of all that follow

  static void TearDownTestSuite() {
    delete node_;
    node_ = nullptr;
  }
  void TearDown() override {
    change_pod_ = nullptr;
    node_->RemovePods();
  }

  struct Run {
    std::string container, log;
    int exit = -1;
    bool forked = false;
    std::string reason;
    grpc::Status status;
  };
  using Annotations = std::map<std::string, std::string>;
  using Change = std::function<void(api::ContainerConfig&)>;
  static nlohmann::json Info(const std::string& container) { return node_->Info(container); }
  // One pod of the kind that `annotations` make, with a program that ends unless `wait` is false.
  static Run RunOne(std::vector<std::string> command, Annotations annotations, bool wait = true,
                    const Change& change = {}) {
    static int number = 0;
    const std::string name = Cat("z", ++number);
    api::PodSandboxConfig pod = node_->PodConfig(name);
    pod.set_hostname("pod");
    pod.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(api::CONTAINER);
    for (const auto& [key, value] : annotations) (*pod.mutable_annotations())[key] = value;
    if (change_pod_) change_pod_(pod);
    Run run;
    const std::string id = node_->RunPod(pod, "sock", &run.status);
    api::ContainerConfig config = node_->ContainerConfig(name, std::move(command));
    config.mutable_image()->set_image(image_);
    auto* security = config.mutable_linux()->mutable_security_context();
    security->mutable_namespace_options()->set_pid(api::CONTAINER);
    security->mutable_seccomp()->set_profile_type(api::SecurityProfile::RuntimeDefault);
    if (change) change(config);
    run.container = node_->Create(id, pod, config, &run.status);
    if (run.container.empty()) return run;
    const nlohmann::json info = Info(run.container);
    run.forked = info.at("forked").get<bool>();
    run.reason = info.value("notForked", "");
    run.status = node_->Start(run.container);
    if (!wait) return run;
    run.exit = node_->WaitExit(run.container).exit_code();
    // The log writer works behind the exit, and a program may say nothing.
    for (int i = 0; i < 100 && run.log.empty(); ++i) {
      run.log = node_->Log(name);
      if (run.log.empty()) poll(nullptr, 0, 5);
    }
    std::string text;  // without times
    for (size_t at = 0, end; at < run.log.size(); at = end + 1) {
      end = std::min(run.log.find('\n', at), run.log.size());
      const std::string line = run.log.substr(at, end - at);
      text += line.substr(std::min(line.size(), line.find(' ') + 1)) + "\n";
    }
    run.log = text;
    return run;
  }
  // Until one is forked, or is not for another reason than that its Zygote is not there yet.
  static Run RunForked(const std::vector<std::string>& command, const Annotations& annotations,
                       bool wait = true, const Change& change = {}) {
    Run run;
    for (int i = 0; i < 200; ++i) {
      run = RunOne(command, annotations, wait, change);
      if (run.forked || (run.reason.find("being made") == std::string::npos &&
                         run.reason.find("sandbox-owner") == std::string::npos))
        return run;
      usleep(50000);  // until the Zygote is made: it has no event of its own
    }
    return run;
  }
  // The processes of Zygotes and those parked, by what their cgroups hold.
  static std::vector<pid_t> ZygotePids() {
    std::vector<pid_t> pids;
    const std::string zygotes = Cat("/cri-sock-e2e-", getpid(), "/zygotes/*/cgroup.procs");
    FILE* out =
        popen(Cat("cat /sys/fs/cgroup/pids", zygotes, " /sys/fs/cgroup", zygotes, " 2>/dev/null | sort -un")
                  .c_str(),
              "r");
    for (int pid; fscanf(out, "%d", &pid) == 1;) pids.push_back(pid);
    pclose(out);
    return pids;
  }
};

}  // namespace sock::test
