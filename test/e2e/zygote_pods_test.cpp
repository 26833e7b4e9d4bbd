// Pods with more than one container, and what the daemon can do to one, where containers are forked from
// Zygotes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/cleanup/cleanup.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"
#include "test/e2e/node.h"
#include "test/e2e/python.h"

namespace sock::test {
namespace {

using testing::HasSubstr;

const std::vector<std::string> kWaits{"python3", "-c",
                                      "import signal; print('runs', flush=True); signal.pause()"};
const std::vector<std::string> kShell{"sh", "-c", "echo runs; exec sleep 1000"};

class ZygotePodsTest : public testing::Test {
 protected:
  static Node* node_;
  static std::string image_;

  static void SetUpTestSuite() {
    node_ = new Node;
    image_ = PushPython(
        *node_,
        {{"kept", "ballast = bytearray(20 << 20)\nfor i in range(0, 20 << 20, 4096): ballast[i] = 1\n"}});
    ASSERT_FALSE(image_.empty());
    ASSERT_TRUE(node_->Pull(node_->image()).ok());
  }
  static void TearDownTestSuite() {
    delete node_;
    node_ = nullptr;
  }
  void TearDown() override { RemovePods(); }
  static void RemovePods() { node_->RemovePods(); }

  static nlohmann::json Info(const std::string& container) { return node_->Info(container); }
  static bool Forked(const std::string& container) { return Info(container).at("forked").get<bool>(); }
  static std::string Reason(const std::string& container) { return Info(container).value("notForked", ""); }

  // Pods of one kind per test.
  struct Pod {
    api::PodSandboxConfig config;
    std::string id;
    api::NamespaceMode pids = api::CONTAINER;

    std::string Create(const std::string& name, std::vector<std::string> command, uint32_t attempt = 0,
                       const std::function<void(api::ContainerConfig&)>& change = {}) {
      const bool python = command[0] == "python3";
      api::ContainerConfig container =
          node_->ContainerConfig(config.metadata().name() + name, std::move(command));
      container.mutable_metadata()->set_name(name);
      container.mutable_metadata()->set_attempt(attempt);
      if (python) container.mutable_image()->set_image(image_);
      auto* security = container.mutable_linux()->mutable_security_context();
      *security->mutable_namespace_options() = config.linux().security_context().namespace_options();
      security->mutable_seccomp()->set_profile_type(api::SecurityProfile::RuntimeDefault);
      if (change) change(container);
      return node_->Create(id, config, container);
    }
    std::string Log(const std::string& name) const {
      return node_->WaitLog(config.metadata().name() + name, "runs");
    }
  };
  using Change = std::function<void(api::PodSandboxConfig&)>;
  static Pod Run(const Change& change = {}) {
    static int number = 0;
    Pod pod;
    pod.config = node_->PodConfig(Cat("p", ++number));
    pod.config.set_hostname("pod");
    (*pod.config.mutable_labels())["test"] = testing::UnitTest::GetInstance()->current_test_info()->name();
    pod.config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(
        api::CONTAINER);
    if (change) change(pod.config);
    pod.id = node_->RunPod(pod.config, "sock");
    return pod;
  }
  // One whose kind is known and whose Zygote is made: made of pods with `command` until one was forked.
  static Pod RunPredicted(const Change& change = {}, const std::vector<std::string>& command = kWaits) {
    std::string reason = "none";
    EXPECT_TRUE(Until([&] {
      Pod pod = Run(change);
      const std::string container = pod.Create("first", command);
      const bool forked = Forked(container);
      reason = Reason(container);
      EXPECT_TRUE(node_->RemovePod(pod.id).ok());
      return forked || (reason.find("being made") == std::string::npos &&
                        reason.find("sandbox-owner") == std::string::npos);
    })) << reason;
    EXPECT_EQ(reason, "");
    return Run(change);
  }
  static void Start(const std::string& container) {
    const grpc::Status started = node_->Start(container);
    ASSERT_TRUE(started.ok()) << started.error_message();
  }
  static std::string Shell(const std::string& container, const std::string& line) {
    return node_->Exec(container, {"sh", "-c", line}, 10).stdout();
  }
  static std::string Python(const std::string& container, const std::string& line) {
    return node_->Exec(container, {"python3", "-c", line}, 10).stdout();
  }
  static grpc::Status Stop(const std::string& container, int64_t grace) {
    grpc::ClientContext context;
    api::StopContainerRequest request;
    api::StopContainerResponse response;
    request.set_container_id(container);
    request.set_timeout(grace);
    return node_->runtime().StopContainer(&context, request, &response);
  }
  static void Remove(const std::string& container) {
    grpc::ClientContext context;
    api::RemoveContainerRequest request;
    api::RemoveContainerResponse response;
    request.set_container_id(container);
    EXPECT_TRUE(node_->runtime().RemoveContainer(&context, request, &response).ok());
  }
};
Node* ZygotePodsTest::node_ = nullptr;
std::string ZygotePodsTest::image_;

TEST_F(ZygotePodsTest, ANewRevisionIsForetoldByTheOldOne) {
  auto revision = [](const char* hash) {
    return [hash](api::PodSandboxConfig& config) { (*config.mutable_labels())["pod-template-hash"] = hash; };
  };
  const Pod old = RunPredicted(revision("old"));
  EXPECT_TRUE(node_->RemovePod(old.id).ok());
  Pod pod = Run(revision("new"));
  const std::string container = pod.Create("main", kWaits);
  EXPECT_TRUE(Forked(container)) << Reason(container);
  Start(container);
  EXPECT_TRUE(node_->RemovePod(pod.id).ok());
}

TEST_F(ZygotePodsTest, AnInitContainerRunsBeforeAForkedOne) {
  Pod pod = RunPredicted();
  const std::string init = pod.Create("init", {"sh", "-c", "echo runs; exit 0"});
  Start(init);
  EXPECT_EQ(node_->WaitExit(init).exit_code(), 0);
  const std::string main = pod.Create("main", kWaits);
  EXPECT_TRUE(Forked(main)) << Reason(main);
  Start(main);
  EXPECT_THAT(pod.Log("main"), HasSubstr("runs"));
}

// Of two sets, the one that takes longer to import is the sandbox's; the other starts plainly and says so.
TEST_F(ZygotePodsTest, APythonInitContainerBeforeAForkedOne) {
  const std::vector<std::string> init{"python3", "-O", "-c", "print('runs')"};
  std::string first, second;
  EXPECT_TRUE(Until([&] {
    Pod pod = Run([](auto& config) { (*config.mutable_annotations())["imports.cri-sock.io/main"] = "kept"; });
    first = pod.Create("init", init);
    Start(first);
    EXPECT_EQ(node_->WaitExit(first).exit_code(), 0);
    second = pod.Create("main", kWaits);
    const bool forked = Forked(second);
    if (!forked) {
      EXPECT_TRUE(node_->RemovePod(pod.id).ok());
    }
    return forked;
  }));
  EXPECT_FALSE(Forked(first));
  EXPECT_THAT(Reason(first), HasSubstr("sandbox-owner"));
}

// Knative's pod: the user's container is forked; queue-proxy, a static program, execs into the same sandbox.
TEST_F(ZygotePodsTest, AForkedContainerBesideAStaticProgram) {
  const std::vector<std::string> serves{"python3", "-c",
                                        "import socket\ns = socket.create_server(('', 8080))\nprint('runs', "
                                        "flush=True)\nwhile True:\n c, _ = s.accept()\n"
                                        " c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nhello')\n c.close()"};
  for (const bool forked_first : {true, false}) {
    Pod pod = RunPredicted({}, serves);
    std::string user, proxy;
    if (forked_first) user = pod.Create("user", serves);
    proxy = pod.Create("proxy", kShell);
    if (!forked_first) user = pod.Create("user", serves);
    EXPECT_TRUE(Forked(user)) << forked_first << Reason(user);
    EXPECT_FALSE(Forked(proxy));
    EXPECT_THAT(Reason(proxy), HasSubstr("not python3"));
    Start(forked_first ? user : proxy);
    Start(forked_first ? proxy : user);
    pod.Log("user");
    pod.Log("proxy");
    EXPECT_EQ(Shell(proxy, "wget -q -O - http://127.0.0.1:8080/"), "hello");
    for (const char* kind : {"net", "ipc", "uts", "user"})
      EXPECT_EQ(Shell(proxy, Cat("readlink /proc/self/ns/", kind)),
                Python(user, Cat("import os; print(os.readlink('/proc/self/ns/", kind, "'))")))
          << kind;
    for (const char* kind : {"pid", "mnt", "cgroup"})
      EXPECT_NE(Shell(proxy, Cat("readlink /proc/self/ns/", kind)),
                Python(user, Cat("import os; print(os.readlink('/proc/self/ns/", kind, "'))")))
          << kind;
    // The end of one is not the other's.
    EXPECT_TRUE(Stop(user, 0).ok());
    EXPECT_EQ(node_->Status(proxy).state(), api::CONTAINER_RUNNING);
    EXPECT_TRUE(node_->RemovePod(pod.id).ok());
  }
}

TEST_F(ZygotePodsTest, TwoForkedContainersInOneSandbox) {
  Pod pod = RunPredicted();
  const std::string one = pod.Create("one", kWaits), other = pod.Create("other", kWaits);
  EXPECT_TRUE(Forked(one)) << Reason(one);
  EXPECT_TRUE(Forked(other)) << Reason(other);
  Start(other);
  Start(one);
  EXPECT_EQ(Python(one,
                   "import os; print(os.readlink('/proc/1/ns/net') == os.readlink('/proc/self/ns/net'), "
                   "len([p for p in "
                   "os.listdir('/proc') if p.isdigit()]))"),
            "True 2\n");
  EXPECT_TRUE(Stop(one, 0).ok());
  EXPECT_EQ(node_->Status(other).state(), api::CONTAINER_RUNNING);
}

TEST_F(ZygotePodsTest, ACrashedContainerIsForkedAgainInItsPod) {
  const std::vector<std::string> crashes{"python3", "-c", "import os; os._exit(3)"};
  Pod pod = RunPredicted();
  for (uint32_t attempt = 0; attempt < 3; ++attempt) {
    const std::string container = pod.Create("main", crashes, attempt);
    EXPECT_TRUE(Forked(container)) << attempt << Reason(container);
    Start(container);
    EXPECT_EQ(node_->WaitExit(container).exit_code(), 3);
    if (attempt == 1) Remove(container);
  }
  // The sandbox belongs to the Zygote's user also after a restart of the daemon, which makes the Zygote anew.
  node_->KillDaemon(SIGKILL);
  node_->StartDaemon();
  uint32_t attempt = 3;
  EXPECT_TRUE(Until([&] {
    const std::string container = pod.Create("main", crashes, attempt++);
    Start(container);
    EXPECT_EQ(node_->WaitExit(container).exit_code(), 3);
    return Forked(container);
  }));
}

TEST_F(ZygotePodsTest, WhatTheDaemonCanDoToAContainer) {
  Pod pod = RunPredicted();
  const std::string main = pod.Create("main", {"python3", "-c",
                                               "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: "
                                               "sys.exit(7))\nprint('runs', flush=True)\n"
                                               "while True: signal.pause()"});
  ASSERT_TRUE(Forked(main)) << Reason(main);
  Start(main);
  pod.Log("main");
  // Probes.
  grpc::Status status;
  EXPECT_EQ(node_->Exec(main, {"python3", "-c", "import sys; sys.exit(4)"}, 10).exit_code(), 4);
  node_->Exec(main, {"python3", "-c", "import time; time.sleep(1000)"}, 1, &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  // Statistics.
  {
    grpc::ClientContext context;
    api::ContainerStatsRequest request;
    request.set_container_id(main);
    api::ContainerStatsResponse response;
    ASSERT_TRUE(node_->runtime().ContainerStats(&context, request, &response).ok());
    EXPECT_GT(response.stats().cpu().usage_core_nano_seconds().value(), 0u);
    EXPECT_GT(response.stats().memory().usage_bytes().value(), 0u);
    EXPECT_LT(response.stats().memory().usage_bytes().value(), 64u << 20);
  }
  // Resources: the file is that of the container's own cgroup, as its limit shows.
  {
    grpc::ClientContext context;
    api::UpdateContainerResourcesRequest request;
    request.set_container_id(main);
    request.mutable_linux()->set_memory_limit_in_bytes(48 << 20);
    api::UpdateContainerResourcesResponse response;
    status = node_->runtime().UpdateContainerResources(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(node_->Status(main).resources().linux().memory_limit_in_bytes(), 48 << 20);
    EXPECT_EQ(node_->Exec(main, {"python3", "-c", "bytearray(100 << 20)"}, 10).exit_code(), 128 + SIGKILL);
  }
  // The log.
  {
    grpc::ClientContext context;
    api::ReopenContainerLogRequest request;
    request.set_container_id(main);
    api::ReopenContainerLogResponse response;
    ASSERT_TRUE(node_->runtime().ReopenContainerLog(&context, request, &response).ok());
  }
  EXPECT_TRUE(Stop(main, 10).ok());
  EXPECT_EQ(node_->Status(main).exit_code(), 7);

  const std::string stubborn = pod.Create(
      "stubborn", {"python3", "-c",
                   "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('runs', flush=True)\n"
                   "while True: signal.pause()"});
  ASSERT_TRUE(Forked(stubborn)) << Reason(stubborn);
  Start(stubborn);
  pod.Log("stubborn");
  EXPECT_TRUE(Stop(stubborn, 1).ok());
  EXPECT_EQ(node_->Status(stubborn).exit_code(), 128 + SIGKILL);
}

TEST_F(ZygotePodsTest, TheLimitIsThatOfTheForkedContainer) {
  Pod pod = RunPredicted();
  const std::string main = pod.Create(
      "main", {"python3", "-c", "x = bytearray(100 << 20)"}, 0,
      [](auto& config) { config.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(48 << 20); });
  ASSERT_TRUE(Forked(main)) << Reason(main);
  Start(main);
  EXPECT_EQ(node_->WaitExit(main).reason(), "OOMKilled");
}

TEST_F(ZygotePodsTest, ASharedPidNamespace) {
  const Change shared = [](auto& config) {
    config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(api::POD);
  };
  Pod pod = RunPredicted(shared);
  const std::string shell = pod.Create("shell", kShell), main = pod.Create("main", kWaits);
  ASSERT_TRUE(Forked(main)) << Reason(main);
  Start(shell);
  Start(main);
  pod.Log("main");
  EXPECT_EQ(Shell(shell, "readlink /proc/self/ns/pid"),
            Python(main, "import os; print(os.readlink('/proc/self/ns/pid'))"));
  EXPECT_THAT(Python(main,
                     "import os\nfor p in os.listdir('/proc'):\n if p.isdigit(): print(open('/proc/%s/comm' "
                     "% p).read())"),
              HasSubstr("sleep"));
  // Killed from its neighbour, it is that container that ends, with all that it started.
  Shell(shell, "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = python3 ] && kill -9 ${p#/proc/}; done");
  EXPECT_EQ(node_->WaitExit(main).exit_code(), 128 + SIGKILL);
  EXPECT_EQ(node_->Status(shell).state(), api::CONTAINER_RUNNING);
  const std::string again = pod.Create("main", kWaits, 1);
  EXPECT_TRUE(Forked(again)) << Reason(again);
}

TEST_F(ZygotePodsTest, ADebuggerInTheNamespaceOfAForkedContainer) {
  Pod pod = RunPredicted();
  const std::string main = pod.Create("main", kWaits);
  ASSERT_TRUE(Forked(main)) << Reason(main);
  Start(main);
  const std::string debugger = pod.Create("debugger", kShell, 0, [&](auto& config) {
    auto* options = config.mutable_linux()->mutable_security_context()->mutable_namespace_options();
    options->set_pid(api::TARGET);
    options->set_target_id(main);
  });
  Start(debugger);
  pod.Log("debugger");
  EXPECT_EQ(Shell(debugger, "cat /proc/1/comm"), "python3\n");
}

// hostUsers: false, with ids that kubelet chose.
TEST_F(ZygotePodsTest, APodWithUsersOfItsOwn) {
  uint32_t first = 1000 * 65536;
  const Change own = [&first](auto& config) {
    auto* users = config.mutable_linux()
                      ->mutable_security_context()
                      ->mutable_namespace_options()
                      ->mutable_userns_options();
    users->set_mode(api::POD);
    first += 65536;
    for (auto* one : {users->add_uids(), users->add_gids()}) {
      one->set_host_id(first);
      one->set_length(65536);
    }
  };
  Pod pod = RunPredicted(own);
  const std::string main = pod.Create("main", kWaits), shell = pod.Create("shell", kShell);
  ASSERT_TRUE(Forked(main)) << Reason(main);
  Start(main);
  Start(shell);
  pod.Log("main");
  pod.Log("shell");
  EXPECT_EQ(Python(main, "print(*open('/proc/self/uid_map').read().split())"), Cat("0 ", first, " 65536\n"));
  EXPECT_EQ(Shell(shell, "readlink /proc/self/ns/user"),
            Python(main, "import os; print(os.readlink('/proc/self/ns/user'))"));
  struct stat owner;
  ASSERT_EQ(stat(Cat("/proc/", Info(main).at("pid").get<int>()).c_str(), &owner), 0);
  EXPECT_EQ(owner.st_uid, first);
}

// emptyDir with medium Memory, secrets, tokens: a tmpfs can be idmapped from Linux 6.3 on. Ids in it are the
// same either way.
TEST_F(ZygotePodsTest, AVolumeInMemory) {
  const std::string volume = node_->dir() + "/memory";
  ASSERT_EQ(mkdir(volume.c_str(), 0755), 0);
  ASSERT_EQ(mount("memory", volume.c_str(), "tmpfs", 0, "mode=0755"), 0);
  absl::Cleanup unmount = [&] { umount2(volume.c_str(), MNT_DETACH); };
  std::ofstream(volume + "/given") << "given";
  ASSERT_EQ(chown((volume + "/given").c_str(), 1234, 5678), 0);
  Pod pod = RunPredicted();
  const std::string main =
      pod.Create("main",
                 {"python3", "-c",
                  "import os, signal\n"
                  "st = os.stat('/memory/given')\n"
                  "print(open('/memory/given').read(), st.st_uid, st.st_gid, os.stat('/memory').st_uid)\n"
                  "open('/memory/made', 'w').close(); print('runs', flush=True); signal.pause()"},
                 0, [&](api::ContainerConfig& config) {
                   auto* mounted = config.add_mounts();
                   mounted->set_host_path(volume);
                   mounted->set_container_path("/memory");
                 });
  const bool idmapped = KernelIs(6, 3);
  EXPECT_EQ(Forked(main), idmapped) << Reason(main);
  EXPECT_THAT(Reason(main), HasSubstr(idmapped ? "" : "can't be idmapped"));
  Start(main);
  EXPECT_THAT(pod.Log("main"), HasSubstr("given 1234 5678 0\n"));
  struct stat made;
  ASSERT_EQ(stat((volume + "/made").c_str(), &made), 0);
  EXPECT_EQ(made.st_uid, 0u);
  EXPECT_EQ(made.st_gid, 0u);
}

TEST_F(ZygotePodsTest, WhatIsTheNodesIsToldAsTheReason) {
  for (const auto& [text, change] : std::vector<std::pair<std::string, Change>>{
           {"node's network",
            [](auto& c) {
              c.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_network(
                  api::NODE);
            }},
           {"privileged",
            [](auto& c) { c.mutable_linux()->mutable_security_context()->set_privileged(true); }}}) {
    Pod pod = Run(change);
    const std::string main = pod.Create("main", kWaits);
    EXPECT_FALSE(Forked(main));
    EXPECT_THAT(Reason(main), HasSubstr(text));
  }
}

}  // namespace
}  // namespace sock::test
