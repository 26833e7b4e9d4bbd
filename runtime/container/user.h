// Who a container's process is: the request against the container's own /etc/passwd and /etc/group.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "oci/runtime_spec.h"
#include "runtime/runtime.h"

namespace sock::runtime {

struct ResolvedUser {
  oci::User user;  // additional_gids includes the primary group
  std::string home = "/";
};

// `root` is a descriptor of the container's root directory. passwd(5), group(5); files that are missing are
// empty. INVALID_ARGUMENT for a name that they don't hold, or a number out of range.
absl::StatusOr<ResolvedUser> ResolveUser(int root, const UserRequest& request);

}  // namespace sock::runtime
