// Ids of sandboxes, containers and images are components of paths and cgroup names.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace sock {

// 64 lower-case hex digits from getrandom(2).
std::string NewId();

// OK for 1 to 128 of [a-zA-Z0-9_.-] that start with a letter or a digit; else INVALID_ARGUMENT naming
// `field`.
absl::Status CheckId(std::string_view id, std::string_view field);

}  // namespace sock
