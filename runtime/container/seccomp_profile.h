// Seccomp profiles: the built-in one (the CRI's RuntimeDefault) and those in files (Localhost).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "oci/runtime_spec.h"

namespace sock::runtime {

// An allow-list for containers with `capabilities` ("CAP_SYS_ADMIN"): what only a capability makes useful is
// permitted with that capability alone. What is not listed fails with EPERM, unknown newer calls with ENOSYS.
// Never null; the same object for the same capabilities.
std::shared_ptr<const oci::Seccomp> DefaultSeccompProfile(const std::vector<std::string>& capabilities);

// A profile file in the form of container engines' seccomp.json (defaultAction, defaultErrnoRet,
// architectures or archMap, flags, syscalls with names, action, errnoRet, args, includes, excludes), which
// contains the OCI form. includes and excludes are judged for this machine's architecture and for
// `capabilities`. INVALID_ARGUMENT names the field.
absl::StatusOr<oci::Seccomp> ParseSeccompProfile(const std::string& json,
                                                 const std::vector<std::string>& capabilities = {});

}  // namespace sock::runtime
