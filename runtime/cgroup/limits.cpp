#include <algorithm>

#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/cgroup/internal.h"

namespace sock::runtime::cgroup {
namespace {

template <typename Value>
absl::Status Bad(std::string_view field, const Value& value, std::string_view reason) {
  return absl::InvalidArgumentError(Cat(field, " `", value, "`: ", reason));
}

// "0-3,7" as cpuset(7) lists numbers.
bool IsList(std::string_view list) {
  bool digit = false, range = false;
  for (char c : list) {
    if (c >= '0' && c <= '9') {
      digit = true;
    } else if (c == '-' && digit && !range) {
      digit = false;
      range = true;
    } else if (c == ',' && digit) {
      digit = range = false;
    } else {
      return false;
    }
  }
  return digit;
}

absl::Status CheckUnified(const std::string& key, const std::string& value) {
  static constexpr std::string_view kOurs[] = {"cgroup.procs",  "cgroup.threads", "cgroup.kill",
                                               "cgroup.freeze", "cgroup.type",    "cgroup.subtree_control"};
  bool name = !key.empty() && key.find('.') != key.npos && key.find("..") == key.npos && key.front() != '.' &&
              std::ranges::all_of(key, [](char c) {
                return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '.' || c == '_' || c == '-';
              });
  if (!name) return Bad("unified", key, "is not the name of a cgroup v2 file");
  if (std::ranges::find(kOurs, key) != std::end(kOurs)) return Bad("unified", key, "may not be set");
  if (value.empty() || value.size() > 4096) return Bad("unified", key, "has an empty or too long value");
  return absl::OkStatus();
}

std::string Number(int64_t value, std::string_view unlimited) {
  return value < 0 ? std::string(unlimited) : Cat(value);
}

}  // namespace

absl::Status CheckResources(const oci::Resources& r, bool v2) {
  if (r.memory_limit && (*r.memory_limit < -1 || *r.memory_limit == 0)) {
    return Bad("memory_limit", *r.memory_limit, "must be -1 or above 0");
  }
  if (r.memory_swap && (*r.memory_swap < -1 || *r.memory_swap == 0)) {
    return Bad("memory_swap", *r.memory_swap, "must be -1 or above 0");
  }
  if (r.memory_limit && r.memory_swap && *r.memory_swap != -1) {
    if (*r.memory_limit == -1) return Bad("memory_swap", *r.memory_swap, "needs a memory_limit");
    if (*r.memory_swap < *r.memory_limit) {
      return Bad("memory_swap", *r.memory_swap,
                 Cat("counts memory and swap, and is below memory_limit ", *r.memory_limit));
    }
  }
  if (r.cpu_shares && *r.cpu_shares == 0) return Bad("cpu_shares", *r.cpu_shares, "must be above 0");
  if (r.cpu_period && (*r.cpu_period < 1000 || *r.cpu_period > 1000000)) {
    return Bad("cpu_period", *r.cpu_period, "must be 1000 to 1000000 microseconds");
  }
  if (r.cpu_quota && *r.cpu_quota != -1 && (*r.cpu_quota < 1000 || *r.cpu_quota > int64_t{1} << 53)) {
    return Bad("cpu_quota", *r.cpu_quota, "must be -1 or at least 1000 microseconds");
  }
  if (r.pids_limit && (*r.pids_limit < -1 || *r.pids_limit == 0)) {
    return Bad("pids_limit", *r.pids_limit, "must be -1 or above 0");
  }
  if (!r.cpuset_cpus.empty() && !IsList(r.cpuset_cpus)) {
    return Bad("cpuset_cpus", r.cpuset_cpus, "is not a list of numbers and ranges");
  }
  if (!r.cpuset_mems.empty() && !IsList(r.cpuset_mems)) {
    return Bad("cpuset_mems", r.cpuset_mems, "is not a list of numbers and ranges");
  }
  for (const auto& [size, bytes] : r.hugepage_limits) {
    size_t digits = std::min(size.find_first_not_of("0123456789"), size.size());
    std::string unit = size.substr(digits);
    if (digits == 0 || digits > 6 || (unit != "KB" && unit != "MB" && unit != "GB")) {
      return Bad("hugepage_limits", size, "is not a page size as `2MB`");
    }
    if (bytes > kUnlimited) return Bad("hugepage_limits", size, "has a limit that is too large");
  }
  if (!v2 && !r.unified.empty()) {
    return Bad("unified", r.unified.begin()->first, "needs cgroup v2, and this host has v1");
  }
  for (const auto& [key, value] : r.unified) RETURN_IF_ERROR(CheckUnified(key, value));
  for (const oci::DeviceRule& rule : r.devices) {
    if (rule.type != 'a' && rule.type != 'b' && rule.type != 'c') {
      return Bad("devices", rule.type, "is not a device type: a, b or c");
    }
    if (rule.access.empty() || rule.access.find_first_not_of("rwm") != std::string::npos) {
      return Bad("devices", rule.access, "is not an access of r, w and m");
    }
    for (const auto& number : {rule.major, rule.minor}) {
      if (number && (*number < 0 || *number > UINT32_MAX)) {
        return Bad("devices", *number, "is not a device number");
      }
    }
  }
  return absl::OkStatus();
}

uint64_t SharesToWeight(uint64_t shares) {
  shares = std::clamp<uint64_t>(shares, 2, 262144);
  return 1 + (shares - 2) * 9999 / 262142;
}

absl::StatusOr<std::vector<Setting>> V1Memory(const std::string& dir, const oci::Resources& r,
                                              uint64_t limit_now, uint64_t memsw_now) {
  auto bytes = [](int64_t value) { return value < 0 ? kUnlimited : static_cast<uint64_t>(value); };
  std::optional<int64_t> swap = r.memory_swap;
  // No limit at all includes none on swap, or the kernel would refuse the first.
  if (!swap && r.memory_limit == -1 && memsw_now < kUnlimited) swap = -1;
  uint64_t limit = r.memory_limit ? bytes(*r.memory_limit) : limit_now;
  uint64_t memsw = swap ? bytes(*swap) : memsw_now;
  if (limit > memsw) {
    if (swap) return Bad("memory_swap", memsw, Cat("is below the memory limit of ", limit, " bytes"));
    return Bad("memory_limit", limit, Cat("is above the limit of memory and swap of ", memsw, " bytes"));
  }
  std::vector<Setting> settings;
  if (r.memory_limit) {
    settings.push_back({dir + "/memory.limit_in_bytes", Number(*r.memory_limit, "-1"), "memory_limit"});
  }
  if (swap) settings.push_back({dir + "/memory.memsw.limit_in_bytes", Number(*swap, "-1"), "memory_swap"});
  if (limit > memsw_now) std::ranges::reverse(settings);  // the limit fits only under the new memory+swap
  return settings;
}

absl::StatusOr<std::vector<Setting>> V2Memory(const std::string& dir, const oci::Resources& r,
                                              uint64_t limit_now) {
  std::vector<Setting> settings;
  if (r.memory_limit) {
    settings.push_back({dir + "/memory.max", Number(*r.memory_limit, "max"), "memory_limit"});
  }
  if (!r.memory_swap) return settings;
  std::string value = "max";
  if (*r.memory_swap >= 0) {
    uint64_t limit = limit_now, swap = static_cast<uint64_t>(*r.memory_swap);
    if (r.memory_limit && *r.memory_limit >= 0) limit = static_cast<uint64_t>(*r.memory_limit);
    if (limit >= kUnlimited) return Bad("memory_swap", swap, "needs a memory_limit");
    if (swap < limit) return Bad("memory_swap", swap, Cat("is below the memory limit of ", limit, " bytes"));
    value = Cat(swap - limit);
  }
  settings.push_back({dir + "/memory.swap.max", value, "memory_swap"});
  return settings;
}

std::string DeviceRuleText(const oci::DeviceRule& rule) {
  auto number = [](const std::optional<int64_t>& n) { return n ? Cat(*n) : std::string("*"); };
  return Cat(rule.type, " ", number(rule.major), ":", number(rule.minor), " ", rule.access);
}

}  // namespace sock::runtime::cgroup
