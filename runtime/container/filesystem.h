// The child's file system: mounts, devices, hidden paths and the change of root. Used by CarryOut only.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "runtime/base/fd.h"
#include "runtime/container/plan.pb.h"

namespace sock::runtime {

// Builds the root of `plan` in the caller's own mount namespace and makes it "/" (pivot_root(2)); the host's
// tree is gone afterwards. The caller is root of the host, in the container's other namespaces, its umask 0.
// `step` names what was being done when an error came.
absl::Status BuildFilesystem(const Plan& plan, const std::vector<Fd>& fds, const char*& step);

}  // namespace sock::runtime
