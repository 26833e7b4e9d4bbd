// rtnetlink(7) for what a pod's network needs: a bridge, veth pairs, addresses, routes, counters.
// Addresses are in host byte order.
#pragma once

#include <libmnl/libmnl.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/network/pod_network.h"

namespace sock::runtime {

using Mac = std::array<uint8_t, 6>;

struct Link {
  int index = 0, master = 0;  // master 0: in no bridge
  bool loopback = false;
  InterfaceStats stats;  // with its name
};

// One socket in one network namespace; used by one thread at a time.
class Netlink {
 public:
  static absl::StatusOr<Netlink> Open();
  // The socket belongs to the namespace of the descriptor `netns`; the caller's thread stays where it is.
  static absl::StatusOr<Netlink> OpenIn(int netns);

  // An existing link of that name is OK and keeps its address.
  absl::Status AddBridge(const std::string& name, const Mac& mac);
  // The first end is in the bridge `master` (an index); `peer` is inside `peer_netns`. Both are down.
  absl::Status AddVeth(const std::string& name, int master, const std::string& peer, int peer_netns,
                       const Mac& peer_mac);
  absl::StatusOr<int> FindLink(const std::string& name);  // its index; NOT_FOUND
  absl::Status SetUp(int index);
  absl::Status SetMaster(int index, int master);  // puts it into a bridge; gone is success
  // Up, without the address that IPv6 gives to every interface: what it tells and asks the network then goes
  // to every port of a bridge.
  absl::Status SetUpWithoutIpv6(int index);
  // A bridge's port may send back out where a packet came in: a pod reaches itself through a service.
  absl::Status SetHairpin(int index);                // gone is success
  absl::Status DeleteLink(const std::string& name);  // gone is success
  // Those that are there, at once: each call that removes waits for an RCU grace period, however many it
  // removes.
  absl::Status DeleteLinks(const std::vector<std::string>& names);
  absl::Status AddAddress(int index, uint32_t ip, int prefix);     // there already is success
  absl::Status DeleteAddress(int index, uint32_t ip, int prefix);  // gone is success
  absl::Status AddDefaultRoute(int index, uint32_t gateway);
  absl::StatusOr<std::vector<Link>> ListLinks();

 private:
  struct Close {
    void operator()(mnl_socket* socket) const { mnl_socket_close(socket); }
  };
  explicit Netlink(mnl_socket* socket) : socket_(socket) {}
  // Sends one message and reads its answer to the end: 0 or errno; EINTR for a list that changed while it was
  // read.
  int Call(nlmsghdr* message, mnl_cb_t callback = nullptr, void* data = nullptr);

  std::unique_ptr<mnl_socket, Close> socket_;
  uint32_t sequence_ = 0;
};

}  // namespace sock::runtime
