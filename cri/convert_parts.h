// The parts of ToContainerSpec and what they share. Errors name the field, as convert.h says.
#pragma once

#include <string>
#include <vector>

#include "cri/convert.h"

namespace sock::cri {

// INVALID_ARGUMENT: "FIELD REASON".
absl::Status Invalid(const std::string& field, const std::string& reason);
// That it is absolute, and without a zero byte.
absl::Status CheckPath(const std::string& path, const std::string& field);
// Without ".", "..", doubled slashes and a slash at the end; nothing is looked at.
std::string Clean(const std::string& path);
// user_namespaces(7). Ranges may not overlap, on neither side.
absl::StatusOr<std::vector<oci::IdMapping>> ReadMappings(
    const google::protobuf::RepeatedPtrField<api::IDMapping>& in, const std::string& field);

// What a container may do and as whom: convert_security.cpp.
absl::Status SetCapabilities(const api::LinuxContainerSecurityContext& security, oci::Capabilities* out);
absl::Status SetUser(const api::LinuxContainerSecurityContext& security, const oci::ImageConfig& image,
                     sock::runtime::UserRequest* user);
// After SetCapabilities: a profile's rules may depend on these.
absl::Status SetSeccomp(const api::LinuxContainerSecurityContext& security, const ConvertContext& context,
                        oci::Spec* spec);
absl::Status SetAppArmor(const api::LinuxContainerSecurityContext& security, std::string* profile);
absl::Status CheckSelinux(const api::SELinuxOption& options);

// What it sees of files and devices: convert_mounts.cpp.
absl::Status SetMounts(const api::ContainerConfig& config, const ConvertContext& context, oci::Spec* spec);
absl::Status SetDevices(const api::ContainerConfig& config, oci::Spec* spec);

}  // namespace sock::cri
