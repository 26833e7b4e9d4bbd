// The network of a pod: CNI as configured, or the built-in bridge where no CNI configuration exists.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sock::runtime {

struct PortMapping {
  std::string protocol;  // "tcp", "udp", "sctp"
  int container_port = 0, host_port = 0;
  std::string host_ip;
};

struct PodNetworkRequest {
  std::string sandbox_id, name, namespace_, uid;
  std::string netns_path;  // where plugins find the namespace: a bind mount under the state directory
  std::map<std::string, std::string> labels, annotations;
  std::vector<PortMapping> ports;
};

struct PodNetworkResult {
  std::vector<std::string> ips;  // primary first
  std::vector<std::string> dns_servers, dns_searches, dns_options;
  std::string state;  // opaque; kept in the sandbox's record and given back to Detach and Adopt
};

// What CNI's CHECK said of a pod: OK where its plugins find everything as they made it.
struct NetworkCheck {
  std::optional<absl::Status> status;  // of the last one that ended, at `at`; absent: there was none
  std::chrono::system_clock::time_point at;
  bool pending = false;  // another one runs, or waits for its turn
};

struct NetworkCheckCounts {  // pods by their last CHECK
  size_t ok = 0, failed = 0;
};

struct InterfaceStats {
  std::string name;
  uint64_t rx_bytes = 0, rx_errors = 0, tx_bytes = 0, tx_errors = 0;
};

struct PodNetworkOptions {
  std::string
      cni_conf_dir = "/etc/cni/net.d",
      cni_cache_dir;  // notes of attachments; must outlive a reboot, as plugins' leases do; empty: none
  std::vector<std::string> cni_bin_dirs{"/opt/cni/bin", "/usr/lib/cni"};
  int cni_parallel = 8, cni_timeout_s = 60;
  std::string bridge = "cri-sock0",
              subnet = "10.88.0.0/16";  // the built-in network; a pod CIDR from kubelet replaces subnet
  // Called from a thread of the network's for a pod of which CHECK finds fault, another than before, or none
  // any more.
  std::function<void(const std::string& sandbox_id, const absl::Status& status)> on_check =
      [](const std::string&, const absl::Status&) {};
};

class PodNetwork {
 public:
  static absl::StatusOr<std::unique_ptr<PodNetwork>> Open(PodNetworkOptions options);
  virtual ~PodNetwork() = default;

  // OK, or UNAVAILABLE with the reason (NetworkReady of the CRI's Status). Notices a configuration that comes
  // or goes.
  virtual absl::Status Ready() = 0;
  virtual std::string
  Describe() = 0;  // "cni NAME from FILE" or "built-in bridge cri-sock0 10.88.0.0/16, 3 addresses taken"
  // Prepares an interface in a fresh namespace ahead of need, with no pod known yet: the token is given to
  // Attach for the same namespace. Empty with CNI. `netns` is a descriptor of the namespace.
  virtual absl::StatusOr<std::string> Prepare(int netns) = 0;
  virtual void Unprepare(const std::string& token) = 0;
  // Whether Attach would run plugins now, which find the namespace by its path.
  virtual bool NeedsPath() = 0;
  // Gives the pod its addresses. On failure nothing is left. `token` empty: everything is made now.
  virtual absl::StatusOr<PodNetworkResult> Attach(const PodNetworkRequest& request, int netns,
                                                  const std::string& token) = 0;
  // Idempotent; gone is success.
  virtual absl::Status Detach(const PodNetworkRequest& request, const std::string& state) = 0;
  // After a restart: marks the addresses of a living sandbox as taken.
  virtual absl::Status Adopt(const PodNetworkRequest& request, const std::string& state) = 0;
  // After every sandbox was adopted: removes interfaces, addresses and rules that nobody owns, and begins to
  // have plugins check what was adopted, behind the call.
  virtual absl::Status RemoveOrphans() = 0;
  virtual absl::Status SetPodCidr(const std::string& cidr) = 0;
  // Has the plugins of a pod check its network now, and waits for that at most `patience`; they go on behind
  // it. nullopt: there is nothing to ask (no CNI, cniVersion below 0.4.0, disableCheck, detached).
  virtual std::optional<NetworkCheck> Check(const std::string& sandbox_id,
                                            std::chrono::milliseconds patience) = 0;
  virtual NetworkCheckCounts CountChecks() const = 0;
};

// Counters of every interface but lo in a namespace (its descriptor), by netlink.
absl::StatusOr<std::vector<InterfaceStats>> ReadInterfaceStats(int netns);

}  // namespace sock::runtime
