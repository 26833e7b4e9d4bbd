// Ranges of host ids for the user namespaces of pods that did not ask for one (user_namespaces(7)).
#pragma once

#include <cstdint>
#include <mutex>
#include <set>

#include "absl/status/statusor.h"

namespace sock::runtime {

class IdRanges {
 public:
  static constexpr uint32_t kSize = 65536;  // ids in a range
  // Far above what kubelet hands out to pods with hostUsers: false (its ranges follow 65536).
  static constexpr uint32_t kFirst = 0x40000000, kCount = 8192;

  IdRanges();
  // The first id of a free range; what was freed last comes last. RESOURCE_EXHAUSTED.
  absl::StatusOr<uint32_t> Take();
  // One that lives since before a restart.
  void Keep(uint32_t first);
  void Free(uint32_t first);

 private:
  std::mutex mutex_;
  std::set<uint32_t> used_;
  uint32_t next_;
};

}  // namespace sock::runtime
