// Image references, as users write them and in full.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace sock::oci {

struct Reference {
  std::string host;        // "docker.io", "localhost:5000", "[::1]:5000"
  std::string repository;  // "library/busybox"
  std::string tag;         // empty only when `digest` is set
  std::string digest;      // "sha256:<64 hex digits>" or empty

  std::string Name() const;    // "docker.io/library/busybox"
  std::string String() const;  // Name() with ":tag" and "@digest" where present
};

bool IsDigest(std::string_view text);  // "sha256:" and 64 lower case hex digits
bool IsTag(std::string_view text);
bool IsRepository(std::string_view text);
bool IsHost(std::string_view text);  // a name or address, with or without a port

// Fills in docker.io, library/ and the tag "latest" (only when there is neither tag nor digest). The grammar
// is that of the distribution spec, "Pulling manifests". INVALID_ARGUMENT names the reference and the reason.
absl::StatusOr<Reference> ParseReference(const std::string& text);

}  // namespace sock::oci
