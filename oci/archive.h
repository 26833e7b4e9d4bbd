// Archives of images: what `docker save`, `skopeo copy` and the like write.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace sock::oci {

// Makes an OCI layout (image-spec image-layout.md) at `dir` of the archive `file`, a tar, compressed or not,
// of such a layout or of `docker save`. INVALID_ARGUMENT: it is neither, or cut short; part of the layout may
// then be at `dir`.
absl::Status ExtractArchive(const std::string& file, const std::string& dir);

}  // namespace sock::oci
