#include "runtime/network/ipam.h"

#include <arpa/inet.h>

#include <charconv>

#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::runtime {

std::string IpText(uint32_t ip) {
  return fmt::format("{}.{}.{}.{}", ip >> 24, ip >> 16 & 255, ip >> 8 & 255, ip & 255);
}

std::string Subnet::Text() const { return Cat(IpText(base), "/", prefix); }

absl::StatusOr<uint32_t> ParseIp(std::string_view text) {
  in_addr ip{};
  if (inet_pton(AF_INET, std::string(text).c_str(), &ip) != 1)
    return absl::InvalidArgumentError(Cat("`", text, "` is no IPv4 address"));
  return ntohl(ip.s_addr);
}

absl::StatusOr<Subnet> ParseSubnet(std::string_view text) {
  for (std::string_view rest = text; !rest.empty();) {
    std::string_view part = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    size_t slash = part.find('/');
    if (slash == std::string_view::npos) continue;
    auto ip = ParseIp(part.substr(0, slash));
    if (!ip.ok()) continue;
    int prefix = 0;
    const char* end = part.data() + part.size();
    auto [stop, err] = std::from_chars(part.data() + slash + 1, end, prefix);
    if (err != std::errc() || stop != end || prefix < 8 || prefix > 30) continue;
    return Subnet{*ip & ~(0xffffffffu >> prefix), prefix};
  }
  return absl::InvalidArgumentError(
      Cat("pod subnet `", text, "` is no IPv4 subnet with a prefix from 8 to 30"));
}

size_t Ipam::taken() {
  std::lock_guard lock(mutex_);
  return taken_.size();
}

absl::StatusOr<uint32_t> Ipam::Allocate() {
  std::lock_guard lock(mutex_);
  while (next_ < subnet_.last()) {
    uint32_t ip = next_++;
    if (taken_.insert(ip).second) return ip;
  }
  while (!freed_.empty()) {
    uint32_t ip = freed_.front();
    freed_.pop_front();
    if (taken_.insert(ip).second) return ip;
  }
  return absl::ResourceExhaustedError(Cat("every address of the pod subnet `", subnet_.Text(), "` is taken"));
}

void Ipam::Release(uint32_t ip) {
  std::lock_guard lock(mutex_);
  // One at or after next_ was adopted: it comes round by itself, unless next_ passed it meanwhile.
  if (taken_.erase(ip) != 0 && ip < next_) freed_.push_back(ip);
}

absl::Status Ipam::Adopt(uint32_t ip) {
  if (!subnet_.Contains(ip)) return absl::OkStatus();
  std::lock_guard lock(mutex_);
  if (!taken_.insert(ip).second) return absl::AlreadyExistsError(Cat("address `", IpText(ip), "` is taken"));
  return absl::OkStatus();
}

}  // namespace sock::runtime
