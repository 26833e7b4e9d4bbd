// What becomes of Zygotes with time: frozen, replaced, ended for their memory, and made again by the next
// daemon.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "runtime/base/fd.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"
#include "test/e2e/node.h"
#include "test/e2e/python.h"

namespace sock::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr char kBallast[] =
    "ballast = bytearray(40 << 20)\nfor i in range(0, 40 << 20, 4096): ballast[i] = 1\n";
constexpr char kPieces[] = "kept = [b'%500d' % i for i in range(80000)]\n";  // 40 MiB in the heap
const std::vector<std::string> kWaits{"python3", "-c", "import signal; signal.pause()"};

class ZygoteUpkeepTest : public testing::Test {
 protected:
  static Node* node_;
  static std::string image_, config_;

  static void SetUpTestSuite() {
    node_ = new Node;
    config_ = ReadFile(node_->dir() + "/config.toml").value();
    image_ = PushPython(*node_, {{"heavy", kBallast}, {"other", kBallast}, {"pieces", kPieces}});
    ASSERT_FALSE(image_.empty());
  }
  static void TearDownTestSuite() {
    delete node_;
    node_ = nullptr;
  }
  void TearDown() override {
    RemovePods();
    node_->KillDaemon(SIGTERM);
    std::filesystem::remove(node_->dir() + "/run/zygote-kinds.json");
    node_->StartDaemon();
    for (const std::string& left : node_->Leftovers()) EXPECT_TRUE(left.ends_with("/zygotes")) << left;
  }
  static void RemovePods() { node_->RemovePods(); }
  // A daemon with these settings of Zygotes.
  static void Configure(const std::string& zygotes) {
    node_->KillDaemon(SIGTERM);
    std::ofstream(node_->dir() + "/config.toml")
        << config_ << zygotes << "[metrics]\nlisten = \"unix:" << node_->dir() << "/metrics.sock\"\n";
    node_->StartDaemon();
  }

  static json Verbose(const std::string& key) { return node_->Verbose(key); }
  // The Zygote that imported `module`, or that of none.
  static json ZygoteOf(const std::string& module = "") {
    for (const json& one : Verbose("zygotes")) {
      const json modules = one.at("modules");
      if (module.empty() ? modules.empty()
                         : std::find(modules.begin(), modules.end(), module) != modules.end())
        return one;
    }
    return {{"state", "none"}, {"id", ""}, {"frozen", false}, {"parked", 0}, {"forks", 0}, {"reason", ""}};
  }

  struct Started {
    std::string pod, container;
    bool forked = false;
    json info;
  };
  static Started Run(const std::string& module = "", const std::vector<std::string>& command = kWaits,
                     const std::map<std::string, std::string>& variables = {}) {
    static int number = 0;
    api::PodSandboxConfig pod = node_->PodConfig(Cat("u", ++number));
    pod.set_hostname("pod");
    pod.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(api::CONTAINER);
    if (!module.empty()) (*pod.mutable_annotations())["imports.cri-sock.io"] = module;
    Started started;
    started.pod = node_->RunPod(pod, "sock");
    api::ContainerConfig config = node_->ContainerConfig(pod.metadata().name(), command);
    config.mutable_image()->set_image(image_);
    for (const auto& [key, value] : variables) {
      api::KeyValue* variable = config.add_envs();
      variable->set_key(key);
      variable->set_value(value);
    }
    *config.mutable_linux()->mutable_security_context()->mutable_namespace_options() =
        pod.linux().security_context().namespace_options();
    started.container = node_->Create(started.pod, pod, config);
    EXPECT_TRUE(node_->Start(started.container).ok());
    started.info = Info(started.container);
    started.forked = started.info.at("forked").get<bool>();
    return started;
  }
  static nlohmann::json Info(const std::string& container) { return node_->Info(container); }
  static Started RunForked(const std::string& module = "") {
    Started started;
    EXPECT_TRUE(Until([&] {
      started = Run(module);
      if (started.forked) return true;
      EXPECT_TRUE(node_->RemovePod(started.pod).ok());
      return false;
    })) << started.info;
    return started;
  }
  static bool Frozen(const std::string& id) {
    bool frozen = false;
    FILE* out = popen(Cat("cat /sys/fs/cgroup/freezer/*/zygotes/", id,
                          "/freezer.state /sys/fs/cgroup/*/zygotes/", id, "/cgroup.freeze 2>/dev/null")
                          .c_str(),
                      "r");
    char text[32] = "";
    while (fgets(text, sizeof text, out) != nullptr) frozen = frozen || text[0] == 'F' || text[0] == '1';
    pclose(out);
    return frozen;
  }
};
Node* ZygoteUpkeepTest::node_ = nullptr;
std::string ZygoteUpkeepTest::image_, ZygoteUpkeepTest::config_;

TEST_F(ZygoteUpkeepTest, MemoryIsToldTruly) {
  Configure("learn = false\n");
  const Started one = RunForked("heavy"), two = RunForked("heavy");
  // 40 MiB that the Zygote imported are shared; nothing like that is the pod's own.
  for (const Started& started : {one, two}) {
    const json memory = Info(started.container).at("memory");
    EXPECT_GT(memory.at("sharedBytes").get<uint64_t>(), 40 * kMiB);
    EXPECT_LT(memory.at("privateBytes").get<uint64_t>(), 10 * kMiB);
    EXPECT_LT(memory.at("proportionalBytes").get<uint64_t>(), 30 * kMiB);
    EXPECT_EQ(memory.at("processes").get<int>(), 1);
  }
  const json zygote = ZygoteOf("heavy");
  EXPECT_GT(zygote.at("memoryBytes").get<uint64_t>(), 40 * kMiB);
  EXPECT_GT(zygote.at("memory").at("sharedBytes").get<uint64_t>(), 40 * kMiB);
  EXPECT_EQ(zygote.at("containers").get<int>(), 2);
  EXPECT_EQ(zygote.at("hits").get<int>(), 2);
  EXPECT_EQ(zygote.at("predictedHits").get<int>(), 2);
  EXPECT_EQ(
      zygote.at("savedMilliseconds").get<uint64_t>(),
      2 * (zygote.at("startMilliseconds").get<uint64_t>() + zygote.at("importMilliseconds").get<uint64_t>()));
  EXPECT_GT(zygote.at("startMilliseconds").get<uint64_t>(), 0u);
  EXPECT_GE(Verbose("zygotesTotal").at("misses").at("making").get<int>(), 1);
}

TEST_F(ZygoteUpkeepTest, AnIdleZygoteIsFrozenUntilItIsNeeded) {
  Configure(Cat("learn = false\nidle_seconds = ", Slowness(), "\n"));
  const Started first = RunForked();
  const std::string id = ZygoteOf().at("id");
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(Until([&] { return ZygoteOf().at("frozen").get<bool>(); })) << ZygoteOf();
    EXPECT_EQ(ZygoteOf().at("parked").get<int>(), 0);
    EXPECT_TRUE(Frozen(id));
    EXPECT_EQ(node_->Status(first.container).state(), api::CONTAINER_RUNNING);
    const Started next = Run();
    EXPECT_TRUE(next.forked) << next.info;
    EXPECT_FALSE(Frozen(id));
    EXPECT_EQ(ZygoteOf().at("id"), id);
    EXPECT_TRUE(node_->RemovePod(next.pod).ok());
  }
}

TEST_F(ZygoteUpkeepTest, AFrozenZygoteDiesWithItsDaemon) {
  Configure("learn = false\nidle_seconds = 1\n");
  RunForked();
  const std::string id = ZygoteOf().at("id");
  ASSERT_TRUE(Until([&] { return Frozen(id); }));
  node_->KillDaemon(SIGKILL);
  node_->StartDaemon();
  EXPECT_FALSE(Frozen(id));
  RunForked();
  ASSERT_TRUE(Until([&] { return ZygoteOf().at("frozen").get<bool>(); }));
}

TEST_F(ZygoteUpkeepTest, ParkedProcessesFollowDemand) {
  Configure("learn = false\nparked = 1\nparked_most = 6\n");
  RunForked();
  EXPECT_TRUE(Until([&] { return ZygoteOf().at("parked").get<int>() >= 1; }));
  for (int i = 0; i < 8; ++i) Run();
  EXPECT_TRUE(Until([&] { return ZygoteOf().at("parked").get<int>() == 6; })) << ZygoteOf();
}

TEST_F(ZygoteUpkeepTest, PodsThatAllDifferGetNoZygoteEach) {
  Configure("learn = false\n");
  const auto run = [](const std::string& name) {
    return Run("", kWaits, {{"OTEL_RESOURCE_ATTRIBUTES", Cat("k8s.pod.name=", name)}});
  };
  const size_t before = Verbose("zygotes").size();
  for (int i = 0; i < 4; ++i) run(Cat("p", i));
  for (int i = 4; i < 7; ++i)
    EXPECT_THAT(run(Cat("p", i)).info.at("notForked").get<std::string>(),
                HasSubstr("they differ in OTEL_RESOURCE_ATTRIBUTES"));
  EXPECT_EQ(Verbose("zygotes").size(), before + 4);
  // Who is known is served, and after it others may come again.
  EXPECT_TRUE(Until([&] { return run("p0").forked; }));
  EXPECT_EQ(run("p8").info.at("notForked"), "its Zygote is being made");
}

TEST_F(ZygoteUpkeepTest, ZygotesAreReplacedAfterSoManyForks) {
  Configure("learn = false\nrotate_forks = 3\nidle_seconds = 2\n");
  const Started first = RunForked();
  const std::string id = ZygoteOf().at("id");
  std::set<std::string> ids{id};
  int forked = 0, pods = 0;
  EXPECT_TRUE(Until([&] {
    const Started one = Run();
    ++pods;
    forked += one.forked;
    EXPECT_TRUE(node_->RemovePod(one.pod).ok());
    ids.insert(ZygoteOf().at("id").get<std::string>());
    return ids.size() > 2;
  }));
  EXPECT_EQ(forked, pods);  // no pod waits for it, or starts plainly
  EXPECT_EQ(node_->Status(first.container).state(), api::CONTAINER_RUNNING);
  EXPECT_TRUE(Until([&] {
    return system(Cat("ls -d /sys/fs/cgroup/pids/*/zygotes/", id, " /sys/fs/cgroup/*/zygotes/", id,
                      " >/dev/null 2>&1")
                      .c_str()) != 0;
  }));
}

TEST_F(ZygoteUpkeepTest, ZygotesAreReplacedWithAge) {
  Configure("learn = false\nrotate_seconds = 1\nidle_seconds = 2\n");
  RunForked();
  const std::string id = ZygoteOf().at("id");
  EXPECT_TRUE(Until([&] {
    EXPECT_TRUE(node_->RemovePod(Run().pod).ok());
    return ZygoteOf().at("id") != id;
  }));
  // And not, where nobody asks for one.
  EXPECT_TRUE(Until([&] { return ZygoteOf().at("state") == "ended"; })) << ZygoteOf();
  EXPECT_THAT(ZygoteOf().at("reason").get<std::string>(), HasSubstr("grown old"));
  RunForked();
}

TEST_F(ZygoteUpkeepTest, TheDearestEndsForWantOfMemory) {
  Configure("learn = false\nmemory_budget_mib = 105\nparked = 0\nparked_most = 0\n");
  const Started used = RunForked("heavy");
  EXPECT_TRUE(node_->RemovePod(RunForked("other").pod).ok());
  // Both do not fit. Of the one that has a container, the end would give nothing back.
  EXPECT_TRUE(Until([&] {
    for (const json& one : Verbose("zygotes"))
      if (one.at("reason").get<std::string>().find("want of memory") != std::string::npos) return true;
    EXPECT_TRUE(node_->RemovePod(Run().pod).ok());
    return false;
  })) << Verbose("zygotes");
  EXPECT_EQ(ZygoteOf("heavy").at("state"), "ready");
}

TEST_F(ZygoteUpkeepTest, TheNextDaemonMakesThemAgain) {
  Configure("learn = false\nidle_seconds = 20\n");
  const Started before = RunForked("heavy"), other = RunForked("pieces");
  node_->KillDaemon(SIGTERM);
  node_->StartDaemon();
  ASSERT_TRUE(Until([&] { return ZygoteOf("heavy").at("state") == "ready"; })) << Verbose("zygotes");
  const Started first = Run("heavy");
  EXPECT_TRUE(first.forked) << first.info;
  EXPECT_EQ(node_->Status(before.container).state(), api::CONTAINER_RUNNING);
  // The memory of the Zygotes that are gone is their containers' alone, and counts still.
  EXPECT_TRUE(Until([&] { return Verbose("zygotesTotal").at("retainedBytes").get<uint64_t>() > 80 * kMiB; }));
  EXPECT_EQ(node_->Status(other.container).state(), api::CONTAINER_RUNNING);
  EXPECT_GT(Info(before.container).at("memory").at("privateBytes").get<uint64_t>(), 40 * kMiB);
}

// No annotation names them: what the first pod imported, the later ones have loaded.
TEST_F(ZygoteUpkeepTest, WhatAnEarlierRunImportedIsLoaded) {
  Configure("idle_seconds = 20\n");
  const std::vector<std::string> command{
      "python3", "-c", "import heavy, http.server, sys\ntry: import nothing.such\nexcept ImportError: pass"};
  Started started = Run("", command);
  EXPECT_FALSE(started.forked);
  EXPECT_EQ(node_->WaitExit(started.container).exit_code(), 0);
  EXPECT_TRUE(Until([&] {
    EXPECT_TRUE(node_->RemovePod(started.pod).ok());
    started = Run("", command);
    EXPECT_EQ(node_->WaitExit(started.container).exit_code(), 0);
    return started.forked && ZygoteOf("heavy").at("hits") > 0;
  })) << Verbose("zygotes");
  const json zygote = ZygoteOf("heavy");
  EXPECT_TRUE(zygote.at("learnt").get<bool>());
  EXPECT_THAT(zygote.at("modules").get<std::vector<std::string>>(), testing::Contains("http.server"));
  // One that fails says nothing of what it would have imported.
  const std::vector<std::string> fails{"python3", "-c", "import other, sys; sys.exit(1)"};
  EXPECT_EQ(node_->WaitExit(Run("", fails).container).exit_code(), 1);
  // Another program of the same image has another set.
  EXPECT_EQ(node_->WaitExit(Run("", {"python3", "-c", "import colorsys"}).container).exit_code(), 0);
  node_->KillDaemon(SIGTERM);
  node_->StartDaemon();
  ASSERT_TRUE(Until([&] { return ZygoteOf("heavy").at("state") == "ready"; })) << Verbose("zygotes");
  // The last pod of its kind was another program's.
  EXPECT_TRUE(Until([&] {
    started = Run("", command);
    EXPECT_EQ(node_->WaitExit(started.container).exit_code(), 0);
    return started.forked;
  }));
  EXPECT_EQ(ZygoteOf("other").at("state"), "none");
}

TEST_F(ZygoteUpkeepTest, MetricsTellThem) {
  Configure("learn = false\n");
  RunForked("heavy");
  auto ask = [](const std::string& request) {
    const Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "%s/metrics.sock", node_->dir().c_str());
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    const std::string whole = request + "Host: node\r\nConnection: close\r\n\r\n";
    EXPECT_EQ(send(fd.get(), whole.data(), whole.size(), MSG_NOSIGNAL), static_cast<ssize_t>(whole.size()));
    std::string said;
    char buffer[4096];
    for (ssize_t n; (n = read(fd.get(), buffer, sizeof buffer)) > 0;)
      said.append(buffer, static_cast<size_t>(n));
    return said;
  };
  const std::string text = ask("GET /metrics HTTP/1.1\r\n");
  for (const char* line :
       {"# TYPE cri_sock_zygote_hits_total counter\n", "cri_sock_pods{state=\"ready\"} 1\n",
        "cri_sock_plain_starts_total{reason=\"making\"} ", "outcome=\"hit\"} 1\n", "kind=\"shared\"} ",
        "cri_sock_zygotes_memory_budget_bytes 4294967296\n"})
    EXPECT_THAT(text, HasSubstr(line));
  EXPECT_THAT(text, testing::ContainsRegex(
                        "cri_sock_zygote_hits_total.zygote=\"[0-9a-f]*\",image=\"sha256:[0-9a-f]*\","
                        "namespace=\"default\". 1\n"));
  EXPECT_THAT(text, HasSubstr("200 OK"));
  EXPECT_THAT(ask("GET /other HTTP/1.1\r\n"), HasSubstr("404 Not Found"));
  EXPECT_THAT(ask("POST /metrics HTTP/1.1\r\n"), HasSubstr("405 Method Not Allowed"));
  EXPECT_EQ(ask(Cat("GET /metrics HTTP/1.1\r\nX: ", std::string(9000, 'x'), "\r\n")), "");
}

}  // namespace
}  // namespace sock::test
