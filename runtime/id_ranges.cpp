#include "runtime/id_ranges.h"

#include <random>

namespace sock::runtime {

// Begun anywhere, so that a restart does not hand out at once what was freed just before.
IdRanges::IdRanges() : next_(std::random_device()() % kCount) {}

absl::StatusOr<uint32_t> IdRanges::Take() {
  std::lock_guard lock(mutex_);
  for (uint32_t tried = 0; tried < kCount; ++tried) {
    const uint32_t first = kFirst + next_ * kSize;
    next_ = (next_ + 1) % kCount;
    if (used_.insert(first).second) return first;
  }
  return absl::ResourceExhaustedError("all ranges of ids for user namespaces are in use");
}

void IdRanges::Keep(uint32_t first) {
  std::lock_guard lock(mutex_);
  used_.insert(first);
}

void IdRanges::Free(uint32_t first) {
  std::lock_guard lock(mutex_);
  used_.erase(first);
}

}  // namespace sock::runtime
