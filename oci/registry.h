// A client of the OCI distribution spec, v2, for pulling.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "oci/image_store.h"
#include "oci/reference.h"

namespace sock::oci {

struct FetchedManifest {
  std::string bytes;   // exactly as served, a manifest or an index
  std::string digest;  // theirs: "sha256:<hex>"
};

struct RegistryTimes {
  std::chrono::seconds connect{30};           // TCP and TLS together
  std::chrono::seconds stall{60};             // without a byte: the connection is given up
  std::chrono::milliseconds back_off{500};    // before the first retry; doubles, at most 16 times this
  std::chrono::milliseconds longest{30'000};  // that a server's Retry-After is obeyed
};

// Takes a blob's bytes. An error of either ends the call that feeds it, and is its error.
struct BlobSink {
  std::function<absl::Status(std::string_view)> write;  // the next bytes
  std::function<absl::Status()>
      restart;  // what was written is not the blob: forget it, the first byte comes next
};

// Thread-safe; calls block. Every server of hosts.toml is tried in its order; what one lacks, refuses or
// sends broken, the next may have, and the last one's error is returned. Errors of both calls:
// INVALID_ARGUMENT (a digest, hosts.toml), NOT_FOUND, UNAUTHENTICATED (401), PERMISSION_DENIED (403),
// UNAVAILABLE (network, 5xx or 429 after retries), DATA_LOSS (digest or size differ, no manifest), CANCELLED.
// A server that refuses connections is given up after two seconds. Credentials go to the registry, its
// mirrors in hosts.toml and the token server it names, never where a redirect leads; with a server_address
// only to that host. `cancelled` may be empty; it is asked at least every second.
class RegistryClient {
 public:
  // `certs_dir` holds <host>/hosts.toml; it need not exist. Read again on each call.
  explicit RegistryClient(std::string certs_dir, RegistryTimes times = {});
  ~RegistryClient();
  RegistryClient(const RegistryClient&) = delete;
  RegistryClient& operator=(const RegistryClient&) = delete;

  // A manifest or an index, at most 4 MiB. A digest is verified.
  absl::StatusOr<FetchedManifest> FetchManifest(const Reference& reference, const std::string& tag_or_digest,
                                                const Credentials& credentials,
                                                const std::function<bool()>& cancelled);

  // Hands the blob's bytes to `sink` in order, each once, also across retries: a connection that is cut goes
  // on where it was. `size` is in bytes, from the descriptor. What the sink took is good only if the call
  // returns OK.
  absl::Status FetchBlob(const Reference& reference, const std::string& digest, uint64_t size,
                         const Credentials& credentials, const BlobSink& sink,
                         const std::function<bool()>& cancelled);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sock::oci
