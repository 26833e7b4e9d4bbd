// The gRPC side: every RPC of the CRI that is served, each one line over Cri.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cri/cri.h"

namespace sock::cri {

// A running gRPC server on a unix socket.
class Server {
 public:
  // Listens at `path` (mode 0660; an old socket there is replaced). `cri` outlives it.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const std::string& path, Cri* cri);
  virtual ~Server() = default;
  // Ends it: running calls are given `grace_ms` to end, then cancelled. Removes the socket.
  virtual void Stop(int grace_ms) = 0;
};

}  // namespace sock::cri
