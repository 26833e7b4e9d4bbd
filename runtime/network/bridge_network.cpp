#include "runtime/network/bridge_network.h"

#include <net/if.h>

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "runtime/base/ids.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime {
namespace {

using nlohmann::json;

// As CNI's bridge plugin does: the address decides the MAC, so a reused address is never stale in a
// neighbour's table.
Mac MacOf(uint32_t ip) {
  return {0x0a,
          0x58,
          static_cast<uint8_t>(ip >> 24),
          static_cast<uint8_t>(ip >> 16),
          static_cast<uint8_t>(ip >> 8),
          static_cast<uint8_t>(ip)};
}

std::string MacText(const Mac& mac) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mac[0], mac[1], mac[2], mac[3], mac[4],
                     mac[5]);
}

std::string TableName(const std::string& bridge) {
  if (bridge == PodNetworkOptions().bridge) return "cri_sock";
  std::string name = Cat("cri_sock_", bridge);
  for (char& c : name)
    if (!isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
}

// A sysctl that is right already is not written: /proc/sys may be read-only then.
absl::Status Sysctl(const std::string& path, std::string_view value) {
  ASSIGN_OR_RETURN(std::string now, ReadFile(path));
  if (now.starts_with(value)) return absl::OkStatus();
  return WriteExisting(path, value);
}

absl::StatusOr<PortMapping> CheckedPort(const PortMapping& port) {
  PortMapping checked = port;
  for (char& c : checked.protocol) c = static_cast<char>(tolower(static_cast<unsigned char>(c)));
  if (checked.protocol.empty()) checked.protocol = "tcp";
  if (checked.protocol != "tcp" && checked.protocol != "udp" && checked.protocol != "sctp")
    return absl::InvalidArgumentError(Cat("port_mappings: unknown protocol `", port.protocol, "`"));
  if (port.host_port > 65535 || port.container_port < 1 || port.container_port > 65535)
    return absl::InvalidArgumentError(
        Cat("port_mappings: ", port.host_port, " to ", port.container_port, " is out of range"));
  if (checked.host_ip == "0.0.0.0" || checked.host_ip == "::") checked.host_ip.clear();
  if (!checked.host_ip.empty())
    RETURN_IF_ERROR_AS(ParseIp(checked.host_ip).status(), "port_mappings: host_ip");
  return checked;
}

// The map of our table and the key that stand for a host port.
std::string Element(const std::string& table, const PortMapping& port) {
  if (port.host_ip.empty()) return Cat("ip ", table, " hostports { ", port.protocol, " . ", port.host_port);
  return Cat("ip ", table, " hostaddrs { ", port.host_ip, " . ", port.protocol, " . ", port.host_port);
}

}  // namespace

BridgeNetwork::BridgeNetwork(std::string bridge, Subnet subnet)
    : bridge_(std::move(bridge)),
      table_(TableName(bridge_)),
      ipam_(std::make_shared<Ipam>(subnet)),
      subnets_{subnet},
      remover_([this] { RemoveDetached(); }) {}

BridgeNetwork::~BridgeNetwork() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  remover_.join();
}

absl::StatusOr<std::unique_ptr<BridgeNetwork>> BridgeNetwork::Open(const std::string& bridge,
                                                                   const std::string& subnet) {
  if (bridge.empty() || bridge.size() >= IFNAMSIZ || bridge.find_first_of("/ \"") != std::string::npos)
    return absl::InvalidArgumentError(Cat("bridge: `", bridge, "` is no interface name"));
  ASSIGN_OR_RETURN(Subnet parsed, ParseSubnet(subnet));
  return std::unique_ptr<BridgeNetwork>(new BridgeNetwork(bridge, parsed));
}

std::string BridgeNetwork::ToState(const Pod& pod) {
  json state = {
      {"kind", "bridge"}, {"ip", IpText(pod.ip)}, {"mac", MacText(MacOf(pod.ip))}, {"host_if", pod.host_if}};
  for (const PortMapping& port : pod.ports)
    state["ports"].push_back({port.protocol, port.host_port, port.container_port, port.host_ip});
  return state.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<BridgeNetwork::Pod> BridgeNetwork::FromState(const std::string& state) {
  const absl::Status bad = absl::InvalidArgumentError("the record of a pod's network is damaged");
  json parsed = json::parse(state, nullptr, false);
  if (!parsed.is_object() || !parsed.contains("ip") || !parsed["ip"].is_string() ||
      !parsed.contains("host_if") || !parsed["host_if"].is_string())
    return bad;
  Pod pod;
  ASSIGN_OR_RETURN(pod.ip, ParseIp(parsed["ip"].get_ref<const std::string&>()));
  pod.host_if = parsed["host_if"].get<std::string>();
  if (parsed.contains("ports")) {
    for (const json& port : parsed["ports"]) {
      if (!port.is_array() || port.size() != 4 || !port[0].is_string() || !port[1].is_number_integer() ||
          !port[2].is_number_integer() || !port[3].is_string())
        return bad;
      PortMapping mapping{port[0].get<std::string>(), port[2].get<int>(), port[1].get<int>(),
                          port[3].get<std::string>()};
      ASSIGN_OR_RETURN(mapping, CheckedPort(mapping));
      pod.ports.push_back(std::move(mapping));
    }
  }
  return pod;
}

std::shared_ptr<Ipam> BridgeNetwork::ipam() {
  std::lock_guard lock(mutex_);
  return ipam_;
}

absl::StatusOr<int> BridgeNetwork::SetUp() {
  ASSIGN_OR_RETURN(Netlink netlink, Netlink::Open());
  std::lock_guard lock(mutex_);
  if (bridge_index_ != 0) {
    absl::StatusOr<int> found = netlink.FindLink(bridge_);
    if (!found.ok() && !absl::IsNotFound(found.status())) return found;
    if (found.ok() && *found == bridge_index_) return found;
  }
  return SetUpLocked();
}

absl::StatusOr<int> BridgeNetwork::SetUpLocked() {
  const Subnet& subnet = subnets_.back();
  ASSIGN_OR_RETURN(Netlink netlink, Netlink::Open());
  RETURN_IF_ERROR(netlink.AddBridge(bridge_, MacOf(subnet.gateway())));
  ASSIGN_OR_RETURN(int index, netlink.FindLink(bridge_));
  RETURN_IF_ERROR(netlink.AddAddress(index, subnet.gateway(), subnet.prefix));
  RETURN_IF_ERROR(netlink.SetUp(index));
  RETURN_IF_ERROR_AS(Sysctl("/proc/sys/net/ipv4/ip_forward", "1"), "enable ip forwarding");
  // For 127.0.0.1:HOSTPORT; the guard chain keeps pods away from what else listens there.
  RETURN_IF_ERROR_AS(Sysctl(Cat("/proc/sys/net/ipv4/conf/", bridge_, "/route_localnet"), "1"),
                     "enable host ports");
  std::string pods;
  for (const Subnet& each : subnets_) {
    bool nested = false;  // intervals of an nftables set must not overlap
    for (const Subnet& other : subnets_)
      nested = nested || (other.prefix < each.prefix && other.Contains(each.base));
    if (!nested) pods += Cat(pods.empty() ? "" : ", ", each.Text());
  }
  const std::string dnat = "fib daddr type local dnat ip to";
  const std::string rule = Cat("add rule ip ", table_, " ");
  std::string text = fmt::format(
      "add table ip {0}\n"
      "add map ip {0} hostports {{ type inet_proto . inet_service : ipv4_addr . inet_service ; }}\n"
      "add map ip {0} hostaddrs {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service ; "
      "}}\n"
      "add chain ip {0} guard {{ type filter hook prerouting priority -300 ; }}\n"
      "add chain ip {0} prerouting {{ type nat hook prerouting priority -100 ; }}\n"
      "add chain ip {0} output {{ type nat hook output priority -100 ; }}\n"
      "add chain ip {0} postrouting {{ type nat hook postrouting priority 100 ; }}\n"
      "flush table ip {0}\n"
      "flush map ip {0} hostports\n"
      "flush map ip {0} hostaddrs\n",
      table_);
  text += Cat(rule, "guard iifname \"", bridge_, "\" ip daddr 127.0.0.0/8 drop\n");
  for (const char* chain : {"prerouting ", "output "}) {
    text += Cat(rule, chain, dnat, " ip daddr . meta l4proto . th dport map @hostaddrs\n");
    text += Cat(rule, chain, dnat, " meta l4proto . th dport map @hostports\n");
  }
  text +=
      Cat(rule, "postrouting ip saddr { ", pods, " } ip daddr != { ", pods, ", 224.0.0.0/4 } masquerade\n");
  text += Cat(rule, "postrouting ct status dnat oifname \"", bridge_, "\" ip saddr { 127.0.0.0/8, ", pods,
              " } masquerade\n");
  for (const auto& [name, pod] : pods_)
    for (const PortMapping& port : pod.ports)
      text += Cat("add element ", Element(table_, port), " : ", IpText(pod.ip), " . ", port.container_port,
                  " }\n");
  RETURN_IF_ERROR_AS(nft_.Run(text), "set up masquerading");
  // A bridge that was deleted has let go of its ports.
  ASSIGN_OR_RETURN(std::vector<Link> links, netlink.ListLinks());
  for (const Link& link : links) {
    auto pod = pods_.find(link.stats.name);
    if (link.master == index || pod == pods_.end() || pod->second.detached) continue;
    RETURN_IF_ERROR(netlink.SetMaster(link.index, index));
    RETURN_IF_ERROR(netlink.SetHairpin(link.index));
  }
  return bridge_index_ = index;
}

absl::Status BridgeNetwork::Ready() {
  absl::StatusOr<int> index = SetUp();
  if (index.ok() && absl::IsNotFound(nft_.Run(Cat("list chain ip ", table_, " guard\n")))) {
    std::lock_guard lock(mutex_);
    index = SetUpLocked();
  }
  return WithCode(index.status(), absl::StatusCode::kUnavailable);
}

std::string BridgeNetwork::Describe() {
  const std::shared_ptr<Ipam> ipam = this->ipam();
  return Cat("built-in bridge ", bridge_, " ", ipam->subnet().Text(), ", ", ipam->taken(),
             " addresses taken");
}

absl::StatusOr<std::string> BridgeNetwork::Prepare(int netns) {
  ASSIGN_OR_RETURN(int bridge, SetUp());
  std::shared_ptr<Ipam> ipam = this->ipam();
  Pod pod;
  ASSIGN_OR_RETURN(pod.ip, ipam->Allocate());
  pod.host_if = "veth" + NewId().substr(0, 8);
  {
    std::lock_guard lock(mutex_);
    pods_[pod.host_if] = pod;  // before the interface is there: RemoveOrphans must not take it
  }
  absl::Cleanup undo = [&] { Unprepare(ToState(pod)); };
  ASSIGN_OR_RETURN(Netlink host, Netlink::Open());
  RETURN_IF_ERROR(host.AddVeth(pod.host_if, bridge, "eth0", netns, MacOf(pod.ip)));
  ASSIGN_OR_RETURN(int port, host.FindLink(pod.host_if));
  RETURN_IF_ERROR(host.SetHairpin(port));
  RETURN_IF_ERROR(host.SetUpWithoutIpv6(port));
  ASSIGN_OR_RETURN(Netlink inside, Netlink::OpenIn(netns));
  ASSIGN_OR_RETURN(int eth0, inside.FindLink("eth0"));
  ASSIGN_OR_RETURN(int lo, inside.FindLink("lo"));
  RETURN_IF_ERROR(inside.SetUp(lo));
  RETURN_IF_ERROR(inside.SetUpWithoutIpv6(eth0));
  RETURN_IF_ERROR(inside.AddAddress(eth0, pod.ip, ipam->subnet().prefix));
  RETURN_IF_ERROR(inside.AddDefaultRoute(eth0, ipam->subnet().gateway()));
  std::move(undo).Cancel();
  return ToState(pod);
}

void BridgeNetwork::Unprepare(const std::string& token) {
  Detach(token).IgnoreError();
  Settle();  // the namespace may get another eth0 at once
}

absl::StatusOr<PodNetworkResult> BridgeNetwork::Attach(const PodNetworkRequest& request, int netns,
                                                       const std::string& token) {
  std::string made = token;
  if (auto pod = FromState(made); pod.ok() && !ipam()->subnet().Contains(pod->ip)) {
    Unprepare(made);  // made before the pod CIDR came
    made.clear();
  }
  if (made.empty()) {
    ASSIGN_OR_RETURN(made, Prepare(netns));
  }
  absl::Cleanup undo = [&] { Unprepare(made); };
  ASSIGN_OR_RETURN(Pod pod, FromState(made));
  for (const PortMapping& port : request.ports) {
    if (port.host_port <= 0) continue;
    ASSIGN_OR_RETURN(PortMapping checked, CheckedPort(port));
    pod.ports.push_back(std::move(checked));
  }
  RETURN_IF_ERROR(SetUp().status());  // what was prepared hangs on a bridge that may have been deleted since
  {
    std::lock_guard lock(mutex_);
    if (!pod.ports.empty()) {
      absl::Status added = AddPorts(pod);
      if (absl::IsNotFound(added)) {  // the table went, as when the host's firewall is loaded anew
        RETURN_IF_ERROR(SetUpLocked().status());
        added = AddPorts(pod);
      }
      RETURN_IF_ERROR(added);
    }
    pods_[pod.host_if] = pod;
  }
  std::move(undo).Cancel();
  return PodNetworkResult{.ips = {IpText(pod.ip)}, .state = ToState(pod)};
}

absl::Status BridgeNetwork::AddPorts(const Pod& pod) {
  std::string text;
  for (const PortMapping& port : pod.ports)
    text += Cat("create element ", Element(table_, port), " : ", IpText(pod.ip), " . ", port.container_port,
                " }\n");
  absl::Status status = nft_.Run(text);
  if (absl::IsAlreadyExists(status))
    return absl::AlreadyExistsError("port_mappings: a host_port is taken by another pod");
  return Annotate(status, "add host ports");
}

absl::Status BridgeNetwork::RemovePorts(const Pod& pod) {
  absl::Status result;
  for (const PortMapping& port : pod.ports) {
    absl::Status status = nft_.Run(Cat("delete element ", Element(table_, port), " }\n"));
    if (!absl::IsNotFound(status)) result.Update(status);
  }
  return Annotate(result, "remove host ports");
}

absl::Status BridgeNetwork::Detach(const std::string& state) {
  ASSIGN_OR_RETURN(Pod pod, FromState(state));
  std::lock_guard lock(mutex_);
  auto known = pods_.find(pod.host_if);
  // Done before: its ports and its address may be another's now.
  if (known == pods_.end() || known->second.detached) return absl::OkStatus();
  RETURN_IF_ERROR(RemovePorts(pod));
  known->second.detached = true;
  known->second.ports.clear();
  detached_.push_back(pod.host_if);
  wake_.notify_one();
  return absl::OkStatus();
}

void BridgeNetwork::RemoveDetached() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return closing_ || !detached_.empty(); });
    if (detached_.empty()) return;
    std::vector<std::string> names = std::exchange(detached_, {});
    removing_ = true;
    lock.unlock();
    absl::StatusOr<Netlink> host = Netlink::Open();
    absl::Status status = host.ok() ? host->DeleteLinks(names) : host.status();
    lock.lock();
    removing_ = false;
    settled_.notify_all();
    // What can't be removed keeps its address, and goes with the next daemon's orphans.
    if (!status.ok()) continue;
    for (const std::string& name : names) {
      auto pod = pods_.find(name);
      if (pod == pods_.end()) continue;
      ipam_->Release(pod->second.ip);
      pods_.erase(pod);
    }
  }
}

void BridgeNetwork::Settle() {
  std::unique_lock lock(mutex_);
  settled_.wait(lock, [&] { return detached_.empty() && !removing_; });
}

absl::Status BridgeNetwork::Adopt(const std::string& state) {
  ASSIGN_OR_RETURN(Pod pod, FromState(state));
  std::lock_guard lock(mutex_);
  if (pods_.contains(pod.host_if)) return absl::OkStatus();
  RETURN_IF_ERROR(ipam_->Adopt(pod.ip));
  if (bool known = false; !ipam_->subnet().Contains(pod.ip)) {
    for (const Subnet& subnet : subnets_) known = known || subnet.Contains(pod.ip);
    if (!known) {
      // A pod of an earlier subnet is masqueraded still.
      subnets_.insert(subnets_.begin(), Subnet{pod.ip, 32});
      bridge_index_ = 0;
    }
  }
  pods_[pod.host_if] = std::move(pod);
  return absl::OkStatus();
}

absl::Status BridgeNetwork::RemoveOrphans() {
  ASSIGN_OR_RETURN(Netlink netlink, Netlink::Open());
  auto bridge = netlink.FindLink(bridge_);
  if (absl::IsNotFound(bridge.status())) return absl::OkStatus();
  RETURN_IF_ERROR(bridge.status());
  ASSIGN_OR_RETURN(std::vector<Link> links, netlink.ListLinks());
  absl::Status result;
  {
    std::lock_guard lock(mutex_);
    std::erase_if(
        links, [&](const Link& link) { return link.master != *bridge || pods_.contains(link.stats.name); });
    bridge_index_ = 0;
    result.Update(SetUpLocked().status());
  }
  for (const Link& link : links)
    if (link.stats.name.starts_with("veth")) result.Update(netlink.DeleteLink(link.stats.name));
  return Annotate(result, "remove what no pod owns");
}

absl::Status BridgeNetwork::SetPodCidr(const std::string& cidr) {
  ASSIGN_OR_RETURN(Subnet subnet, ParseSubnet(cidr));
  std::lock_guard lock(mutex_);
  const Subnet old = ipam_->subnet();
  if (subnet.base == old.base && subnet.prefix == old.prefix) return absl::OkStatus();
  auto fresh = std::make_shared<Ipam>(subnet);
  bool in_use = false;
  for (const auto& [name, pod] : pods_) {
    RETURN_IF_ERROR(fresh->Adopt(pod.ip));
    in_use = in_use || old.Contains(pod.ip);
  }
  const bool was_up = bridge_index_ != 0;
  ipam_ = std::move(fresh);
  // An old subnet nobody lives in goes; living pods keep its gateway.
  if (!in_use) {
    subnets_.pop_back();
    if (was_up) {
      ASSIGN_OR_RETURN(Netlink netlink, Netlink::Open());
      RETURN_IF_ERROR(netlink.DeleteAddress(bridge_index_, old.gateway(), old.prefix));
    }
  }
  std::erase_if(subnets_,
                [&](const Subnet& each) { return each.base == subnet.base && each.prefix == subnet.prefix; });
  subnets_.push_back(subnet);
  bridge_index_ = 0;
  return was_up ? SetUpLocked().status() : absl::OkStatus();
}

}  // namespace sock::runtime
