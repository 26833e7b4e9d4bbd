// seccomp(2) filters out of the OCI specification's description (config-linux.md, "Seccomp").
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "oci/runtime_spec.h"

namespace sock::runtime {

// The bytes of the struct sock_filter[] that `seccomp` describes, to be loaded with SECCOMP_SET_MODE_FILTER.
// Kept by content: the same description is compiled once. Names of system calls that libseccomp does not know
// are skipped, and architectures that this machine cannot run too. INVALID_ARGUMENT: an unknown action,
// operator, architecture or flag, or a bad argument index. Any thread.
absl::StatusOr<std::string> CompileSeccomp(const oci::Seccomp& seccomp);

// All of a description as bytes that no other has: what descriptions are told apart by.
std::string Fingerprint(const oci::Seccomp& seccomp);

}  // namespace sock::runtime
