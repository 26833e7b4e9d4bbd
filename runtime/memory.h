// What memory processes use, told apart by who else has it.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "absl/status/statusor.h"

namespace sock::runtime {

// Bytes of resident memory (proc(5), /proc/PID/smaps). Each page is private or shared.
struct MemoryUse {
  uint64_t private_bytes = 0;       // that no other process has, nor a file: what its end frees
  uint64_t shared_bytes = 0;        // that others have too
  uint64_t proportional_bytes = 0;  // each page divided by the number of processes that have it
  uint64_t processes = 0;           // how many were looked at
  // Of the file in which a Zygote's heap lies (zygote/python/zygote.py): all of it, whoever uses how much; it
  // is there until the last process ends that began as a fork of the Zygote. Beyond the other figures. 0:
  // there is none.
  uint64_t zygote_heap_bytes = 0;
  MemoryUse& operator+=(const MemoryUse& other);
};

// NOT_FOUND where the process has ended. Takes about 1 ms for each 100 MB: not for each statistic.
absl::StatusOr<MemoryUse> ReadMemoryUse(pid_t pid);

}  // namespace sock::runtime
