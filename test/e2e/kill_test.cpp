// Our processes are killed at random points while pods come and go: nothing may be lost, told wrongly or
// left. CRI_SOCK_KILL_SECONDS sets how long (default 10), CRI_SOCK_KILL_SEED repeats a run as far as time
// allows.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>

#include "runtime/base/path.h"
#include "runtime/base/text.h"
#include "test/e2e/node.h"

namespace sock::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

int FromEnvironment(const char* name, int otherwise) {
  const char* value = getenv(name);
  return value == nullptr ? otherwise : atoi(value);
}

// The process named `comm` that has the monitor's listening socket of this node; 0 if there is none now.
pid_t HolderOfMonitorSocket(const std::string& state, const std::string& comm) {
  std::ifstream sockets("/proc/net/unix");
  std::string wanted;
  for (std::string line; std::getline(sockets, line);) {
    if (!line.ends_with(" " + state + "/monitor.sock")) continue;
    std::istringstream fields(line);
    std::string field;
    for (int i = 0; i < 7; ++i) fields >> field;
    // Connections made to it have the same name: the listener is the one that is marked (SO_ACCEPTCON).
    if (line.find(" 00010000 ") != std::string::npos) wanted = "socket:[" + field + "]";
  }
  if (wanted.empty()) return 0;
  std::error_code gone;
  for (const auto& process : std::filesystem::directory_iterator("/proc")) {
    auto name = ReadFile(process.path().string() + "/comm");
    if (!name.ok() || *name != comm + "\n") continue;
    for (const auto& fd : std::filesystem::directory_iterator(process.path() / "fd", gone))
      if (std::filesystem::read_symlink(fd.path(), gone) == wanted)
        return atoi(process.path().filename().c_str());
  }
  return 0;
}

// A client that does what kubelet does: it asks again until it is answered.
class Worker {
 public:
  explicit Worker(const Node& node) : node_(node) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 50);
    stub_ = api::RuntimeService::NewStub(
        grpc::CreateCustomChannel("unix:" + node.listen(), grpc::InsecureChannelCredentials(), arguments));
  }

  // One pod from its start to its removal; its container's exit code must be `code`.
  void OnePod(const std::string& name, int code) {
    api::RunPodSandboxRequest run;
    *run.mutable_config() = node_.PodConfig(name);
    run.set_runtime_handler("sock");
    api::RunPodSandboxResponse pod;
    if (!Ask("RunPodSandbox", [&](auto* c) { return stub_->RunPodSandbox(c, run, &pod); })) return;

    api::CreateContainerRequest create;
    create.set_pod_sandbox_id(pod.pod_sandbox_id());
    *create.mutable_config() = node_.ContainerConfig(name, {"sh", "-c", Cat("echo here; exit ", code)});
    *create.mutable_sandbox_config() = run.config();
    api::CreateContainerResponse container;
    if (!Ask("CreateContainer", [&](auto* c) { return stub_->CreateContainer(c, create, &container); }))
      return;

    api::ContainerStatusRequest status;
    status.set_container_id(container.container_id());
    api::ContainerStatusResponse state;
    api::StartContainerRequest start;
    start.set_container_id(container.container_id());
    api::StartContainerResponse started;
    Ask("StartContainer", [&](auto* c) {
      grpc::Status result = stub_->StartContainer(c, start, &started);
      if (result.error_code() != grpc::StatusCode::FAILED_PRECONDITION) return result;
      // It did start; the answer went with who gave it.
      grpc::ClientContext again;
      grpc::Status looked = stub_->ContainerStatus(&again, status, &state);
      if (looked.ok() && state.status().state() == api::CONTAINER_CREATED) return result;
      return looked;
    });
    const auto deadline = steady_clock::now() + std::chrono::seconds(30);
    do {
      if (!Ask("ContainerStatus", [&](auto* c) { return stub_->ContainerStatus(c, status, &state); })) return;
      if (state.status().state() != api::CONTAINER_EXITED) std::this_thread::sleep_for(milliseconds(10));
    } while (state.status().state() != api::CONTAINER_EXITED && steady_clock::now() < deadline);
    EXPECT_EQ(state.status().state(), api::CONTAINER_EXITED) << name;
    EXPECT_EQ(state.status().exit_code(), code)
        << name << ": " << state.status().reason() << " " << state.status().message();
    std::string log = node_.WaitLog(name, "here\n");
    EXPECT_EQ(log.find("here"), log.rfind("here")) << name << ":\n" << log;

    api::StopPodSandboxRequest stop;
    stop.set_pod_sandbox_id(pod.pod_sandbox_id());
    api::StopPodSandboxResponse stopped;
    Ask("StopPodSandbox", [&](auto* c) { return stub_->StopPodSandbox(c, stop, &stopped); });
    api::RemovePodSandboxRequest remove;
    remove.set_pod_sandbox_id(pod.pod_sandbox_id());
    api::RemovePodSandboxResponse removed;
    Ask("RemovePodSandbox", [&](auto* c) { return stub_->RemovePodSandbox(c, remove, &removed); });
  }

 private:
  bool Ask(const char* what, const std::function<grpc::Status(grpc::ClientContext*)>& call) {
    grpc::Status status;
    const auto deadline = steady_clock::now() + std::chrono::seconds(40);
    do {
      grpc::ClientContext context;
      context.set_wait_for_ready(true);
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
      status = call(&context);
      if (status.ok()) return true;
      if (status.error_code() != grpc::StatusCode::UNAVAILABLE) break;
      std::this_thread::sleep_for(milliseconds(20));
    } while (steady_clock::now() < deadline);
    ADD_FAILURE() << what << ": " << status.error_code() << " " << status.error_message();
    return false;
  }

  const Node& node_;
  std::unique_ptr<api::RuntimeService::Stub> stub_;
};

TEST(Kill, AtRandomPointsLosesNothing) {
  Node node;
  ASSERT_TRUE(node.Pull(node.image()).ok());
  const unsigned seed =
      static_cast<unsigned>(FromEnvironment("CRI_SOCK_KILL_SEED", static_cast<int>(time(nullptr))));
  printf("CRI_SOCK_KILL_SEED=%u\n", seed);
  std::mt19937 random(seed);

  api::PodSandboxConfig config = node.PodConfig("counter");
  std::string pod = node.RunPod(config);
  std::string counter = node.Create(
      pod, config,
      node.ContainerConfig("counter",
                           {"sh", "-c", "i=0; while :; do echo line $i; i=$((i+1)); usleep 2000; done"}));
  ASSERT_TRUE(node.Start(counter).ok());
  node.WaitLog("counter", "line 5\n");

  std::atomic<bool> over{false};
  std::atomic<int> pods{0};
  std::vector<std::thread> workers;
  for (int w = 0; w < 3; ++w)
    workers.emplace_back([&, w] {
      Worker worker(node);
      for (int i = 0; !over; ++i) {
        worker.OnePod(Cat("w", w, "-", i), i % 100);
        ++pods;
      }
    });
  std::map<std::string, int> killed;
  const auto end = steady_clock::now() + std::chrono::seconds(FromEnvironment("CRI_SOCK_KILL_SECONDS", 10));
  while (steady_clock::now() < end) {
    // One at a time: who was killed before has been replaced when a command runs again.
    grpc::Status ready;
    do node.Exec(counter, {"true"}, 10, &ready);
    while (ready.error_code() == grpc::StatusCode::UNAVAILABLE);
    EXPECT_TRUE(ready.ok()) << ready.error_message();
    std::this_thread::sleep_for(milliseconds(std::uniform_int_distribution<int>(0, 300)(random)));
    switch (random() % 3) {
      case 0:
        node.KillDaemon(SIGKILL);
        ++killed["daemon"];
        node.StartDaemon();
        break;
      case 1:
        if (pid_t pid = HolderOfMonitorSocket(node.dir() + "/run", "cri-sock-monito"); pid > 0) {
          kill(pid, SIGKILL);
          ++killed["monitor"];
        }
        break;
      default:
        if (pid_t pid = HolderOfMonitorSocket(node.dir() + "/run", "cri-sock-keeper"); pid > 0) {
          kill(pid, SIGKILL);
          ++killed["keeper"];
        }
    }
  }
  over = true;
  for (std::thread& worker : workers) worker.join();
  for (const auto& [who, times] : killed) printf("%s killed %d times\n", who.c_str(), times);
  printf("%d pods\n", pods.load());
  EXPECT_EQ(killed.size(), 3u) << "too short a run to mean anything";
  EXPECT_GT(pods, 3);

  EXPECT_EQ(node.Status(counter).state(), api::CONTAINER_RUNNING);
  // Every line once, in order; a line that two log writers had in hand stands in two parts.
  std::istringstream log(node.Log("counter"));
  std::string text, rest;
  long next = 0;
  for (std::string line; std::getline(log, line);) {
    std::istringstream fields(line);
    std::string time, stream, tag;
    fields >> time >> stream >> tag;
    std::string content = line.substr(std::min(line.size(), time.size() + stream.size() + tag.size() + 3));
    text += content;
    if (tag == "P") continue;
    ASSERT_EQ(text, Cat("line ", next)) << "after a line that was right";
    text.clear();
    ++next;
  }
  EXPECT_GT(next, 100);
  EXPECT_TRUE(node.RemovePod(pod).ok());
  EXPECT_THAT(node.Leftovers(), testing::IsEmpty());
}

}  // namespace
}  // namespace sock::test
