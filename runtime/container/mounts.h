// The daemon's part of a container's file system: detached mounts that the child only attaches.
#pragma once

#include "absl/status/statusor.h"
#include "oci/image_store.h"
#include "oci/runtime_spec.h"
#include "runtime/base/fd.h"
#include "runtime/container/plan.pb.h"

namespace sock::runtime {

// The root file system as a detached mount (fsmount(2)): an overlay, or for a single layer without an upper
// directory a read-only copy of its mount. With `user_ns` (else -1) the layers, which are shared, are
// idmapped by it, and the upper directory is taken as it is: of the namespace's root. NOT_FOUND names a
// missing directory.
absl::StatusOr<Fd> MountRootfs(const oci::Rootfs& rootfs, int user_ns);

// Fills `plan` from `mount`. For a bind mount `tree` becomes its detached copy, unless the caller brings one,
// idmapped by `user_ns` unless -1: the mount itself, not what is mounted below it (mount_setattr(2)). A mount
// of type "overlay" with nothing but "lowerdir+=" (and "subpath=", a path in it) becomes a read-only detached
// one, idmapped likewise. INVALID_ARGUMENT names the field, and the mount whose file system can't be
// idmapped; NOT_FOUND a missing source.
absl::Status PrepareMount(const oci::Mount& mount, int user_ns, PlanMount& plan, Fd& tree);

}  // namespace sock::runtime
