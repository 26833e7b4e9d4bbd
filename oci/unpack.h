// A layer of an image (image-spec layer.md) made into a directory as overlayfs wants it. The bytes are a
// stranger's: whatever they say, nothing is written outside the directory.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "oci/image_store.h"

namespace sock::oci {

struct UnpackOptions {
  uint64_t max_bytes = 64ull << 30;  // of the uncompressed tar, and of any one file
  std::string diff_id;               // "sha256:…" of the uncompressed tar; empty: not checked
  std::function<bool()> cancelled;   // asked now and then; true ends the work with CANCELLED
};

struct Unpacked {
  std::string diff_id;               // the digest of the uncompressed tar
  std::vector<std::string> implied;  // directories that hold entries and have none themselves: root's, 0755
};

// Unpacks the tar that `fd` gives from its present offset (plain, gzip or zstd) into `directory`, which must
// not exist yet and on failure does not afterwards. A process of its own does it, cri-sock-unpack beside this
// program: it sees nothing but the directory, has no network, and little memory. Whiteouts become overlayfs's
// (a 0/0 character device; the xattr trusted.overlay.opaque): needs root. INVALID_ARGUMENT: not a tar, or
// entries that leave the directory. DATA_LOSS: another diff_id. RESOURCE_EXHAUSTED: larger than max_bytes, or
// the disk is full. CANCELLED. INTERNAL: the process died.
absl::StatusOr<Unpacked> UnpackLayer(int fd, const std::string& directory, const UnpackOptions& options);

// Gives the `implied` directories of the layer at `directory` owner, mode and times of what they cover in the
// `lower` layers (topmost first): overlayfs shows the uppermost directory's.
absl::Status InheritDirectories(const std::string& directory, const std::vector<std::string>& implied,
                                const std::vector<std::string>& lower);

// Disk used by the tree at `directory` (allocated blocks; a file with several links counts once). A file that
// vanishes meanwhile is left out. NOT_FOUND where there is no such directory.
absl::StatusOr<Usage> TreeUsage(const std::string& directory);

}  // namespace sock::oci
