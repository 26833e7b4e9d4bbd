#include "runtime/network/netlink.h"

#include <arpa/inet.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>

#include <cerrno>
#include <cstring>
#include <system_error>
#include <thread>

#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime {
namespace {

// A request under construction.
struct Message {
  Message(uint16_t type, uint16_t flags) {
    head = mnl_nlmsg_put_header(buffer);
    head->nlmsg_type = type;
    head->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  }
  template <typename T>
  T* Header() {
    return static_cast<T*>(mnl_nlmsg_put_extra_header(head, sizeof(T)));
  }

  alignas(nlmsghdr) char buffer[1024] = {};
  nlmsghdr* head;
};

int ReadLink(const nlmsghdr* message, void* data) {
  const auto* info = static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(message));
  Link link;
  link.index = info->ifi_index;
  link.loopback = info->ifi_flags & IFF_LOOPBACK;
  const char* end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(message));
  for (const auto* attr = static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(message, sizeof(*info)));
       mnl_attr_ok(attr, static_cast<int>(end - reinterpret_cast<const char*>(attr)));
       attr = mnl_attr_next(attr)) {
    switch (mnl_attr_get_type(attr)) {
      case IFLA_IFNAME:
        link.stats.name = mnl_attr_get_str(attr);
        break;
      case IFLA_MASTER:
        link.master = static_cast<int>(mnl_attr_get_u32(attr));
        break;
      case IFLA_STATS64: {
        rtnl_link_stats64 stats{};
        memcpy(&stats, mnl_attr_get_payload(attr),
               std::min<size_t>(sizeof(stats), mnl_attr_get_payload_len(attr)));
        link.stats.rx_bytes = stats.rx_bytes;
        link.stats.rx_errors = stats.rx_errors;
        link.stats.tx_bytes = stats.tx_bytes;
        link.stats.tx_errors = stats.tx_errors;
        break;
      }
    }
  }
  static_cast<std::vector<Link>*>(data)->push_back(std::move(link));
  return MNL_CB_OK;
}

absl::Status Done(int err, const std::string& what) {
  return err == 0 ? absl::OkStatus() : ErrnoStatus(err, what);
}

constexpr int kListAttempts = 100;  // of about a millisecond each

}  // namespace

absl::StatusOr<Netlink> Netlink::Open() {
  mnl_socket* socket = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
  if (socket == nullptr) return ErrnoStatus(errno, "open a netlink socket");
  Netlink netlink(socket);
  if (mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) < 0) return ErrnoStatus(errno, "bind a netlink socket");
  return netlink;
}

absl::StatusOr<Netlink> Netlink::OpenIn(int netns) {
  absl::StatusOr<Netlink> result = absl::InternalError("open a netlink socket");
  try {
    // A socket stays in the namespace where it was made; the thread that went there ends at once.
    std::thread([&] {
      if (setns(netns, CLONE_NEWNET) != 0) {
        result = ErrnoStatus(errno, "enter a network namespace");
      } else {
        result = Open();
      }
    }).join();
  } catch (const std::system_error& error) {
    return ErrnoStatus(error.code().value(), "start a thread");
  }
  return result;
}

int Netlink::Call(nlmsghdr* message, mnl_cb_t callback, void* data) {
  message->nlmsg_seq = ++sequence_;
  if (mnl_socket_sendto(socket_.get(), message, message->nlmsg_len) < 0) return errno;
  alignas(nlmsghdr) char buffer[32768];
  const unsigned port = mnl_socket_get_portid(socket_.get());
  bool interrupted = false;
  for (;;) {
    ssize_t got = mnl_socket_recvfrom(socket_.get(), buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno;
    // libmnl gives up at this mark, and the rest of the list would be the next call's answer.
    int left = static_cast<int>(got);
    for (auto* part = reinterpret_cast<nlmsghdr*>(buffer); mnl_nlmsg_ok(part, left);
         part = mnl_nlmsg_next(part, &left)) {
      interrupted = interrupted || (part->nlmsg_flags & NLM_F_DUMP_INTR) != 0;
      part->nlmsg_flags &= static_cast<uint16_t>(~NLM_F_DUMP_INTR);
    }
    int more = mnl_cb_run(buffer, static_cast<size_t>(got), sequence_, port, callback, data);
    if (more < 0) return errno;
    if (more == MNL_CB_STOP) return interrupted ? EINTR : 0;
  }
}

absl::Status Netlink::AddBridge(const std::string& name, const Mac& mac) {
  Message m(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK);
  m.Header<ifinfomsg>();
  mnl_attr_put_strz(m.head, IFLA_IFNAME, name.c_str());
  mnl_attr_put(m.head, IFLA_ADDRESS, mac.size(), mac.data());
  nlattr* info = mnl_attr_nest_start(m.head, IFLA_LINKINFO);
  mnl_attr_put_strz(m.head, IFLA_INFO_KIND, "bridge");
  mnl_attr_nest_end(m.head, info);
  int err = Call(m.head);
  return Done(err == EEXIST ? 0 : err, Cat("create bridge `", name, "`"));
}

absl::Status Netlink::AddVeth(const std::string& name, int master, const std::string& peer, int peer_netns,
                              const Mac& peer_mac) {
  Message m(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK);
  m.Header<ifinfomsg>();
  mnl_attr_put_strz(m.head, IFLA_IFNAME, name.c_str());
  mnl_attr_put_u32(m.head, IFLA_MASTER, static_cast<uint32_t>(master));
  nlattr* info = mnl_attr_nest_start(m.head, IFLA_LINKINFO);
  mnl_attr_put_strz(m.head, IFLA_INFO_KIND, "veth");
  nlattr* data = mnl_attr_nest_start(m.head, IFLA_INFO_DATA);
  nlattr* other = mnl_attr_nest_start(m.head, VETH_INFO_PEER);
  m.Header<ifinfomsg>();  // the peer can't be up yet: the kernel joins the two ends after it made both
  mnl_attr_put_strz(m.head, IFLA_IFNAME, peer.c_str());
  mnl_attr_put(m.head, IFLA_ADDRESS, peer_mac.size(), peer_mac.data());
  mnl_attr_put_u32(m.head, IFLA_NET_NS_FD, static_cast<uint32_t>(peer_netns));
  mnl_attr_nest_end(m.head, other);
  mnl_attr_nest_end(m.head, data);
  mnl_attr_nest_end(m.head, info);
  return Done(Call(m.head), Cat("create veth pair `", name, "`"));
}

absl::StatusOr<int> Netlink::FindLink(const std::string& name) {
  Message m(RTM_GETLINK, 0);
  m.Header<ifinfomsg>();
  mnl_attr_put_strz(m.head, IFLA_IFNAME, name.c_str());
  m.head->nlmsg_flags |= NLM_F_ACK;
  std::vector<Link> links;
  int err = Call(m.head, ReadLink, &links);
  if (err == ENODEV || (err == 0 && links.empty()))
    return absl::NotFoundError(Cat("there is no interface `", name, "`"));
  if (err != 0) return ErrnoStatus(err, Cat("find interface `", name, "`"));
  return links.front().index;
}

absl::Status Netlink::SetUp(int index) {
  Message m(RTM_NEWLINK, NLM_F_ACK);
  auto* head = m.Header<ifinfomsg>();
  head->ifi_index = index;
  head->ifi_flags = head->ifi_change = IFF_UP;
  return Done(Call(m.head), Cat("set interface ", index, " up"));
}

absl::Status Netlink::SetMaster(int index, int master) {
  Message m(RTM_SETLINK, NLM_F_ACK);
  m.Header<ifinfomsg>()->ifi_index = index;
  mnl_attr_put_u32(m.head, IFLA_MASTER, static_cast<uint32_t>(master));
  int err = Call(m.head);
  return Done(err == ENODEV ? 0 : err, Cat("put interface ", index, " into bridge ", master));
}

absl::Status Netlink::SetUpWithoutIpv6(int index) {
  Message m(RTM_SETLINK, NLM_F_ACK);
  m.Header<ifinfomsg>()->ifi_index = index;
  nlattr* spec = mnl_attr_nest_start(m.head, IFLA_AF_SPEC);
  nlattr* family = mnl_attr_nest_start(m.head, AF_INET6);
  mnl_attr_put_u8(m.head, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
  mnl_attr_nest_end(m.head, family);
  mnl_attr_nest_end(m.head, spec);
  int err = Call(m.head);
  if (err != 0 && err != EAFNOSUPPORT)  // a kernel without IPv6 has nothing to leave out
    return ErrnoStatus(err, Cat("set the IPv6 mode of interface ", index));
  return SetUp(index);
}

absl::Status Netlink::SetHairpin(int index) {
  Message m(RTM_SETLINK, NLM_F_ACK);
  auto* head = m.Header<ifinfomsg>();
  head->ifi_family = AF_BRIDGE;
  head->ifi_index = index;
  nlattr* port = mnl_attr_nest_start(m.head, IFLA_PROTINFO);
  mnl_attr_put_u8(m.head, IFLA_BRPORT_MODE, 1);
  mnl_attr_nest_end(m.head, port);
  port->nla_type |= NLA_F_NESTED;
  int err = Call(m.head);
  return Done(err == ENODEV ? 0 : err, Cat("set hairpin mode of interface ", index));
}

absl::Status Netlink::DeleteLink(const std::string& name) {
  Message m(RTM_DELLINK, NLM_F_ACK);
  m.Header<ifinfomsg>();
  mnl_attr_put_strz(m.head, IFLA_IFNAME, name.c_str());
  int err = Call(m.head);
  return Done(err == ENODEV ? 0 : err, Cat("delete interface `", name, "`"));
}

absl::Status Netlink::DeleteLinks(const std::vector<std::string>& names) {
  if (names.size() == 1) return DeleteLink(names.front());
  constexpr uint32_t kGroup = 0x63736f6b;  // any number that nobody else would choose
  bool any = false;
  for (const std::string& name : names) {
    Message m(RTM_SETLINK, NLM_F_ACK);
    m.Header<ifinfomsg>();
    mnl_attr_put_strz(m.head, IFLA_IFNAME, name.c_str());
    mnl_attr_put_u32(m.head, IFLA_GROUP, kGroup);
    int err = Call(m.head);
    if (err != 0 && err != ENODEV) return ErrnoStatus(err, Cat("set the group of interface `", name, "`"));
    any = any || err == 0;
  }
  if (!any) return absl::OkStatus();
  Message m(RTM_DELLINK, NLM_F_ACK);
  m.Header<ifinfomsg>();
  mnl_attr_put_u32(m.head, IFLA_GROUP, kGroup);
  int err = Call(m.head);
  return Done(err == ENODEV ? 0 : err, Cat("delete ", names.size(), " interfaces"));
}

absl::Status Netlink::AddAddress(int index, uint32_t ip, int prefix) {
  Message m(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK);
  auto* head = m.Header<ifaddrmsg>();
  head->ifa_family = AF_INET;
  head->ifa_prefixlen = static_cast<uint8_t>(prefix);
  head->ifa_index = static_cast<uint32_t>(index);
  mnl_attr_put_u32(m.head, IFA_LOCAL, htonl(ip));
  mnl_attr_put_u32(m.head, IFA_ADDRESS, htonl(ip));
  mnl_attr_put_u32(m.head, IFA_BROADCAST, htonl(ip | (0xffffffffu >> prefix)));
  int err = Call(m.head);
  return Done(err == EEXIST ? 0 : err, Cat("add an address to interface ", index));
}

absl::Status Netlink::DeleteAddress(int index, uint32_t ip, int prefix) {
  Message m(RTM_DELADDR, NLM_F_ACK);
  auto* head = m.Header<ifaddrmsg>();
  head->ifa_family = AF_INET;
  head->ifa_prefixlen = static_cast<uint8_t>(prefix);
  head->ifa_index = static_cast<uint32_t>(index);
  mnl_attr_put_u32(m.head, IFA_LOCAL, htonl(ip));
  int err = Call(m.head);
  return Done(err == EADDRNOTAVAIL ? 0 : err, Cat("delete an address of interface ", index));
}

absl::Status Netlink::AddDefaultRoute(int index, uint32_t gateway) {
  Message m(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK);
  auto* head = m.Header<rtmsg>();
  head->rtm_family = AF_INET;
  head->rtm_table = RT_TABLE_MAIN;
  head->rtm_protocol = RTPROT_BOOT;
  head->rtm_scope = RT_SCOPE_UNIVERSE;
  head->rtm_type = RTN_UNICAST;
  mnl_attr_put_u32(m.head, RTA_GATEWAY, htonl(gateway));
  mnl_attr_put_u32(m.head, RTA_OIF, static_cast<uint32_t>(index));
  return Done(Call(m.head), Cat("add the default route of interface ", index));
}

absl::StatusOr<std::vector<Link>> Netlink::ListLinks() {
  Message m(RTM_GETLINK, NLM_F_DUMP);
  m.Header<ifinfomsg>();
  std::vector<Link> links;
  int err = EINTR;  // something changed while they were listed: one may be missing, or there twice
  for (int attempt = 0; err == EINTR && attempt < kListAttempts; ++attempt) {
    links.clear();
    err = Call(m.head, ReadLink, &links);
  }
  if (err != 0) return ErrnoStatus(err, "list the network interfaces");
  return links;
}

absl::StatusOr<std::vector<InterfaceStats>> ReadInterfaceStats(int netns) {
  ASSIGN_OR_RETURN(Netlink netlink, Netlink::OpenIn(netns));
  ASSIGN_OR_RETURN(std::vector<Link> links, netlink.ListLinks());
  std::vector<InterfaceStats> stats;
  for (Link& link : links)
    if (!link.loopback) stats.push_back(std::move(link.stats));
  return stats;
}

}  // namespace sock::runtime
