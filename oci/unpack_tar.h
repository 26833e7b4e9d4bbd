// A layer's tar made into a directory: the work of cri-sock-unpack, which alone calls this, and of the
// fuzzer.
#pragma once

#include "absl/status/statusor.h"
#include "oci/unpack.h"

namespace sock::oci {

// As UnpackLayer, into the directory `root`, which on failure is left half made. Changes the process's
// working directory; so the process must have one thread. Wants umask(2) 0.
absl::StatusOr<Unpacked> UnpackTar(int fd, int root, const UnpackOptions& options);

}  // namespace sock::oci
