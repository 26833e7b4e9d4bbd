// Metrics in Prometheus' text format over HTTP, for a scraper on this node.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/network/pod_network.h"
#include "zygote/zygotes.h"

namespace sock::cri {

class MetricsServer {
 public:
  // Serves `text` at /metrics until it is destroyed; `text` is called from a thread of the server's. `listen`
  // is "unix:/PATH" (mode 0600; a socket that lies there is replaced) or a loopback address with a port
  // ("127.0.0.1:9440",
  // "[::1]:9440"): INVALID_ARGUMENT for anything else, since what the pods of a node do is not for its
  // network.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& listen,
                                                              std::function<std::string()> text);
  virtual ~MetricsServer() = default;
};

// Counts by state.
std::string CountMetrics(const std::map<std::string, uint64_t>& pods,
                         const std::map<std::string, uint64_t>& containers,
                         const runtime::NetworkCheckCounts& checks);

// What the Zygotes' part of it says (prometheus.io/docs/instrumenting/exposition_formats).
std::string ZygoteMetrics(const zygote::ZygotesStatus& all, std::chrono::system_clock::time_point now);

}  // namespace sock::cri
