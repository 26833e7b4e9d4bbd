// The documents of an image (image-spec manifest.md, image-index.md, config.md; Docker's schema 2), read out
// of strangers' bytes. What does not parse is INVALID_ARGUMENT naming the field.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "oci/image_store.h"

namespace sock::oci {

struct Platform {
  std::string os, architecture, variant;
};

struct Descriptor {
  std::string media_type, digest;
  uint64_t size = 0;  // bytes
  Platform platform;
  std::map<std::string, std::string> annotations;
};

struct Manifest {
  std::string media_type;
  Descriptor config;
  std::vector<Descriptor> layers;  // lowest first
  std::map<std::string, std::string> annotations;
};

struct Config {
  Platform platform;
  ImageConfig config;
  std::vector<std::string> diff_ids;  // lowest first; digests of the uncompressed tars
};

// OK for "sha256:" and 64 lower-case hex digits; else INVALID_ARGUMENT naming `field`.
absl::Status CheckDigest(std::string_view digest, std::string_view field);

// True where the document's own mediaType, or its shape, says that it is an index (a manifest list).
bool IsIndex(std::string_view document);

absl::StatusOr<Manifest> ParseManifest(std::string_view document);
absl::StatusOr<std::vector<Descriptor>> ParseIndex(std::string_view document);
absl::StatusOr<Config> ParseConfig(std::string_view document);

// An image of a `docker save` archive, as its manifest.json tells it: names of the archive's files, and its
// tags.
struct DockerArchiveImage {
  std::string config;
  std::vector<std::string> layers, tags;
};
absl::StatusOr<std::vector<DockerArchiveImage>> ParseDockerArchive(std::string_view document);

// The platform that this machine runs, in the words of image-spec ("linux", "amd64" …).
Platform HostPlatform();

// The first manifest of an index that fits `platform` (one that names no platform fits when nothing else
// does). NOT_FOUND where none does.
absl::StatusOr<Descriptor> ChoosePlatform(const std::vector<Descriptor>& index, const Platform& platform);

// Chain ids (config.md, "Layer ChainID"), lowest first. The digests must have passed CheckDigest.
std::vector<std::string> ChainIds(const std::vector<std::string>& diff_ids);

// "sha256:" and the hex digest of `data`.
std::string Sha256(std::string_view data);

}  // namespace sock::oci
