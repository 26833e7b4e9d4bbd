#include <absl/cleanup/cleanup.h>
#include <google/protobuf/util/message_differencer.h>

#include <cctype>
#include <set>

#include "cri/convert.h"
#include "cri/cri.h"
#include "cri/snapshots.h"
#include "runtime/base/ids.h"
#include "runtime/base/text.h"
#include "runtime/container/seccomp_profile.h"

namespace sock::cri {
namespace {

// NOT_FOUND where no such image is on the node, INVALID_ARGUMENT where `name` can't be one's.
absl::StatusOr<oci::Image> FindImage(const oci::ImageStore& images, const std::string& name,
                                     std::string_view field) {
  absl::StatusOr<oci::Image> image = images.Get(name);
  if (absl::IsNotFound(image.status())) RETURN_IF_ERROR_AS(oci::NormalizeReference(name).status(), field);
  if (!image.ok()) return Annotate(image.status(), field);
  return image;
}

}  // namespace

namespace {

// INVALID_ARGUMENT where something is asked for that only the node's user namespace has (capabilities(7)).
absl::Status NeedsNode(const api::ContainerConfig& config) {
  if (config.devices_size() > 0 || config.cdi_devices_size() > 0)
    return absl::InvalidArgumentError("it has devices");
  static const std::set<std::string> kNode = {
      "ALL",      "AUDIT_CONTROL",   "AUDIT_READ", "BLOCK_SUSPEND", "BPF",       "CHECKPOINT_RESTORE",
      "IPC_LOCK", "LINUX_IMMUTABLE", "MAC_ADMIN",  "MAC_OVERRIDE",  "PERFMON",   "SYSLOG",
      "SYS_BOOT", "SYS_MODULE",      "SYS_NICE",   "SYS_PACCT",     "SYS_RAWIO", "SYS_RESOURCE",
      "SYS_TIME", "SYS_TTY_CONFIG",  "WAKE_ALARM"};
  for (std::string name : config.linux().security_context().capabilities().add_capabilities()) {
    for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    if (name.starts_with("CAP_")) name.erase(0, 4);
    if (kNode.contains(name))
      return absl::InvalidArgumentError(Cat("capability `", name, "` has no effect in another"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string VolumeSnapshot(const std::string& container, int number) {
  return Cat(container, ".volume", number);
}

absl::Status RemoveSnapshots(oci::ImageStore& images, const std::string& container,
                             const api::ContainerConfig& config) {
  int volumes = 0;
  for (const api::Mount& mount : config.mounts())
    if (mount.has_image()) RETURN_IF_ERROR(images.RemoveSnapshot(VolumeSnapshot(container, volumes++)));
  return images.RemoveSnapshot(container);
}

absl::Status Cri::MakeContainer(const SandboxRecord& pod, const api::ContainerConfig& given,
                                const oci::Image& image, bool own_users, ContainerRecord& record) {
  // Only the sandbox's own configuration counts: kubelet sends it again with every container.
  const api::PodSandboxConfig pod_config = own_users ? pod.EffectiveConfig() : pod.config;
  const bool host_ipc = pod_config.linux().security_context().namespace_options().ipc() == api::NODE;
  api::ContainerConfig config = given;
  const api::UserNamespace& userns =
      pod_config.linux().security_context().namespace_options().userns_options();
  if (own_users) {
    RETURN_IF_ERROR(NeedsNode(config));
    // As kubelet does for a pod that asks for a user namespace itself.
    if (config.linux().security_context().has_namespace_options())
      *config.mutable_linux()
           ->mutable_security_context()
           ->mutable_namespace_options()
           ->mutable_userns_options() = userns;
    for (api::Mount& mount : *config.mutable_mounts()) {
      if (mount.has_image() || mount.uidmappings_size() > 0) continue;
      *mount.mutable_uidmappings() = userns.uids();
      *mount.mutable_gidmappings() = userns.gids();
    }
  }
  ConvertContext context;
  context.resolv_conf = FilesDir(pod.id) + "/resolv.conf";
  context.hosts = FilesDir(pod.id) + "/hosts";
  context.hostname_file = FilesDir(pod.id) + "/hostname";
  context.shm_dir = host_ipc ? "/dev/shm" : sock::runtime::kSandboxShm;
  context.seccomp_profile_root = config_.seccomp_profile_root;
  context.cgroup_path = record.cgroup_path = runtime_->cgroups().PathFor(pod.cgroup_parent, record.id);

  ASSIGN_OR_RETURN(oci::Rootfs rootfs, images_->CreateSnapshot(record.id, image.id, RootId(userns.uids()),
                                                               RootId(userns.gids())));
  absl::Cleanup drop_snapshot = [&] { RemoveSnapshots(*images_, record.id, config).IgnoreError(); };
  ASSIGN_OR_RETURN(sock::runtime::ContainerSpec spec,
                   ToContainerSpec(record.id, pod.id, config, pod_config, image, rootfs, context));
  // A snapshot keeps an image's layers while its volume is there, whatever becomes of the image's names.
  int volumes = 0;
  for (oci::Mount& mount : spec.spec.mounts) {
    if (mount.type != "overlay") continue;
    ASSIGN_OR_RETURN(oci::Image volume, FindImage(*images_, mount.source, "config.mounts[].image"));
    ASSIGN_OR_RETURN(oci::Rootfs layers,
                     images_->CreateSnapshot(VolumeSnapshot(record.id, volumes++), volume.id, 0, 0));
    for (const std::string& layer : layers.lower_dirs) mount.options.push_back("lowerdir+=" + layer);
  }
  if (!spec.target_pid_container.empty()) {
    ASSIGN_OR_RETURN_AS(ContainerPtr target, containers_.Find(spec.target_pid_container),
                        "config.linux.security_context.namespace_options.target_id");
    if (target->Get()->sandbox_id != pod.id) {
      return absl::InvalidArgumentError("namespace_options.target_id is a container of another sandbox");
    }
    spec.target_pid_container = target->id;
  }
  record.log_path = spec.log_path;

  zygote::Zygotes* zygotes = zygotes_;
  const bool sock = pod.handler == kSockHandler && zygotes != nullptr;
  bool required = false;
  zygote::Choice choice;
  if (sock) {
    zygote::Wanted wanted;
    ASSIGN_OR_RETURN(wanted.request, oci::ResolveAnnotations(
                                         {pod.config.annotations().begin(), pod.config.annotations().end()},
                                         config.metadata().name(), image));
    required = wanted.request.mode == oci::ZygoteRequest::Mode::kRequired;
    wanted.image = image;
    wanted.args = spec.spec.process.args;
    wanted.env = spec.spec.process.env;
    wanted.cwd = spec.spec.process.cwd;
    for (const api::Mount& mount : config.mounts()) wanted.volumes.push_back(mount.container_path());
    wanted.terminal = spec.spec.process.terminal;
    if (spec.spec.seccomp &&
        spec.spec.seccomp == sock::runtime::DefaultSeccompProfile(spec.spec.process.capabilities.bounding)) {
      wanted.default_seccomp = spec.spec.seccomp;
      wanted.capabilities = spec.spec.process.capabilities.bounding;
    }
    ASSIGN_OR_RETURN(wanted.trust_domain,
                     TrustDomain(config_, pod.config.metadata().namespace_(), wanted.request.trust_domain,
                                 wanted.request.trust_domain_source));
    wanted.sandbox_owner = pod.info.owner_uid;
    if (!pod.node_users.empty())
      wanted.unforkable = Cat("its pod can't: ", pod.node_users);
    else if (!own_users && !pod.info.uid_mappings.empty())
      wanted.unforkable = "it runs in the node's user namespace";
    else if (!spec.spec.process.apparmor_profile.empty())
      wanted.unforkable = "it has an AppArmor profile, which only an exec puts on";
    wanted.kinds = PodKinds(pod.config);
    wanted.sandbox = pod.id;
    ASSIGN_OR_RETURN(choice, zygotes->Choose(wanted));
    spec.fork = choice.fork;
  }
  if (required && !choice.fork)
    return absl::FailedPreconditionError(Cat("zygote.cri-sock.io is `required`: ", choice.reason));

  ASSIGN_OR_RETURN(sock::runtime::ContainerInfo info, runtime_->CreateContainer(spec));
  absl::Cleanup drop_container = [&] { runtime_->RemoveContainer(record.id).IgnoreError(); };
  if (choice.fork) {
    zygotes->Tell(choice, record.id, info.not_forked);
    choice.reason = info.not_forked;
    if (required && !info.forked)
      return absl::FailedPreconditionError(Cat("zygote.cri-sock.io is `required`: ", choice.reason));
  }
  if (sock) zygotes->Watch(choice, record.id, info.pid);
  record.zygote = choice.key;
  record.not_forked = choice.reason;
  record.user.set_uid(info.user.uid);
  record.user.set_gid(info.user.gid);
  for (uint32_t gid : info.user.additional_gids) record.user.add_supplemental_groups(gid);
  std::move(drop_container).Cancel();
  std::move(drop_snapshot).Cancel();
  return absl::OkStatus();
}

absl::Status Cri::CreateContainer(const api::CreateContainerRequest& request,
                                  api::CreateContainerResponse* response) {
  const api::ContainerConfig& config = request.config();
  if (config.metadata().name().empty()) {
    return absl::InvalidArgumentError("config.metadata.name is empty");
  }
  if (config.image().image().empty()) return absl::InvalidArgumentError("config.image.image is empty");
  ASSIGN_OR_RETURN(SandboxPtr sandbox, sandboxes_.Find(request.pod_sandbox_id()));
  std::shared_lock op(sandbox->op);
  auto pod = sandbox->Get();
  if (pod->state() != api::SANDBOX_READY) {
    return absl::FailedPreconditionError(Cat("sandbox `", pod->id, "` is not ready"));
  }

  ContainerRecord record;
  record.sandbox_id = pod->id;
  record.config = config;
  const std::string name = record.Name();
  if (std::string first = containers_.Reserve(name); !first.empty()) {
    auto found = containers_.Find(first);
    if (found.ok() && (*found)->Get()->state() == api::CONTAINER_CREATED &&
        google::protobuf::util::MessageDifferencer::Equals((*found)->Get()->config, config)) {
      response->set_container_id(first);
      return absl::OkStatus();
    }
    return absl::AlreadyExistsError(Cat("container `", name, "` exists already as `", first, "`"));
  }
  absl::Cleanup release = [&] { containers_.Release(name); };

  ASSIGN_OR_RETURN(oci::Image image, FindImage(*images_, config.image().image(), "config.image.image"));
  record.image_id = image.id;
  record.image_ref = image.repo_digests.empty() ? image.id : image.repo_digests.front();
  ASSIGN_OR_RETURN(int asked, FromApiSignal(config.stop_signal()));
  if (asked) {
    record.stop_signal = asked;
  } else {
    ASSIGN_OR_RETURN_AS(record.stop_signal, ParseSignal(image.config.stop_signal), "image's stop signal");
  }

  record.id = NewId();
  const bool own_users = !pod->info.uid_mappings.empty();
  absl::Status made = MakeContainer(*pod, config, image, own_users, record);
  if (own_users && absl::IsInvalidArgument(made)) {
    // What its user namespace can't give it, the node's can; or both tell what is wrong with it.
    const std::string reason = std::string(made.message());
    made = MakeContainer(*pod, config, image, false, record);
    if (made.ok()) record.not_forked = Cat("it runs in the node's user namespace: ", reason);
  }
  RETURN_IF_ERROR(made);
  absl::Cleanup drop_snapshot = [&] { RemoveSnapshots(*images_, record.id, config).IgnoreError(); };
  absl::Cleanup drop_container = [&] { runtime_->RemoveContainer(record.id).IgnoreError(); };
  record.created_at = NowNs();
  ASSIGN_OR_RETURN(ContainerPtr added, containers_.Add(record));
  std::move(drop_container).Cancel();
  std::move(drop_snapshot).Cancel();
  std::move(release).Cancel();
  Emit(api::CONTAINER_CREATED_EVENT, added->id, record.sandbox_id);
  // An exit before it was in the table was told to nobody.
  if (auto state = runtime_->State(added->id); state.exit) RecordExit(*added, *state.exit).IgnoreError();
  response->set_container_id(added->id);
  return absl::OkStatus();
}

}  // namespace sock::cri
