// Pods on a network that CNI plugins make: Debian's own bridge, host-local and portmap, through the daemon.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "runtime/base/path.h"
#include "runtime/base/text.h"
#include "test/e2e/node_fixture.h"

namespace sock::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

// Networks, and their bridges' names.
constexpr char kFirst[] = "csocke2e1", kOther[] = "csocke2e2";

class CniTest : public NodeFixture {
 protected:
  void SetUp() override {
    NodeFixture::SetUp();
    std::filesystem::create_directories(node_.dir() + "/cni");
  }
  void TearDown() override {
    NodeFixture::TearDown();
    EXPECT_THAT(Traces(), IsEmpty());
    for (const char* bridge : {kFirst, kOther})
      (void)system(Cat("ip link delete ", bridge, " 2>/dev/null").c_str());
  }

  // A network of Debian's plugins; `more` are further plugins of the list, each with a comma before it.
  void Configure(const std::string& file, const std::string& name, const std::string& subnet,
                 const std::string& more = "", const std::string& head = R"("cniVersion": "1.0.0")") {
    std::ofstream(node_.dir() + "/cni.new")
        << "{" << head << R"(, "name": ")" << name << R"(", "plugins": [{"type": "bridge", "bridge": ")"
        << name << R"(", "isGateway": true, "ipMasq": true, "ipam": {"type": "host-local", "dataDir": ")"
        << node_.dir() << R"(/ipam", "ranges": [[{"subnet": ")" << subnet
        << R"("}]], "routes": [{"dst": "0.0.0.0/0"}]}}, )"
        << R"({"type": "portmap", "capabilities": {"portMappings": true}})" << more << "]}";
    std::filesystem::rename(node_.dir() + "/cni.new", node_.dir() + "/cni/" + file);
  }

  // A plugin for the end of a list: it leaves the network alone and writes what it is asked to the file
  // `asked`, a line each. CHECK fails while there is a file `broken`, and hangs while there is one `hang`.
  std::string OurPlugin() {
    const std::string dir = node_.dir() + "/cni-bin";
    std::filesystem::create_directories(dir);
    std::ofstream(dir + "/csock-check") << R"sh(#!/bin/sh
cd "${0%/*}" || exit 1
config=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $(echo "$config" | jq -cS .prevResult)" >>asked
[ "$CNI_COMMAND" != ADD ] || echo "$config" | jq .prevResult
[ "$CNI_COMMAND" = CHECK ] || exit 0
if [ -e hang ]; then echo $$ >>hanging; exec sleep 1000; fi
[ -e broken ] || exit 0
echo '{"cniVersion": "1.0.0", "code": 11, "msg": "network is changed", "details": "a rule is gone"}'
exit 1
)sh";
    std::filesystem::permissions(dir + "/csock-check", std::filesystem::perms::owner_all);
    return R"(, {"type": "csock-check"})";
  }
  std::string OurFile(const std::string& name) const { return node_.dir() + "/cni-bin/" + name; }
  // What our plugin was asked of the pod by this command: what it was given as prevResult.
  std::vector<std::string> Asked(const std::string& command, const std::string& pod) const {
    std::vector<std::string> found;
    std::ifstream asked(OurFile("asked"));
    const std::string start = command + " " + pod + " ";
    for (std::string line; std::getline(asked, line);)
      if (line.starts_with(start)) found.push_back(line.substr(start.size()));
    return found;
  }
  size_t Logged(const std::string& text) const {
    std::ifstream log(node_.dir() + "/daemon.log");
    size_t count = 0;
    for (std::string line; std::getline(log, line);) count += line.find(text) != std::string::npos;
    return count;
  }
  nlohmann::json PodInfo(const std::string& pod) {
    grpc::ClientContext context;
    api::PodSandboxStatusRequest request;
    api::PodSandboxStatusResponse response;
    request.set_pod_sandbox_id(pod);
    request.set_verbose(true);
    EXPECT_TRUE(node_.runtime().PodSandboxStatus(&context, request, &response).ok());
    return nlohmann::json::parse(response.info().at("info"));
  }
  // Of the check that the question makes happen.
  nlohmann::json Check(const std::string& pod) {
    nlohmann::json check;
    EXPECT_TRUE(Until([&] {
      check = PodInfo(pod)["networkCheck"];
      return check["pending"] == false;
    }));
    return check;
  }

  // The NetworkReady condition as the CRI's Status tells it.
  api::RuntimeCondition NetworkReady() {
    grpc::ClientContext context;
    api::StatusRequest request;
    api::StatusResponse response;
    EXPECT_TRUE(node_.runtime().Status(&context, request, &response).ok());
    for (const auto& condition : response.status().conditions())
      if (condition.type() == "NetworkReady") return condition;
    ADD_FAILURE() << "no NetworkReady";
    return {};
  }

  std::string Ip(const std::string& pod) {
    grpc::ClientContext context;
    api::PodSandboxStatusRequest request;
    api::PodSandboxStatusResponse response;
    request.set_pod_sandbox_id(pod);
    EXPECT_TRUE(node_.runtime().PodSandboxStatus(&context, request, &response).ok());
    return response.status().network().ip();
  }

  static std::string Output(const std::string& command) {
    std::string text;
    FILE* pipe = popen(command.c_str(), "r");
    char buffer[512];
    for (size_t n; pipe != nullptr && (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;)
      text.append(buffer, n);
    if (pipe != nullptr) pclose(pipe);
    return text;
  }

  // What the plugins hold for pods: leases, ends of veth pairs in their bridge, rules for ports.
  std::vector<std::string> Traces() const {
    std::vector<std::string> found;
    std::error_code none;
    for (const auto& file : std::filesystem::recursive_directory_iterator(node_.dir() + "/ipam", none)) {
      if (file.path().filename().string().starts_with("10."))
        found.push_back("lease " + file.path().string());
    }
    for (const char* bridge : {kFirst, kOther}) {
      std::string ports = Output(Cat("ip -o link show master ", bridge, " 2>/dev/null"));
      if (!ports.empty()) found.push_back("port " + ports);
    }
    for (const auto& note : std::filesystem::directory_iterator(node_.dir() + "/lib/cni", none))
      found.push_back("note " + note.path().string());
    std::string rules = Output("iptables -w -t nat -S 2>/dev/null | grep '10[.]19[56][.]'");
    if (!rules.empty()) found.push_back("rules " + rules);
    return found;
  }

  std::string Serve(const std::string& name, api::PodSandboxConfig config) {
    std::string pod = node_.RunPod(config);
    std::string container =
        node_.Create(pod, config,
                     node_.ContainerConfig(
                         name, {"sh", "-c", "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"}));
    EXPECT_TRUE(node_.Start(container).ok());
    return pod;
  }
  static bool Answers(const std::string& address) {
    std::string ask = Cat("for i in $(seq 100); do busybox wget -qO- http://", address,
                          "/ 2>/dev/null && exit 0; done; exit 1");
    return Output(ask) == "hello\n";
  }
};

TEST_F(CniTest, APodIsReachedByItsAddressAndItsPort) {
  Configure("10-e2e.conflist", kFirst, "10.196.0.0/24");
  api::RuntimeCondition ready = NetworkReady();
  EXPECT_TRUE(ready.status()) << ready.message();
  api::PodSandboxConfig config = node_.PodConfig("web");
  auto* port = config.add_port_mappings();
  port->set_container_port(8080);
  port->set_host_port(18196);
  std::string pod = Serve("web", config);
  std::string ip = Ip(pod);
  EXPECT_THAT(ip, HasSubstr("10.196.0."));
  EXPECT_TRUE(Answers(ip + ":8080"));
  EXPECT_TRUE(Answers("10.196.0.1:18196"));
  EXPECT_THAT(Traces(), SizeIs(4));  // lease, bridge's port, note and rules: TearDown sees them gone
}

TEST_F(CniTest, AFailingPluginFailsThePodAndLeavesNothing) {
  Configure("10-e2e.conflist", kFirst, "10.196.0.0/24",
            R"(, {"type": "tuning", "sysctl": {"net.ipv4.no_such_name": "1"}})");
  grpc::Status status;
  node_.RunPod(node_.PodConfig("fails"), "sock", &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("cni ADD by plugin `tuning`"));
  EXPECT_THAT(status.error_message(), HasSubstr("no_such_name"));
  EXPECT_THAT(Traces(), IsEmpty());
  EXPECT_THAT(node_.Leftovers(), IsEmpty());
  grpc::ClientContext context;
  api::ListPodSandboxResponse pods;
  ASSERT_TRUE(node_.runtime().ListPodSandbox(&context, {}, &pods).ok());
  EXPECT_THAT(pods.items(), IsEmpty());
  // The same pod, once the plugin works.
  Configure("10-e2e.conflist", kFirst, "10.196.0.0/24");
  EXPECT_THAT(Ip(node_.RunPod(node_.PodConfig("fails"))), HasSubstr("10.196.0."));
}

TEST_F(CniTest, AMissingPluginIsNamedByStatus) {
  EXPECT_TRUE(NetworkReady().status());  // the built-in bridge
  Configure("10-e2e.conflist", kFirst, "10.196.0.0/24", R"(, {"type": "no-such-plugin"})");
  api::RuntimeCondition ready = NetworkReady();
  EXPECT_FALSE(ready.status());
  EXPECT_THAT(ready.message(), HasSubstr("no-such-plugin"));
  std::ofstream(node_.dir() + "/cni/10-e2e.conflist") << "{\"cniVersion\": \"1.0.0\"";
  ready = NetworkReady();
  EXPECT_FALSE(ready.status());
  EXPECT_THAT(ready.message(), HasSubstr("10-e2e.conflist"));
  grpc::Status status;
  node_.RunPod(node_.PodConfig("none"), "sock", &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("10-e2e.conflist"));
}

TEST_F(CniTest, APodWhoseRecordIsLostGivesItsAddressBack) {
  Configure("10-e2e.conflist", kFirst, "10.196.0.0/24");
  std::string pod = node_.RunPod(node_.PodConfig("lost"));
  EXPECT_THAT(Traces(), Not(IsEmpty()));
  node_.KillDaemon(SIGKILL);
  // As after a reboot, but that namespace and interfaces are there still.
  ASSERT_GT(std::filesystem::remove_all(node_.dir() + "/run/sandboxes/" + pod) +
                std::filesystem::remove_all(node_.dir() + "/run/sandboxes/" + pod + ".json"),
            0u);
  node_.StartDaemon();
  EXPECT_THAT(Traces(), IsEmpty());
  EXPECT_THAT(node_.Leftovers(), IsEmpty());
}

TEST_F(CniTest, EachPodLeavesTheNetworkItCameTo) {
  std::string built_in = node_.RunPod(node_.PodConfig("built-in"));
  EXPECT_THAT(Ip(built_in), HasSubstr(node_.subnet()));
  Configure("10-e2e.conflist", kFirst, "10.196.0.0/24");
  std::string first = node_.RunPod(node_.PodConfig("first"));
  EXPECT_THAT(Ip(first), HasSubstr("10.196.0."));
  Configure("00-other.conflist", kOther, "10.195.0.0/24");  // comes before the other
  std::string second = node_.RunPod(node_.PodConfig("second"));
  EXPECT_THAT(Ip(second), HasSubstr("10.195.0."));
  // The daemon comes back to no configuration at all, and lets each pod go by its own.
  node_.KillDaemon(SIGKILL);
  std::filesystem::remove_all(node_.dir() + "/cni");
  node_.StartDaemon();
  for (const std::string& pod : {second, built_in, first}) EXPECT_TRUE(node_.RemovePod(pod).ok());
  EXPECT_THAT(Traces(), IsEmpty());
  EXPECT_THAT(Ip(node_.RunPod(node_.PodConfig("again"))), HasSubstr(node_.subnet()));
}

TEST_F(CniTest, WhatADaemonAdoptsIsChecked) {
  Configure("10-e2e.conflist", kFirst, "10.196.0.0/24", OurPlugin());
  // No host port: Debian's portmap misses IPv6 rules that its ADD does not make.
  const std::string sound = node_.RunPod(node_.PodConfig("sound")),
                    broken = node_.RunPod(node_.PodConfig("broken"));
  EXPECT_THAT(Asked("CHECK", sound), IsEmpty());
  EXPECT_EQ(Check(sound)["result"], "ok");
  ASSERT_THAT(Asked("CHECK", sound), SizeIs(1));

  node_.KillDaemon(SIGKILL);
  const std::string inside = "nsenter --net=" + node_.dir() + "/run/ns/" + broken + "/net ";
  ASSERT_EQ(system((inside + "ip route delete default").c_str()), 0);
  node_.StartDaemon();
  ASSERT_TRUE(Until([&] { return Asked("CHECK", sound).size() == 2; }));
  // As the last plugin of the ADD left it.
  EXPECT_EQ(Asked("CHECK", sound)[1], Asked("ADD", sound)[0]);
  const std::string complaint = Cat("network of sandbox ", broken, ": cni CHECK by plugin `bridge`: ");
  EXPECT_TRUE(Until([&] { return Logged(complaint) == 1; }));
  EXPECT_THAT(Asked("CHECK", broken), IsEmpty());  // a plugin before it failed
  nlohmann::json check = Check(broken);
  EXPECT_EQ(check["result"], "failed");
  EXPECT_THAT(check["message"].get<std::string>(), HasSubstr("cni CHECK by plugin `bridge`"));
  EXPECT_EQ(Logged(complaint), 1u);
  EXPECT_EQ(Logged("network of sandbox " + sound), 0u);
  EXPECT_TRUE(NetworkReady().status());

  std::ofstream(OurFile("broken")) << "";
  check = Check(sound);
  EXPECT_EQ(check["result"], "failed");
  EXPECT_EQ(check["message"],
            "cni CHECK by plugin `csock-check`: network is changed; a rule is gone (cni code 11)");
  std::filesystem::remove(OurFile("broken"));
  EXPECT_EQ(Check(sound)["result"], "ok");
  EXPECT_EQ(Logged(Cat("network of sandbox ", sound, " is again")), 1u);
}

TEST_F(CniTest, ACheckThatHangsHoldsUpNobody) {
  Configure("10-e2e.conflist", kFirst, "10.196.0.0/24", OurPlugin());
  std::vector<std::string> pods;
  for (const char* name : {"one", "two", "three"}) pods.push_back(node_.RunPod(node_.PodConfig(name)));
  node_.KillDaemon(SIGKILL);
  std::ofstream(OurFile("hang")) << "";
  node_.StartDaemon();
  auto hanging = [&] { return ReadFile(OurFile("hanging")).value_or(""); };
  EXPECT_TRUE(Until([&] { return !hanging().empty(); }));
  EXPECT_EQ(PodInfo(pods[2])["networkCheck"], nlohmann::json({{"pending", true}}));
  const auto begin = std::chrono::steady_clock::now();
  pods.push_back(node_.RunPod(node_.PodConfig("four")));
  for (const std::string& pod : pods) {
    EXPECT_TRUE(node_.RemovePod(pod).ok());
    EXPECT_THAT(Asked("DEL", pod), SizeIs(1));
  }
  // A plugin may take 60 s.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  std::istringstream plugins(hanging());
  for (pid_t plugin; plugins >> plugin;) EXPECT_NE(kill(plugin, 0), 0) << "a plugin was left";
  EXPECT_EQ(Logged("network of sandbox"), 0u);
}

TEST_F(CniTest, WhereNoCheckIsWantedNoneIsMade) {
  Configure("10-e2e.conflist", kFirst, "10.196.0.0/24", OurPlugin(),
            R"("cniVersion": "1.0.0", "disableCheck": true)");
  std::vector<std::string> pods{node_.RunPod(node_.PodConfig("disabled"))};
  Configure("10-e2e.conflist", kFirst, "10.196.0.0/24", OurPlugin(), R"("cniVersion": "0.3.1")");
  pods.push_back(node_.RunPod(node_.PodConfig("old")));
  Configure("10-e2e.conflist", kFirst, "10.196.0.0/24", OurPlugin());
  pods.push_back(node_.RunPod(node_.PodConfig("checked")));
  node_.KillDaemon(SIGKILL);
  node_.StartDaemon();
  EXPECT_TRUE(Until([&] { return Asked("CHECK", pods[2]).size() == 1; }));
  for (const std::string& pod : {pods[0], pods[1]}) {
    EXPECT_FALSE(PodInfo(pod).contains("networkCheck"));
    EXPECT_THAT(Asked("ADD", pod), SizeIs(1));
    EXPECT_THAT(Asked("CHECK", pod), IsEmpty());
  }
}

}  // namespace
}  // namespace sock::test
