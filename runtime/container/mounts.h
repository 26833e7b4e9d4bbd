// The daemon's part of a container's file system: detached mounts that the child only attaches.
#pragma once

#include "absl/status/statusor.h"
#include "oci/image_store.h"
#include "oci/runtime_spec.h"
#include "runtime/base/fd.h"
#include "runtime/container/plan.pb.h"

namespace sock::runtime {

// The root file system as a detached mount (fsmount(2)): an overlay, or for a single layer without an upper
// directory a read-only copy of its mount. NOT_FOUND names a missing directory.
absl::StatusOr<Fd> MountRootfs(const oci::Rootfs& rootfs);

// Fills `plan` from `mount`. For a bind mount `tree` becomes its detached copy. INVALID_ARGUMENT names the
// field; NOT_FOUND a missing source; UNIMPLEMENTED idmapped mounts.
absl::Status PrepareMount(const oci::Mount& mount, PlanMount& plan, Fd& tree);

}  // namespace sock::runtime
