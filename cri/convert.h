// The CRI's configurations as specs of the lean runtime. Reads of the host only what a spec must know: device
// numbers, seccomp profile files, whether AppArmor is there.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "api.pb.h"
#include "oci/image_store.h"
#include "oci/runtime_spec.h"
#include "runtime/runtime.h"

namespace sock::cri {

namespace api = ::runtime::v1;

struct ConvertContext {
  std::string resolv_conf, hosts, hostname_file, shm_dir;  // host paths to bind; empty: no such mount, for
                                                           // shm_dir a tmpfs of the container's own
  std::string cgroup_path;                                 // of the container, relative to the cgroup root
  std::string seccomp_profile_root;  // where relative Localhost profiles lie; may be empty
};

// The host's id of a user namespace's root; 0 where there are no mappings.
uint32_t RootId(const google::protobuf::RepeatedPtrField<api::IDMapping>& mappings);

// A sandbox. INVALID_ARGUMENT and UNIMPLEMENTED name the field of PodSandboxConfig.
absl::StatusOr<sock::runtime::SandboxSpec> ToSandboxSpec(const std::string& id,
                                                         const api::PodSandboxConfig& config);

// A container of that sandbox. INVALID_ARGUMENT and UNIMPLEMENTED name the field of ContainerConfig;
// NOT_FOUND a device or profile that is not on the host; FAILED_PRECONDITION what this host cannot do.
absl::StatusOr<sock::runtime::ContainerSpec> ToContainerSpec(
    const std::string& id, const std::string& sandbox_id, const api::ContainerConfig& config,
    const api::PodSandboxConfig& sandbox, const oci::Image& image, const oci::Rootfs& rootfs,
    const ConvertContext& context);

// Fields that are 0 or empty are absent. Memory in bytes, periods and quotas in microseconds.
// INVALID_ARGUMENT names the field.
absl::StatusOr<oci::Resources> ToResources(const api::LinuxContainerResources& resources);

}  // namespace sock::cri
