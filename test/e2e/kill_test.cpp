// Our processes are killed at random points while pods come and go: nothing may be lost, told wrongly or
// left. CRI_SOCK_KILL_SECONDS sets how long (default 10, times Slowness()), CRI_SOCK_KILL_SEED repeats a run
// as far as time allows.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
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
#include "test/e2e/python.h"

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
  // `python`: the image of pods that may be forked; empty: busybox's.
  Worker(const Node& node, std::string python) : node_(node), python_(std::move(python)) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 50);
    stub_ = api::RuntimeService::NewStub(
        grpc::CreateCustomChannel("unix:" + node.listen(), grpc::InsecureChannelCredentials(), arguments));
  }

  // One pod from its start to its removal, with a port of the host; its container's exit code must be `code`.
  void OnePod(const std::string& name, int code, int port) {
    api::RunPodSandboxRequest run;
    *run.mutable_config() = node_.PodConfig(name);
    run.mutable_config()->add_port_mappings()->set_host_port(port);
    run.mutable_config()->mutable_port_mappings(0)->set_container_port(80);
    run.set_runtime_handler("sock");
    api::RunPodSandboxResponse pod;
    if (!Ask("RunPodSandbox", [&](auto* c) { return stub_->RunPodSandbox(c, run, &pod); })) return;

    api::CreateContainerRequest create;
    create.set_pod_sandbox_id(pod.pod_sandbox_id());
    std::vector<std::string> command{"sh", "-c",
                                     Cat("echo here; until [ -e /go ]; do usleep 2000; done; exit ", code)};
    std::vector<std::string> go{"touch", "/go"};
    if (!python_.empty()) {
      command = {"python3", "-c",
                 Cat("import os, time\nprint('here', flush=True)\nwhile not os.path.exists('/go'): "
                     "time.sleep(0.002)\nraise SystemExit(",
                     code, ")")};
      go = {"python3", "-S", "-c", "open('/go', 'w')"};
    }
    *create.mutable_config() = node_.ContainerConfig(name, std::move(command));
    if (!python_.empty()) create.mutable_config()->mutable_image()->set_image(python_);
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
    // It ends when an execution tells it to.
    api::ExecSyncRequest exec;
    exec.set_container_id(container.container_id());
    for (const std::string& word : go) exec.add_cmd(word);
    exec.set_timeout(10 * Slowness());
    api::ExecSyncResponse executed;
    Ask("ExecSync", [&](auto* c) {
      grpc::Status result = stub_->ExecSync(c, exec, &executed);
      // It did run; the answer went with who gave it.
      return result.error_code() == grpc::StatusCode::FAILED_PRECONDITION ? grpc::Status::OK : result;
    });
    const auto deadline = steady_clock::now() + std::chrono::seconds(30) * Slowness();
    do {
      if (!Ask("ContainerStatus", [&](auto* c) { return stub_->ContainerStatus(c, status, &state); })) return;
      if (state.status().state() != api::CONTAINER_EXITED) std::this_thread::sleep_for(milliseconds(10));
    } while (state.status().state() != api::CONTAINER_EXITED && steady_clock::now() < deadline);
    EXPECT_EQ(state.status().state(), api::CONTAINER_EXITED) << name;
    // Of a container whose monitor and then keeper died, an older kernel may not tell
    // (runtime/base/pidref.h).
    if (KernelIs(6, 15) || state.status().message().find("the kernel does not tell") == std::string::npos)
      EXPECT_EQ(state.status().exit_code(), code)
          << name << ": " << state.status().reason() << " " << state.status().message();
    else
      EXPECT_EQ(state.status().exit_code(), 255);
    status.set_verbose(true);
    if (!Ask("ContainerStatus", [&](auto* c) { return stub_->ContainerStatus(c, status, &state); })) return;
    forked_ = state.info().at("info").find("\"forked\":true") != std::string::npos;
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

  bool forked() const { return forked_; }  // the last pod's container

 private:
  bool Ask(const char* what, const std::function<grpc::Status(grpc::ClientContext*)>& call) {
    grpc::Status status;
    const auto deadline = steady_clock::now() + std::chrono::seconds(40) * Slowness();
    do {
      grpc::ClientContext context;
      context.set_wait_for_ready(true);
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20) * Slowness());
      status = call(&context);
      if (status.ok()) return true;
      // A daemon that ends in order finishes the calls that it began; gRPC answers CANCELLED to those it had
      // not.
      if (status.error_code() != grpc::StatusCode::UNAVAILABLE &&
          status.error_code() != grpc::StatusCode::CANCELLED) {
        break;
      }
      std::this_thread::sleep_for(milliseconds(20));
    } while (steady_clock::now() < deadline);
    ADD_FAILURE() << what << ": " << status.error_code() << " " << status.error_message();
    return false;
  }

  const Node& node_;
  const std::string python_;
  bool forked_ = false;
  std::unique_ptr<api::RuntimeService::Stub> stub_;
};

// What is under way while something happens to our processes: a container that counts, and pods that come and
// go.
class Load {
 public:
  explicit Load(Node& node, const std::string& python = "") : node_(node), forks_(!python.empty()) {
    api::PodSandboxConfig config = node.PodConfig("counter");
    pod_ = node.RunPod(config);
    counter_ = node.Create(
        pod_, config,
        node.ContainerConfig("counter",
                             {"sh", "-c", "i=0; while :; do echo line $i; i=$((i+1)); usleep 2000; done"}));
    EXPECT_TRUE(node.Start(counter_).ok());
    node.WaitLog("counter", "line 5\n");
    for (int w = 0; w < 3; ++w)
      workers_.emplace_back([this, w, python] {
        Worker worker(node_, python);
        for (int i = 0; !over_; ++i) {
          // The same port again: the pod before must have let it go.
          worker.OnePod(Cat("w", w, "-", i), i % 100, 20000 + getpid() % 10000 + w * 10000);
          ++pods_;
          forked_ += worker.forked();
        }
      });
  }
  const std::string& counter() const { return counter_; }
  int pods() const { return pods_; }
  int forked() const { return forked_; }

  // Ends it and looks at what it saw.
  void Finish() {
    over_ = true;
    for (std::thread& worker : workers_) worker.join();
    printf("%d pods, %d forked\n", pods_.load(), forked_.load());
    EXPECT_GT(pods_, 3);
    EXPECT_EQ(node_.Status(counter_).state(), api::CONTAINER_RUNNING);
    // Every line once, in order; one that was handed over to another program stands in two parts.
    std::istringstream log(node_.Log("counter"));
    std::string text;
    long next = 0;
    for (std::string line; std::getline(log, line);) {
      std::istringstream fields(line);
      std::string time, stream, tag;
      fields >> time >> stream >> tag;
      text += line.substr(std::min(line.size(), time.size() + stream.size() + tag.size() + 3));
      if (tag == "P") continue;
      ASSERT_EQ(text, Cat("line ", next)) << "after a line that was right";
      text.clear();
      ++next;
    }
    EXPECT_GT(next, 100);
    EXPECT_TRUE(node_.RemovePod(pod_).ok());
    std::vector<std::string> left = node_.Leftovers();
    if (forks_)  // Zygotes stay
      std::erase_if(left, [](const std::string& one) {
        return one.ends_with("/zygotes") || one.find("/snapshots/") != std::string::npos;
      });
    EXPECT_THAT(left, testing::IsEmpty());
    // Addresses go with their interfaces.
    EXPECT_TRUE(Until([&] { return Addresses() == Ports(); })) << Addresses() << ", " << Ports() << " ports";
    // Interfaces go behind the call; those of spare sandboxes stay, of two kinds and eight each, and for
    // Zygotes more.
    EXPECT_TRUE(forks_ || Until([&] { return Ports() <= 16; })) << Ports() << " ports of the bridge";
    const std::string elements =
        Cat("nft list table ip cri_sock_", node_.bridge(),
            " | grep -q 'chain guard' && ! nft list table ip cri_sock_", node_.bridge(), " | grep elements");
    EXPECT_EQ(system(elements.c_str()), 0) << "a host port is mapped";
  }

 private:
  long Addresses() const {
    const std::string network = node_.Verbose("config")["network"];
    return strtol(network.c_str() + network.rfind(", ") + 2, nullptr, 10);
  }
  long Ports() const {
    std::error_code error;
    std::filesystem::directory_iterator ports("/sys/class/net/" + node_.bridge() + "/brif", error);
    EXPECT_FALSE(error) << error.message();
    return std::distance(begin(ports), end(ports));
  }
  Node& node_;
  const bool forks_;
  std::string pod_, counter_;
  std::atomic<bool> over_{false};
  std::atomic<int> pods_{0}, forked_{0};
  std::vector<std::thread> workers_;
};

// Kills whom `targets` name, in turn at random; each is true where it found somebody.
void KillAtRandom(Node& node, Load& load, const std::map<std::string, std::function<bool()>>& targets) {
  const unsigned seed =
      static_cast<unsigned>(FromEnvironment("CRI_SOCK_KILL_SEED", static_cast<int>(time(nullptr))));
  printf("CRI_SOCK_KILL_SEED=%u\n", seed);
  std::mt19937 random(seed);
  std::map<std::string, int> killed;
  const auto end =
      steady_clock::now() + std::chrono::seconds(FromEnvironment("CRI_SOCK_KILL_SECONDS", 10 * Slowness()));
  while (steady_clock::now() < end) {
    // One at a time: who was killed before has been replaced when a command runs again.
    grpc::Status ready;
    do node.Exec(load.counter(), {"true"}, 10 * Slowness(), &ready);
    while (ready.error_code() == grpc::StatusCode::UNAVAILABLE);
    EXPECT_TRUE(ready.ok()) << ready.error_message();
    std::this_thread::sleep_for(milliseconds(std::uniform_int_distribution<int>(0, 300)(random)) *
                                Slowness());
    auto target = std::next(targets.begin(), static_cast<long>(random() % targets.size()));
    if (target->second()) ++killed[target->first];
  }
  for (const auto& [who, times] : killed) printf("%s killed %d times\n", who.c_str(), times);
  EXPECT_GE(killed.size(), 3u) << "too short a run to mean anything";
}

bool KillLogWriter(pid_t monitor) {
  std::istringstream children(ReadFile(Cat("/proc/", monitor, "/task/", monitor, "/children")).value_or(""));
  for (pid_t child; children >> child;)
    if (ReadFile(Cat("/proc/", child, "/comm")).value_or("") == "sock-logger\n")
      return kill(child, SIGKILL) == 0;
  return false;
}

std::map<std::string, std::function<bool()>> OurProcesses(Node& node) {
  auto holder = [&node](const char* name) {
    const std::string state = node.dir() + "/run";
    const pid_t pid = HolderOfMonitorSocket(state, name);
    if (pid == 0 || kill(pid, SIGKILL) < 0) return false;
    // The monitor answers on for a moment when it is the keeper that dies.
    EXPECT_TRUE(Until([&] {
      const pid_t next = HolderOfMonitorSocket(state, name);
      return next != 0 && next != pid;
    })) << name;
    return true;
  };
  return {{"daemon",
           [&node] {
             node.KillDaemon(SIGKILL);
             node.StartDaemon();
             return true;
           }},
          {"monitor", [holder] { return holder("cri-sock-monito"); }},
          {"keeper", [holder] { return holder("cri-sock-keeper"); }},
          {"log writer",
           [&node] { return KillLogWriter(HolderOfMonitorSocket(node.dir() + "/run", "cri-sock-monito")); }}};
}

TEST(Kill, AtRandomPointsLosesNothing) {
  Node node;
  ASSERT_TRUE(node.Pull(node.image()).ok());
  Load load(node);
  KillAtRandom(node, load, OurProcesses(node));
  load.Finish();
}

// A Zygote, or a process of its that is parked. One that has become a container's meanwhile is left alone.
bool KillZygote(bool parked) {
  std::vector<pid_t> pids;
  std::error_code gone;
  const std::string cgroup = Cat("cri-sock-e2e-", getpid(), "/zygotes");
  for (const char* tree : {"/sys/fs/cgroup/pids/", "/sys/fs/cgroup/"})
    for (const auto& zygote : std::filesystem::directory_iterator(tree + cgroup, gone)) {
      std::ifstream procs(zygote.path() / "cgroup.procs");
      for (pid_t pid; procs >> pid;) pids.push_back(pid);
    }
  std::sort(pids.begin(), pids.end());
  if (pids.empty() || (parked && pids.size() == 1)) return false;
  const pid_t pid = parked ? pids.back() : pids.front();
  kill(pid, SIGSTOP);
  EXPECT_TRUE(Until([&] {
    auto status = ReadFile(Cat("/proc/", pid, "/status"), 1 << 16);
    if (!status.ok()) return true;
    const size_t state = status->find("State:\t");
    return state == std::string::npos ||
           std::string_view("TtZX").find((*status)[state + 7]) != std::string::npos;
  }));
  auto now = ReadFile(Cat("/proc/", pid, "/cgroup"), 1 << 16);
  const bool still = now.ok() && now->find(cgroup) != std::string::npos;
  kill(pid, still ? SIGKILL : SIGCONT);
  return still;
}

TEST(Kill, WhileContainersFork) {
  Node node;
  ASSERT_TRUE(node.Pull(node.image()).ok());
  const std::string python = PushPython(node, {});
  ASSERT_FALSE(python.empty());
  Load load(node, python);
  auto targets = OurProcesses(node);
  targets["Zygote"] = [] { return KillZygote(false); };
  targets["parked process"] = [] { return KillZygote(true); };
  KillAtRandom(node, load, targets);
  // Where a Zygote takes longer to make than the next one to be killed, at the end.
  EXPECT_TRUE(Until([&] { return load.forked() > 0; }));
  load.Finish();
}

TEST(Kill, AnUpgradeUnderLoadLosesNothing) {
  Node node;
  ASSERT_TRUE(node.Pull(node.image()).ok());
  const std::string state = node.dir() + "/run";
  // At one path from the first start on: an upgrade replaces the file.
  node.KillDaemon(SIGTERM);
  node.InstallPrograms({"cri-sockd", "cri-sock-monitor", "cri-sock-unpack"});
  ASSERT_TRUE(Until([&] { return HolderOfMonitorSocket(state, "cri-sock-monito") == 0; }));
  node.StartDaemon();
  Load load(node);
  pid_t monitor = HolderOfMonitorSocket(state, "cri-sock-monito");
  const pid_t keeper = HolderOfMonitorSocket(state, "cri-sock-keeper");
  const std::vector<std::vector<std::string>> upgrades = {{"cri-sockd"},
                                                          {"cri-sock-monitor"},
                                                          {"cri-sockd", "cri-sock-monitor"},
                                                          {"cri-sock-monitor"},
                                                          {"cri-sockd"}};
  for (const auto& programs : upgrades) {
    node.InstallPrograms(programs);
    node.KillDaemon(SIGTERM);
    node.StartDaemon();
    EXPECT_EQ(node.Exec(load.counter(), {"echo", "there"}, 10).stdout(), "there\n");
    // Each runs the file that lies there now; who was not replaced is the one from before.
    const pid_t after = HolderOfMonitorSocket(state, "cri-sock-monito");
    EXPECT_EQ(after == monitor, programs.back() == "cri-sockd");
    monitor = after;
    std::error_code error;
    for (pid_t pid : {monitor, keeper}) {
      EXPECT_EQ(std::filesystem::read_symlink(Cat("/proc/", pid, "/exe"), error),
                node.dir() + "/bin/cri-sock-monitor");
    }
    EXPECT_EQ(std::filesystem::read_symlink(Cat("/proc/", node.daemon(), "/exe"), error),
              node.dir() + "/bin/cri-sockd");
    const int pods = load.pods();
    EXPECT_TRUE(Until([&] { return load.pods() >= pods + 5; }));
  }
  load.Finish();
}

}  // namespace
}  // namespace sock::test
