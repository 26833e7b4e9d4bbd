// Images on this node: pulled from registries or imported, kept by content, unpacked once, mounted under
// overlayfs. Every method may be called from any thread; those that touch the network or unpack may block for
// long.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sock::oci {

struct ImageConfig {  // image-spec config.md
  std::string user, working_dir, stop_signal;
  std::vector<std::string> entrypoint, cmd, env, volumes;
  std::map<std::string, std::string> labels;
};

struct Image {
  std::string id;               // "sha256:…", the digest of the image's config
  std::string manifest_digest;  // "sha256:…"
  std::vector<std::string> repo_tags,
      repo_digests;                 // normalised: "docker.io/library/busybox:latest", "…@sha256:…"
  std::vector<std::string> layers;  // chain ids, lowest first
  uint64_t size = 0;                // bytes, compressed layers and config
  bool pinned = false;
  ImageConfig config;
  std::map<std::string, std::string> annotations;  // the manifest's
};

struct Credentials {  // the CRI's AuthConfig
  std::string username, password, auth, server_address, identity_token, registry_token;
};

struct Rootfs {
  std::vector<std::string>
      lower_dirs;                   // absolute host paths, topmost first, as overlayfs's lowerdir wants them
  std::string upper_dir, work_dir;  // empty: read-only
  // A layer below those, of what every container has mounts on (/proc, /etc/hosts, …): without, they would be
  // made in the upper directory, and taken away with it, for each container whose image lacks them.
  std::string mount_points;
};

struct ImageStoreOptions {
  std::string root;                        // /var/lib/cri-sock/images
  std::string certs_dir;                   // containerd's certs.d/<host>/hosts.toml layout; may not exist
  uint64_t max_layer_bytes = 64ull << 30;  // an unpacked layer larger than this is refused
  int parallel_downloads = 3;
};

struct Usage {
  uint64_t bytes = 0, inodes = 0;
};

class ImageStore {
 public:
  // Opens (or makes) the store and clears what an interrupted pull left.
  static absl::StatusOr<std::unique_ptr<ImageStore>> Open(ImageStoreOptions options);
  virtual ~ImageStore() = default;

  // Pulls `reference`. INVALID_ARGUMENT: not a reference. NOT_FOUND: the registry has no such image, or none
  // for this platform. UNAUTHENTICATED / PERMISSION_DENIED, UNAVAILABLE (network), DATA_LOSS (digest),
  // RESOURCE_EXHAUSTED (disk). On failure nothing of it is left. `cancelled`, if set, is asked now and then
  // and ends the pull.
  virtual absl::StatusOr<Image> Pull(const std::string& reference, const Credentials& credentials,
                                     std::function<bool()> cancelled = {}) = 0;
  // Imports the images of an OCI layout folder or a tar of one (or of `docker save`); `name` overrides its
  // tag.
  virtual absl::StatusOr<std::vector<Image>> Import(const std::string& path, const std::string& name) = 0;

  // By tag, digest reference, id, or unambiguous hex prefix of an id (at least 12 digits). NOT_FOUND
  // otherwise.
  virtual absl::StatusOr<Image> Get(const std::string& reference) const = 0;
  virtual std::vector<Image> List() const = 0;
  // Removes every name of the image and what nothing uses any more. Gone is success. FAILED_PRECONDITION
  // never: a container that still uses layers keeps them until its snapshot is removed.
  virtual absl::Status Remove(const std::string& reference) = 0;

  // A writable layer over `image_id` for container `id`, kept until RemoveSnapshot; survives a restart. With
  // `owner_uid/gid` the upper directory belongs to that host user (a user namespace's root). Same id again:
  // the same.
  virtual absl::StatusOr<Rootfs> CreateSnapshot(const std::string& id, const std::string& image_id,
                                                uint32_t owner_uid, uint32_t owner_gid) = 0;
  virtual absl::StatusOr<Rootfs> GetSnapshot(const std::string& id) const = 0;
  // Gone is success.
  virtual absl::Status RemoveSnapshot(const std::string& id) = 0;
  virtual std::vector<std::string> ListSnapshots() const = 0;
  // Disk used by the snapshot's upper directory.
  virtual absl::StatusOr<Usage> SnapshotUsage(const std::string& id) const = 0;

  // Disk used by images (blobs and unpacked layers), and the directory that lies on the file system that is
  // meant.
  virtual absl::StatusOr<Usage> FilesystemUsage() const = 0;
  virtual std::string root() const = 0;
};

// "busybox" -> "docker.io/library/busybox:latest". INVALID_ARGUMENT with the reason.
absl::StatusOr<std::string> NormalizeReference(const std::string& reference);

}  // namespace sock::oci
