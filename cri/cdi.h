// Devices that vendors describe in files: the Container Device Interface
// (cncf-tags/container-device-interface, SPEC.md).
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "oci/runtime_spec.h"

namespace sock::cri {

// Later directories win over earlier ones.
inline const std::vector<std::string> kCdiDirs = {"/etc/cdi", "/var/run/cdi"};

// Puts what the devices `names` ("vendor.com/class=device") ask for into `spec`: variables, device nodes with
// their cgroup rules, and bind mounts. Specs in JSON are read, YAML is not. INVALID_ARGUMENT: not such a
// name; NOT_FOUND: no file describes it, or a node's device is missing; FAILED_PRECONDITION: two files of one
// directory do, or the description is malformed; UNIMPLEMENTED names an edit that can't be made, hooks above
// all.
absl::Status AddCdiDevices(const std::vector<std::string>& names, const std::vector<std::string>& dirs,
                           oci::Spec* spec);

}  // namespace sock::cri
