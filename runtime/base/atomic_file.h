// Files that are whole or absent, whenever the writer dies: written aside, then renamed.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace sock {

enum class Durability {
  kProcess,  // survives the death of any process: no fsync, for the start path
  kReboot,   // survives a power cut: fsync of file and directory
};

// Replaces `path` with `data`. On failure the old file, if any, is whole and nothing else is left.
absl::Status WriteFileAtomic(const std::string& path, std::string_view data, Durability durability,
                             mode_t mode = 0600);

}  // namespace sock
