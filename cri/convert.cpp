#include "cri/convert.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "cri/cdi.h"
#include "cri/convert_parts.h"
#include "oci/default_paths.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::cri {
namespace {

using sock::runtime::ContainerSpec;
using sock::runtime::SandboxSpec;

constexpr const char* kUserns = "linux.security_context.namespace_options.userns_options";

absl::Status SetProcess(const api::ContainerConfig& config, const oci::ImageConfig& image,
                        oci::Process* process) {
  if (config.command_size()) {
    process->args.assign(config.command().begin(), config.command().end());
    process->args.insert(process->args.end(), config.args().begin(), config.args().end());
  } else {
    process->args = image.entrypoint;
    if (config.args_size()) {
      process->args.insert(process->args.end(), config.args().begin(), config.args().end());
    } else {
      process->args.insert(process->args.end(), image.cmd.begin(), image.cmd.end());
    }
  }
  if (process->args.empty() || process->args[0].empty())
    return Invalid("command", "is empty and the image names no program");

  auto set_env = [&](const std::string& entry) {
    const std::string name = entry.substr(0, entry.find('=')) + "=";
    for (std::string& known : process->env)
      if (known.starts_with(name)) {
        known = entry;
        return;
      }
    process->env.push_back(entry);
  };
  set_env("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
  if (config.tty()) set_env("TERM=xterm");
  for (const std::string& entry : image.env)
    if (entry.find('=') != std::string::npos) set_env(entry);
  for (const api::KeyValue& env : config.envs()) {
    if (env.key().empty() || env.key().find('=') != std::string::npos)
      return Invalid("envs.key", Cat("`", env.key(), "` is not a variable's name"));
    set_env(env.key() + "=" + env.value());
  }
  for (const auto* list : {&process->args, &process->env})
    for (const std::string& text : *list)
      if (text.find('\0') != std::string::npos)
        return Invalid("command, args or envs", "contains a zero byte");

  process->cwd = !config.working_dir().empty() ? config.working_dir()
                 : !image.working_dir.empty()  ? image.working_dir
                                               : "/";
  RETURN_IF_ERROR(CheckPath(process->cwd, "working_dir"));
  process->terminal = config.tty();
  return absl::OkStatus();
}

struct Namespaces {
  bool host_network, host_ipc, host_pid, shared_pid;
  std::vector<oci::IdMapping> uids, gids;  // empty: the node's user namespace
};

absl::Status ReadUserns(const api::NamespaceOption& options, Namespaces* out) {
  const api::UserNamespace& userns = options.userns_options();
  if (!options.has_userns_options() || userns.mode() == api::NODE) {
    if (userns.uids_size() || userns.gids_size())
      return Invalid(kUserns, "has mappings, but its mode is NODE");
    return absl::OkStatus();
  }
  if (userns.mode() != api::POD) return Invalid(Cat(kUserns, ".mode"), "is neither POD nor NODE");
  ASSIGN_OR_RETURN(out->uids, ReadMappings(userns.uids(), Cat(kUserns, ".uids")));
  ASSIGN_OR_RETURN(out->gids, ReadMappings(userns.gids(), Cat(kUserns, ".gids")));
  for (const auto& [ids, name] : {std::pair{&out->uids, ".uids"}, {&out->gids, ".gids"}})
    if (std::none_of(ids->begin(), ids->end(), [](const auto& one) { return one.container_id == 0; }))
      return Invalid(Cat(kUserns, name), "does not map the id 0");
  for (const auto& [host, name] :
       {std::pair{out->host_network, "network"}, {out->host_ipc, "ipc"}, {out->host_pid, "pid"}})
    if (host)
      return Invalid(Cat("linux.security_context.namespace_options.", name),
                     Cat("is NODE, but ", kUserns, " is POD"));
  return absl::OkStatus();
}

absl::StatusOr<Namespaces> ReadNamespaces(const api::NamespaceOption& options) {
  const std::string field = "linux.security_context.namespace_options.";
  if (options.network() != api::POD && options.network() != api::NODE)
    return Invalid(field + "network", "is neither POD nor NODE");
  if (options.ipc() != api::POD && options.ipc() != api::NODE)
    return Invalid(field + "ipc", "is neither POD nor NODE");
  Namespaces out{options.network() == api::NODE,
                 options.ipc() == api::NODE,
                 options.pid() == api::NODE,
                 options.pid() == api::POD,
                 {},
                 {}};
  RETURN_IF_ERROR(ReadUserns(options, &out));
  return out;
}

absl::Status CheckSysctl(const std::string& given, const Namespaces& namespaces) {
  std::string name = given;
  // sysctl(8): with slashes as separators, dots belong to names.
  if (auto at = name.find_first_of("./"); at != std::string::npos && name[at] == '/')
    for (char& c : name) c = c == '/' ? '.' : c == '.' ? '/' : c;
  const std::string field = Cat("linux.sysctls[`", given, "`]");
  static const std::set<std::string> ipc = {"kernel.msgmax", "kernel.msgmnb",         "kernel.msgmni",
                                            "kernel.sem",    "kernel.shmall",         "kernel.shmmax",
                                            "kernel.shmmni", "kernel.shm_rmid_forced"};
  if (given.find("..") != std::string::npos || given.find('\0') != std::string::npos)
    return Invalid(field, "is not a sysctl's name");
  if (name.starts_with("net.")) {
    if (namespaces.host_network) return Invalid(field, "would change the host's network");
    return absl::OkStatus();
  }
  if (ipc.contains(name) || name.starts_with("fs.mqueue.")) {
    if (namespaces.host_ipc) return Invalid(field, "would change the host's IPC");
    return absl::OkStatus();
  }
  return Invalid(field, "is not namespaced");
}

}  // namespace

absl::Status Invalid(const std::string& field, const std::string& reason) {
  return absl::InvalidArgumentError(Cat(field, " ", reason));
}

absl::Status CheckPath(const std::string& path, const std::string& field) {
  if (path.empty()) return Invalid(field, "is empty");
  if (path[0] != '/') return Invalid(field, Cat("`", path, "` is not absolute"));
  if (path.find('\0') != std::string::npos) return Invalid(field, "contains a zero byte");
  return absl::OkStatus();
}

std::string Clean(const std::string& path) {
  std::string clean = std::filesystem::path(path).lexically_normal().string();
  if (clean.size() > 1 && clean.back() == '/') clean.pop_back();
  return clean;
}

absl::StatusOr<std::vector<oci::IdMapping>> ReadMappings(
    const google::protobuf::RepeatedPtrField<api::IDMapping>& in, const std::string& field) {
  constexpr int kMaxMappings = 340;  // of the kernel
  if (in.empty()) return Invalid(field, "is empty");
  if (in.size() > kMaxMappings) return Invalid(field, "has over 340 entries");
  std::vector<oci::IdMapping> out;
  for (const api::IDMapping& one : in) {
    const uint64_t length = one.length();
    if (length == 0) return Invalid(field + ".length", "is 0");
    if (one.container_id() + length > UINT32_MAX || one.host_id() + length > UINT32_MAX)
      return Invalid(field, "goes beyond the largest id");
    for (const oci::IdMapping& other : out) {
      auto overlap = [&](uint64_t a, uint64_t b) { return a < b + other.size && b < a + length; };
      if (overlap(one.container_id(), other.container_id) || overlap(one.host_id(), other.host_id))
        return Invalid(field, "has ranges that overlap");
    }
    out.push_back({one.container_id(), one.host_id(), one.length()});
  }
  return out;
}

uint32_t RootId(const google::protobuf::RepeatedPtrField<api::IDMapping>& mappings) {
  for (const api::IDMapping& one : mappings)
    if (one.container_id() == 0) return one.host_id();
  return 0;
}

absl::StatusOr<SandboxSpec> ToSandboxSpec(const std::string& id, const api::PodSandboxConfig& config) {
  const auto& security = config.linux().security_context();
  ASSIGN_OR_RETURN(Namespaces namespaces, ReadNamespaces(security.namespace_options()));
  if (security.has_run_as_group() && !security.has_run_as_user())
    return Invalid("linux.security_context.run_as_group", "is set without run_as_user");
  if (security.namespace_options().pid() == api::TARGET)
    return Invalid("linux.security_context.namespace_options.pid", "is TARGET, which is for containers");
  SandboxSpec spec;
  spec.id = id;
  spec.hostname = config.hostname();
  if (spec.hostname.size() > 64) return Invalid("hostname", "is longer than 64 bytes");
  spec.host_network = namespaces.host_network;
  spec.host_ipc = namespaces.host_ipc;
  spec.host_pid = namespaces.host_pid;
  spec.shared_pid = namespaces.shared_pid;
  spec.uid_mappings = namespaces.uids;
  spec.gid_mappings = namespaces.gids;
  if (!spec.uid_mappings.empty() && security.privileged())
    return Invalid("linux.security_context.privileged", Cat("is set, but ", kUserns, " is POD"));
  for (const auto& [name, value] : config.linux().sysctls()) {
    RETURN_IF_ERROR(CheckSysctl(name, namespaces));
    spec.sysctls[name] = value;
  }
  if (namespaces.host_network) return spec;
  sock::runtime::PodNetworkRequest network;
  network.sandbox_id = id;
  network.name = config.metadata().name();
  network.namespace_ = config.metadata().namespace_();
  network.uid = config.metadata().uid();
  network.labels = {config.labels().begin(), config.labels().end()};
  network.annotations = {config.annotations().begin(), config.annotations().end()};
  for (int i = 0; i < config.port_mappings_size(); ++i) {
    const api::PortMapping& in = config.port_mappings(i);
    const std::string field = Cat("port_mappings[", i, "].");
    if (in.host_port() == 0) continue;  // none on the host
    if (in.host_port() < 0 || in.host_port() > 65535) return Invalid(field + "host_port", "is out of range");
    if (in.container_port() < 1 || in.container_port() > 65535)
      return Invalid(field + "container_port", "is out of range");
    if (!api::Protocol_IsValid(in.protocol())) return Invalid(field + "protocol", "is unknown");
    const char* protocol = in.protocol() == api::TCP ? "tcp" : in.protocol() == api::UDP ? "udp" : "sctp";
    network.ports.push_back({protocol, in.container_port(), in.host_port(), in.host_ip()});
  }
  spec.network = std::move(network);
  return spec;
}

absl::StatusOr<oci::Resources> ToResources(const api::LinuxContainerResources& in) {
  const std::string field = "linux.resources.";
  oci::Resources out;
  if (in.cpu_period() < 0) return Invalid(field + "cpu_period", "is negative");
  if (in.cpu_shares() < 0) return Invalid(field + "cpu_shares", "is negative");
  if (in.memory_limit_in_bytes() < -1) return Invalid(field + "memory_limit_in_bytes", "is negative");
  if (in.memory_swap_limit_in_bytes() < -1)
    return Invalid(field + "memory_swap_limit_in_bytes", "is negative");
  if (in.oom_score_adj() < -1000 || in.oom_score_adj() > 1000)
    return Invalid(field + "oom_score_adj", "is not within -1000 and 1000");
  if (in.cpu_period()) out.cpu_period = in.cpu_period();
  if (in.cpu_quota()) out.cpu_quota = in.cpu_quota();
  if (in.cpu_shares()) out.cpu_shares = in.cpu_shares();
  if (in.memory_limit_in_bytes()) out.memory_limit = in.memory_limit_in_bytes();
  if (in.memory_swap_limit_in_bytes()) out.memory_swap = in.memory_swap_limit_in_bytes();
  if (out.memory_swap.value_or(-1) >= 0 && *out.memory_swap < out.memory_limit.value_or(0))
    return Invalid(field + "memory_swap_limit_in_bytes", "is below memory_limit_in_bytes");
  for (const auto& [text, name] :
       {std::pair{&in.cpuset_cpus(), "cpuset_cpus"}, {&in.cpuset_mems(), "cpuset_mems"}})
    if (text->find_first_not_of("0123456789,- \n") != std::string::npos)
      return Invalid(field + name, Cat("`", *text, "` is not a list of numbers"));
  out.cpuset_cpus = in.cpuset_cpus();
  out.cpuset_mems = in.cpuset_mems();
  for (const api::HugepageLimit& limit : in.hugepage_limits()) {
    const std::string& size = limit.page_size();
    const size_t digits = size.find_first_not_of("0123456789");
    if (!digits || digits == std::string::npos ||
        (size.substr(digits) != "KB" && size.substr(digits) != "MB" && size.substr(digits) != "GB"))
      return Invalid(field + "hugepage_limits.page_size", Cat("`", size, "` is not a size"));
    out.hugepage_limits[size] = limit.limit();
  }
  for (const auto& [name, value] : in.unified()) {
    if (name.empty() || name.find('/') != std::string::npos || name.find('.') == std::string::npos)
      return Invalid(field + "unified", Cat("`", name, "` is not a cgroup file"));
    out.unified[name] = value;
  }
  return out;
}

absl::StatusOr<ContainerSpec> ToContainerSpec(const std::string& id, const std::string& sandbox_id,
                                              const api::ContainerConfig& config,
                                              const api::PodSandboxConfig& sandbox, const oci::Image& image,
                                              const oci::Rootfs& rootfs, const ConvertContext& context) {
  const auto& security = config.linux().security_context();
  const auto& pod_security = sandbox.linux().security_context();
  ContainerSpec out;
  out.id = id;
  out.sandbox_id = sandbox_id;
  out.rootfs = rootfs;
  oci::Spec& spec = out.spec;
  if (security.privileged() && !pod_security.privileged())
    return Invalid("linux.security_context.privileged", "is set, but the sandbox was not made for it");

  // Network and IPC are the sandbox's; PID may differ by container.
  ASSIGN_OR_RETURN(Namespaces pod, ReadNamespaces(pod_security.namespace_options()));
  const api::NamespaceOption& options =
      security.has_namespace_options() ? security.namespace_options() : pod_security.namespace_options();
  ASSIGN_OR_RETURN(Namespaces own, ReadNamespaces(options));
  out.host_network = pod.host_network;
  out.host_ipc = pod.host_ipc;
  out.host_pid = own.host_pid;
  out.shared_pid = own.shared_pid;
  if (own.uids != pod.uids || own.gids != pod.gids) return Invalid(kUserns, "is not that of the sandbox");
  spec.uid_mappings = pod.uids;
  spec.gid_mappings = pod.gids;
  if (options.pid() == api::TARGET) {
    if (options.target_id().empty())
      return Invalid("linux.security_context.namespace_options.target_id", "is empty");
    out.target_pid_container = options.target_id();
  }

  RETURN_IF_ERROR(SetProcess(config, image.config, &spec.process));
  RETURN_IF_ERROR(SetUser(security, image.config, &out.user));
  RETURN_IF_ERROR(SetCapabilities(security, &spec.process.capabilities));
  RETURN_IF_ERROR(SetSeccomp(security, context, &spec));
  RETURN_IF_ERROR(SetAppArmor(security, &spec.process.apparmor_profile));
  RETURN_IF_ERROR(CheckSelinux(security.selinux_options()));
  spec.process.no_new_privileges = security.no_new_privs();
  spec.root_readonly = security.readonly_rootfs();
  spec.hostname = sandbox.hostname();
  if (!security.privileged()) {
    spec.masked_paths.assign(security.masked_paths().begin(), security.masked_paths().end());
    spec.readonly_paths.assign(security.readonly_paths().begin(), security.readonly_paths().end());
    for (const auto& [paths, name] :
         {std::pair{&spec.masked_paths, "masked_paths"}, {&spec.readonly_paths, "readonly_paths"}})
      for (const std::string& path : *paths)
        RETURN_IF_ERROR(CheckPath(path, Cat("linux.security_context.", name)));
    // None given: over the wire that is the same as not set.
    if (spec.masked_paths.empty()) spec.masked_paths = oci::kMaskedPaths;
    if (spec.readonly_paths.empty()) spec.readonly_paths = oci::kReadonlyPaths;
  }
  ASSIGN_OR_RETURN(spec.resources, ToResources(config.linux().resources()));
  if (config.linux().has_resources())
    spec.process.oom_score_adj = static_cast<int>(config.linux().resources().oom_score_adj());
  RETURN_IF_ERROR(SetDevices(config, &spec));
  RETURN_IF_ERROR(SetMounts(config, context, &spec));
  for (oci::Mount& mount : spec.mounts)
    if (mount.type == "overlay") mount.uid_mappings = pod.uids, mount.gid_mappings = pod.gids;
  std::vector<std::string> cdi;
  for (const api::CDIDevice& device : config.cdi_devices()) cdi.push_back(device.name());
  RETURN_IF_ERROR(AddCdiDevices(cdi, kCdiDirs, &spec));
  // The copy of the mounts in a user namespace receives the host's, and gives none back
  // (mount_namespaces(7)).
  if (!spec.uid_mappings.empty())
    for (int i = 0; i < config.mounts_size(); ++i)
      if (config.mounts(i).propagation() == api::PROPAGATION_BIDIRECTIONAL)
        return Invalid(Cat("mounts[", i, "].propagation"), Cat("is BIDIRECTIONAL, but ", kUserns, " is POD"));
  spec.cgroups_path = context.cgroup_path;
  spec.annotations = {config.annotations().begin(), config.annotations().end()};

  out.stdin_open = config.stdin();
  out.stdin_once = config.stdin_once();
  if (!config.log_path().empty() && !sandbox.log_directory().empty()) {
    RETURN_IF_ERROR(CheckPath(sandbox.log_directory(), "log_directory"));
    out.log_path = Clean(sandbox.log_directory() + "/" + config.log_path());
    if (!out.log_path.starts_with(Clean(sandbox.log_directory()) + "/"))
      return Invalid("log_path", Cat("`", config.log_path(), "` leaves the log directory"));
  }
  return out;
}

}  // namespace sock::cri
