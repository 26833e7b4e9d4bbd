// A container's snapshots in the image store: its writable layer, under its id, and one per image volume.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "api.pb.h"
#include "oci/image_store.h"

namespace sock::cri {

// The id of the snapshot that keeps the layers of an image volume; the container's id stands before the dot.
std::string VolumeSnapshot(const std::string& container, int number);
// Gone is success.
absl::Status RemoveSnapshots(oci::ImageStore& images, const std::string& container,
                             const ::runtime::v1::ContainerConfig& config);

}  // namespace sock::cri
