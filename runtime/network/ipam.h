// The addresses of one IPv4 subnet, in memory. Host byte order. For many threads.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_set>

#include "absl/status/statusor.h"

namespace sock::runtime {

struct Subnet {
  uint32_t base = 0;
  int prefix = 0;

  uint32_t gateway() const { return base + 1; }
  uint32_t last() const { return base | (0xffffffffu >> prefix); }  // the broadcast address
  bool Contains(uint32_t ip) const { return ip >= base && ip <= last(); }
  std::string Text() const;
};

// "10.88.0.0/16", host bits cleared; of a comma separated list its first IPv4 subnet. INVALID_ARGUMENT for
// anything else and for prefixes outside 8 to 30.
absl::StatusOr<Subnet> ParseSubnet(std::string_view text);
absl::StatusOr<uint32_t> ParseIp(std::string_view text);
std::string IpText(uint32_t ip);

class Ipam {
 public:
  explicit Ipam(Subnet subnet) : subnet_(subnet), next_(subnet.base + 2) {}

  const Subnet& subnet() const { return subnet_; }
  size_t taken();  // addresses, now
  // A free address: those never used first, then the one freed longest ago. RESOURCE_EXHAUSTED when full.
  absl::StatusOr<uint32_t> Allocate();
  void Release(uint32_t ip);  // what is not taken is left alone
  // Marks an address as taken; ALREADY_EXISTS when it is. Outside the subnet: OK, nothing to mark.
  absl::Status Adopt(uint32_t ip);

 private:
  std::mutex mutex_;
  const Subnet subnet_;
  uint32_t next_;  // the first never handed out
  std::unordered_set<uint32_t> taken_;
  std::deque<uint32_t> freed_;
};

}  // namespace sock::runtime
