// The built-in network: every pod's eth0 is the end of a veth pair in one bridge, with an address of one
// subnet, masqueraded towards elsewhere. Host ports are DNAT entries of our nftables table.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/network/ipam.h"
#include "runtime/network/netlink.h"
#include "runtime/network/nft.h"
#include "runtime/network/pod_network.h"

namespace sock::runtime {

// The contract of each function is PodNetwork's. Nothing is made in the host before the first need.
class BridgeNetwork {
 public:
  static absl::StatusOr<std::unique_ptr<BridgeNetwork>> Open(const std::string& bridge,
                                                             const std::string& subnet);
  ~BridgeNetwork();  // removes what was detached

  absl::Status Ready();
  std::string Describe();
  absl::StatusOr<std::string> Prepare(int netns);
  void Unprepare(const std::string& token);
  absl::StatusOr<PodNetworkResult> Attach(const PodNetworkRequest& request, int netns,
                                          const std::string& token);
  // The host ports are free at once. The interfaces go a moment later, many at a time, since each removal
  // waits for RCU; their addresses are given to nobody before that.
  absl::Status Detach(const std::string& state);
  absl::Status Adopt(const std::string& state);
  absl::Status RemoveOrphans();
  // Living pods keep the addresses they have.
  absl::Status SetPodCidr(const std::string& cidr);

 private:
  struct Pod {
    uint32_t ip = 0;
    std::string host_if;
    std::vector<PortMapping> ports;
    bool detached = false;
  };
  BridgeNetwork(std::string bridge, Subnet subnet);

  static std::string ToState(const Pod& pod);
  static absl::StatusOr<Pod> FromState(const std::string& state);
  // Makes the bridge, its address and our table where they are missing, and puts the pods that are there on
  // them: an operator may delete a bridge that is in use. The bridge's index.
  absl::StatusOr<int> SetUp();
  absl::StatusOr<int> SetUpLocked();
  std::shared_ptr<Ipam> ipam();
  absl::Status AddPorts(const Pod& pod);  // with mutex_ held, as SetUpLocked writes every pod's
  absl::Status RemovePorts(const Pod& pod);
  void RemoveDetached();
  void Settle();  // waits until what was detached before has been removed

  const std::string bridge_, table_;
  std::mutex mutex_;  // guards what follows
  std::shared_ptr<Ipam> ipam_;
  std::vector<Subnet> subnets_;  // the last is the present one, those before hold older pods
  int bridge_index_ = 0;         // 0: not set up
  std::map<std::string, Pod>
      pods_;  // by host_if: prepared, attached and adopted ones, and those on their way out
  std::vector<std::string> detached_;  // of pods_, for remover_
  std::condition_variable wake_, settled_;
  bool removing_ = false, closing_ = false;
  Nft nft_;
  std::thread remover_;
};

}  // namespace sock::runtime
