// Needs root: real namespaces, bridges and plugins. Every name and subnet is the test's own.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "runtime/base/fd.h"
#include "runtime/base/text.h"
#include "runtime/network/cni.h"
#include "runtime/network/netlink.h"
#include "runtime/network/nft.h"
#include "runtime/network/pod_network.h"

namespace sock::runtime {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

Fd NewNetns() {
  Fd result;
  std::thread([&] {
    if (unshare(CLONE_NEWNET) == 0) result.Reset(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  }).join();
  return result;
}

// Runs `work` in a thread inside the namespace.
template <typename F>
void Inside(const Fd& netns, F work) {
  std::thread([&] {
    ASSERT_EQ(setns(netns.get(), CLONE_NEWNET), 0);
    work();
  }).join();
}

sockaddr_in At(const std::string& ip, int port) {
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(static_cast<uint16_t>(port));
  inet_pton(AF_INET, ip.c_str(), &at.sin_addr);
  return at;
}

Fd Listen(const Fd& netns, int port) {
  Fd listener;
  Inside(netns, [&] {
    listener.Reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in at = At("0.0.0.0", port);
    ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&at), sizeof(at)), 0);
    ASSERT_EQ(listen(listener.get(), 64), 0);
  });
  return listener;
}

// Connects from the calling thread's namespace; true once connected.
bool Connects(const std::string& ip, int port) {
  Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in at = At(ip, port);
  if (connect(client.get(), reinterpret_cast<sockaddr*>(&at), sizeof(at)) == 0) return true;
  if (errno != EINPROGRESS) return false;
  pollfd poll_for{client.get(), POLLOUT, 0};
  int err = ETIMEDOUT;
  socklen_t size = sizeof(err);
  return poll(&poll_for, 1, 3000) == 1 && getsockopt(client.get(), SOL_SOCKET, SO_ERROR, &err, &size) == 0 &&
         err == 0;
}

// A test's bridge and directory, with everything removed at the end.
class NetworkTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/sock-network-XXXXXX";
    dir_ = mkdtemp(name);
    forward_ = Read("/proc/sys/net/ipv4/ip_forward");
    std::filesystem::create_directories(dir_ + "/net.d");
    options_.cni_conf_dir = dir_ + "/net.d";
    options_.cni_bin_dirs = {dir_, "/usr/lib/cni"};
    options_.bridge = "csocktest0";
    options_.subnet = "10.199.0.0/24";
  }

  void TearDown() override {
    EXPECT_THAT(Ports("csocktest0"), SizeIs(0));
    auto netlink = Netlink::Open();
    EXPECT_TRUE(netlink->DeleteLink("csocktest0").ok());
    EXPECT_TRUE(netlink->DeleteLink("csocktest1").ok());
    nft_.Run("add table ip cri_sock_csocktest0\ndelete table ip cri_sock_csocktest0\n").IgnoreError();
    std::ofstream("/proc/sys/net/ipv4/ip_forward") << forward_;
    std::filesystem::remove_all(dir_);
  }

  static std::string Read(const std::string& path) {
    std::ifstream in(path);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  void Write(const std::string& name, const std::string& text, mode_t mode = 0644) {
    std::ofstream(dir_ + "/" + name) << text;
    chmod((dir_ + "/" + name).c_str(), mode);
  }

  // Names of the interfaces in a bridge.
  static std::vector<std::string> Ports(const std::string& bridge) {
    std::vector<std::string> names;
    auto netlink = Netlink::Open();
    auto index = netlink->FindLink(bridge);
    if (!index.ok()) return names;
    auto links = netlink->ListLinks();
    if (!links.ok()) return names;
    for (const Link& link : *links)
      if (link.master == *index) names.push_back(link.stats.name);
    return names;
  }

  std::unique_ptr<PodNetwork> Open() {
    auto network = PodNetwork::Open(options_);
    EXPECT_TRUE(network.ok()) << network.status();
    return *std::move(network);
  }

  PodNetworkRequest Request(const Fd& netns) {
    PodNetworkRequest request{"sandbox1", "pod", "default", "uid"};
    request.netns_path = Cat("/proc/", getpid(), "/fd/", netns.get());
    return request;
  }

  std::string dir_, forward_;
  PodNetworkOptions options_;
  Nft nft_;
};

TEST_F(NetworkTest, ListsInterfacesWhileOthersComeAndGo) {
  Fd outer = NewNetns(), inner = NewNetns();
  auto netlink = Netlink::OpenIn(outer.get());
  ASSERT_TRUE(netlink.ok());
  // More than one message can hold.
  for (int i = 0; i < 40; ++i)
    ASSERT_TRUE(netlink->AddVeth(Cat("stays", i), 0, Cat("peer", i), inner.get(), {2, 0, 0, 0, 0, 1}).ok());
  std::jthread others([&](std::stop_token stop) {
    auto changing = Netlink::OpenIn(outer.get());
    while (!stop.stop_requested()) {
      EXPECT_TRUE(changing->AddVeth("comes", 0, "goes", inner.get(), {2, 0, 0, 0, 0, 2}).ok());
      EXPECT_TRUE(changing->DeleteLink("comes").ok());
    }
  });
  for (int i = 0; i < 500; ++i) {
    auto links = netlink->ListLinks();
    ASSERT_TRUE(links.ok()) << links.status();
    EXPECT_EQ(
        std::ranges::count_if(*links, [](const Link& link) { return link.stats.name.starts_with("stays"); }),
        40);
  }
}

TEST_F(NetworkTest, PodsReachEachOther) {
  auto network = Open();
  ASSERT_TRUE(network->Ready().ok()) << network->Ready();
  EXPECT_EQ(network->Describe(), "built-in bridge csocktest0 10.199.0.0/24, 0 addresses taken");
  Fd a = NewNetns(), b = NewNetns();
  auto token = network->Prepare(a.get());
  ASSERT_TRUE(token.ok()) << token.status();
  auto first = network->Attach(Request(a), a.get(), *token);
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = network->Attach(Request(b), b.get(), "");
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_EQ(first->ips, std::vector<std::string>{"10.199.0.2"});
  ASSERT_EQ(second->ips, std::vector<std::string>{"10.199.0.3"});

  Fd listener = Listen(a, 8080);
  Inside(b, [&] { EXPECT_TRUE(Connects(first->ips[0], 8080)); });
  EXPECT_TRUE(Connects(first->ips[0], 8080));  // from the host
  Fd on_host(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in at = At("10.199.0.1", 18081);
  ASSERT_EQ(bind(on_host.get(), reinterpret_cast<sockaddr*>(&at), sizeof(at)), 0);
  ASSERT_EQ(listen(on_host.get(), 1), 0);
  Inside(b, [&] { EXPECT_TRUE(Connects("10.199.0.1", 18081)); });  // the gateway

  auto stats = ReadInterfaceStats(b.get());
  ASSERT_TRUE(stats.ok()) << stats.status();
  auto eth0 = std::find_if(stats->begin(), stats->end(), [](const auto& s) { return s.name == "eth0"; });
  ASSERT_NE(eth0, stats->end());
  EXPECT_GT(eth0->rx_bytes, 0u);
  EXPECT_GT(eth0->tx_bytes, 0u);

  EXPECT_TRUE(network->Detach(Request(a), first->state).ok());
  EXPECT_TRUE(network->Detach(Request(a), first->state).ok());  // gone is success
  EXPECT_TRUE(network->Detach(Request(b), second->state).ok());
  Fd c = NewNetns();
  auto third = network->Attach(Request(c), c.get(), "");
  EXPECT_EQ(third->ips, std::vector<std::string>{"10.199.0.4"});  // freed addresses wait
  EXPECT_TRUE(network->Detach(Request(c), third->state).ok());
}

TEST_F(NetworkTest, HostPortsLeadToThePod) {
  auto network = Open();
  Fd a = NewNetns(), b = NewNetns();
  PodNetworkRequest request = Request(a);
  request.ports = {{"TCP", 80, 18080, ""}, {"udp", 53, 0, ""}};
  auto pod = network->Attach(request, a.get(), "");
  ASSERT_TRUE(pod.ok()) << pod.status();
  Fd listener = Listen(a, 80);
  EXPECT_TRUE(Connects("127.0.0.1", 18080));
  EXPECT_TRUE(Connects("10.199.0.1", 18080));
  Inside(a, [&] { EXPECT_TRUE(Connects("10.199.0.1", 18080)); });  // itself, by hairpin

  auto taken = network->Attach(request, b.get(), "");
  EXPECT_TRUE(absl::IsAlreadyExists(taken.status())) << taken.status();
  EXPECT_THAT(Ports("csocktest0"), SizeIs(1));  // nothing of it is left

  // A daemon that comes again keeps what it adopts and removes the rest.
  auto again = Open();
  auto orphan = network->Attach(Request(b), b.get(), "");
  ASSERT_TRUE(orphan.ok()) << orphan.status();
  ASSERT_TRUE(again->Adopt(request, pod->state).ok());
  ASSERT_TRUE(again->RemoveOrphans().ok());
  EXPECT_THAT(Ports("csocktest0"), SizeIs(1));
  EXPECT_TRUE(Connects("127.0.0.1", 18080));
  Fd c = NewNetns();
  auto other = again->Attach(Request(c), c.get(), "");
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_NE(other->ips, pod->ips);
  EXPECT_TRUE(again->Detach(request, other->state).ok());

  EXPECT_TRUE(again->Detach(request, pod->state).ok());
  EXPECT_FALSE(Connects("127.0.0.1", 18080));
}

TEST_F(NetworkTest, ABridgeOrTableThatWasDeletedIsMadeAgain) {
  auto network = Open();
  auto netlink = Netlink::Open();
  ASSERT_TRUE(netlink.ok());
  Fd a = NewNetns(), b = NewNetns(), c = NewNetns(), d = NewNetns();
  PodNetworkRequest with_port = Request(a), with_other = Request(c);
  with_port.ports = {{"TCP", 80, 18082, ""}};
  with_other.ports = {{"TCP", 80, 18083, ""}};
  auto lives = network->Attach(with_port, a.get(), "");
  ASSERT_TRUE(lives.ok()) << lives.status();
  auto token = network->Prepare(b.get());
  ASSERT_TRUE(token.ok()) << token.status();
  Fd listener = Listen(a, 80);
  auto reaches = [&](const Fd& from) { Inside(from, [&] { EXPECT_TRUE(Connects(lives->ips[0], 80)); }); };

  ASSERT_TRUE(netlink->DeleteLink("csocktest0").ok());
  auto prepared = network->Attach(Request(b), b.get(), *token);  // made for the bridge that went
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  reaches(b);
  EXPECT_TRUE(Connects(lives->ips[0], 80));
  EXPECT_TRUE(Connects("127.0.0.1", 18082));
  Inside(a, [&] { EXPECT_TRUE(Connects("10.199.0.1", 18082)); });  // itself, by hairpin

  ASSERT_TRUE(netlink->DeleteLink("csocktest0").ok());
  ASSERT_TRUE(nft_.Run("delete table ip cri_sock_csocktest0\n").ok());
  auto fresh = network->Attach(with_other, c.get(), "");
  ASSERT_TRUE(fresh.ok()) << fresh.status();
  reaches(c);
  EXPECT_TRUE(Connects("127.0.0.1", 18082));

  for (bool asked : {true, false}) {  // by kubelet's question for the state, or by the next pod with a port
    ASSERT_TRUE(nft_.Run("delete table ip cri_sock_csocktest0\n").ok());
    EXPECT_FALSE(Connects("127.0.0.1", 18082));
    if (asked) {
      EXPECT_TRUE(network->Ready().ok()) << network->Ready();
    } else {
      with_other.ports[0].host_port = 18084;
      auto another = network->Attach(with_other, d.get(), "");
      EXPECT_TRUE(another.ok()) << another.status();
      EXPECT_TRUE(network->Detach(with_other, another->state).ok());
    }
    EXPECT_TRUE(Connects("127.0.0.1", 18082));
  }
  EXPECT_THAT(Ports("csocktest0"), SizeIs(testing::Ge(3u)));
  for (const auto* pod : {&*lives, &*prepared, &*fresh})
    EXPECT_TRUE(network->Detach(Request(a), pod->state).ok());
  EXPECT_FALSE(Connects("127.0.0.1", 18082));
}

TEST_F(NetworkTest, PodCidrReplacesTheSubnet) {
  auto network = Open();
  Fd a = NewNetns(), b = NewNetns();
  auto old = network->Attach(Request(a), a.get(), "");
  ASSERT_TRUE(old.ok()) << old.status();
  auto token = network->Prepare(b.get());
  ASSERT_TRUE(network->SetPodCidr("10.198.7.0/24").ok());
  auto pod = network->Attach(Request(b), b.get(), *token);
  ASSERT_TRUE(pod.ok()) << pod.status();
  EXPECT_EQ(pod->ips, std::vector<std::string>{"10.198.7.2"});
  Fd listener = Listen(a, 80);
  Inside(b, [&] { EXPECT_TRUE(Connects(old->ips[0], 80)); });
  EXPECT_TRUE(network->Detach(Request(a), old->state).ok());
  EXPECT_TRUE(network->Detach(Request(b), pod->state).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(network->SetPodCidr("nonsense")));
}

constexpr char kConflist[] = R"({"cniVersion": "1.0.0", "name": "csocktest", "plugins": [
  {"type": "bridge", "bridge": "csocktest1", "isGateway": true,
   "ipam": {"type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "10.197.0.0/24"}]]},
   "dns": {"nameservers": ["10.197.0.53"], "search": ["svc.local"]}}EXTRA]})";

std::string Conflist(const std::string& dir, const std::string& extra) {
  std::string text = kConflist;
  text.replace(text.find("DIR"), 3, dir);
  return text.replace(text.find("EXTRA"), 5, extra);
}

size_t Leases(const std::string& dir) {
  size_t count = 0;
  std::error_code err;
  for (const auto& file : std::filesystem::directory_iterator(dir + "/ipam/csocktest", err))
    count += file.path().filename().string().starts_with("10.");
  return count;
}

TEST_F(NetworkTest, CniPluginsMakeThePodsNetwork) {
  auto network = Open();
  Fd a = NewNetns(), b = NewNetns();
  auto before = network->Attach(Request(a), a.get(), "");  // no configuration yet: the bridge
  ASSERT_TRUE(before.ok()) << before.status();
  auto token = network->Prepare(b.get());

  Write("net.d/10-test.conflist", Conflist(dir_, ""));
  Write("net.d/00-broken.conf", R"({"cniVersion": "9.0.0", "name": "x", "type": "bridge"})");
  ASSERT_TRUE(network->Ready().ok()) << network->Ready();
  EXPECT_EQ(network->Describe(), Cat("cni csocktest from ", dir_, "/net.d/10-test.conflist"));
  auto pod = network->Attach(Request(b), b.get(), *token);
  ASSERT_TRUE(pod.ok()) << pod.status();
  EXPECT_EQ(pod->ips, std::vector<std::string>{"10.197.0.2"});
  EXPECT_EQ(pod->dns_servers, std::vector<std::string>{"10.197.0.53"});
  EXPECT_EQ(pod->dns_searches, std::vector<std::string>{"svc.local"});
  Fd listener = Listen(b, 80);
  EXPECT_TRUE(Connects("10.197.0.2", 80));
  EXPECT_TRUE(Cni(options_).Check(Request(b), pod->state, -1).ok());

  // Each is taken down by the one that made it, also after the configuration went.
  EXPECT_TRUE(network->Detach(Request(a), before->state).ok());
  std::filesystem::remove(dir_ + "/net.d/10-test.conflist");
  absl::Status broken = network->Ready();
  EXPECT_TRUE(absl::IsUnavailable(broken));
  EXPECT_THAT(std::string(broken.message()), HasSubstr("00-broken.conf`: cniVersion `9.0.0`"));
  EXPECT_EQ(Leases(dir_), 1u);
  EXPECT_TRUE(network->Detach(Request(b), pod->state).ok());
  EXPECT_TRUE(network->Detach(Request(b), pod->state).ok());
  EXPECT_EQ(Leases(dir_), 0u);
  EXPECT_THAT(Ports("csocktest1"), SizeIs(0));
}

TEST_F(NetworkTest, CniPodsThatNobodyKnowsAreTakenDown) {
  options_.cni_cache_dir = dir_ + "/notes";
  Write("net.d/10-test.conflist", Conflist(dir_, ""));
  Fd a = NewNetns(), b = NewNetns();
  PodNetworkRequest known = Request(a), gone = Request(b);
  gone.sandbox_id = "sandbox2";
  auto network = Open();
  auto stays = network->Attach(known, a.get(), ""), goes = network->Attach(gone, b.get(), "");
  ASSERT_TRUE(stays.ok() && goes.ok()) << stays.status() << goes.status();
  Write("notes/damaged.json", "{");
  EXPECT_EQ(Leases(dir_), 2u);

  network = Open();  // a daemon that has lost the record of one of them
  ASSERT_TRUE(network->Adopt(known, stays->state).ok());
  ASSERT_TRUE(network->RemoveOrphans().ok());
  EXPECT_EQ(Leases(dir_), 1u);
  EXPECT_THAT(Ports("csocktest1"), SizeIs(1));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/notes/damaged.json"));
  network = Open();  // after a reboot: no record, no namespace
  a.Reset();
  ASSERT_TRUE(network->RemoveOrphans().ok());
  EXPECT_EQ(Leases(dir_), 0u);
  EXPECT_TRUE(std::filesystem::is_empty(dir_ + "/notes"));
}

TEST_F(NetworkTest, AFailedAddLeavesNothing) {
  Write("failing",
        Cat("#!/bin/sh\ncat > ", dir_, "/$CNI_COMMAND\n[ $CNI_COMMAND = DEL ] && exit 0\n",
            "echo '{\"code\": 11, \"msg\": \"no luck\", \"details\": \"at all\"}'\nexit 1\n"),
        0755);
  Write("net.d/10-test.conflist",
        Conflist(dir_, R"(, {"type": "failing", "capabilities": {"portMappings": true}})"));
  auto network = Open();
  Fd a = NewNetns();
  PodNetworkRequest request = Request(a);
  request.ports = {{"TCP", 80, 8080, "127.0.0.1"}};
  auto pod = network->Attach(request, a.get(), "");
  EXPECT_TRUE(absl::IsUnavailable(pod.status()));
  EXPECT_EQ(std::string(pod.status().message()),
            "cni ADD by plugin `failing`: no luck; at all (cni code 11)");
  auto input = nlohmann::json::parse(Read(dir_ + "/ADD"), nullptr, false);
  ASSERT_TRUE(input.is_object());
  EXPECT_EQ(input["name"], "csocktest");
  EXPECT_EQ(input["prevResult"]["ips"][0]["address"], "10.197.0.2/24");
  EXPECT_EQ(input["runtimeConfig"]["portMappings"][0],
            nlohmann::json::parse(
                R"({"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"})"));
  EXPECT_FALSE(input.contains("capabilities"));
  EXPECT_TRUE(std::filesystem::exists(dir_ + "/DEL"));
  EXPECT_EQ(Leases(dir_), 0u);
  EXPECT_THAT(Ports("csocktest1"), SizeIs(0));
}

TEST_F(NetworkTest, ASlowPluginIsKilledWithItsChildren) {
  Write("slow",
        Cat("#!/bin/sh\n[ $CNI_COMMAND = DEL ] && exit 0\nsleep 1000 &\necho $! > ", dir_, "/child\nwait\n"),
        0755);
  Write("net.d/10.conf", R"({"cniVersion": "0.4.0", "name": "slow", "type": "slow"})");
  options_.cni_timeout_s = 1;
  auto network = Open();
  Fd a = NewNetns();
  auto pod = network->Attach(Request(a), a.get(), "");
  EXPECT_TRUE(absl::IsDeadlineExceeded(pod.status())) << pod.status();
  std::string child = Read(dir_ + "/child");
  ASSERT_FALSE(child.empty());
  std::string stat = Read(Cat("/proc/", std::stoi(child), "/stat"));
  EXPECT_TRUE(stat.empty() || stat.find(") Z ") != std::string::npos) << stat;
  std::filesystem::remove(dir_ + "/slow");
  absl::Status missing = network->Ready();
  EXPECT_TRUE(absl::IsUnavailable(missing));
  EXPECT_THAT(std::string(missing.message()), HasSubstr("cni plugin `slow` is in none of"));
}

}  // namespace
}  // namespace sock::runtime
