#include "cri/convert.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>

#include "cri/cdi.h"
#include "oci/default_paths.h"
#include "runtime/base/fd.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/container/seccomp_profile.h"

// Old clients still send the deprecated textual profile fields.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace sock::cri {
namespace {

using Names = std::vector<std::string>;
using sock::runtime::ContainerSpec;
using sock::runtime::SandboxSpec;

constexpr const char* kUserns = "linux.security_context.namespace_options.userns_options";

// capabilities(7), in the order of their numbers.
const Names& AllCapabilities() {
  static const Names all = {"CAP_CHOWN",
                            "CAP_DAC_OVERRIDE",
                            "CAP_DAC_READ_SEARCH",
                            "CAP_FOWNER",
                            "CAP_FSETID",
                            "CAP_KILL",
                            "CAP_SETGID",
                            "CAP_SETUID",
                            "CAP_SETPCAP",
                            "CAP_LINUX_IMMUTABLE",
                            "CAP_NET_BIND_SERVICE",
                            "CAP_NET_BROADCAST",
                            "CAP_NET_ADMIN",
                            "CAP_NET_RAW",
                            "CAP_IPC_LOCK",
                            "CAP_IPC_OWNER",
                            "CAP_SYS_MODULE",
                            "CAP_SYS_RAWIO",
                            "CAP_SYS_CHROOT",
                            "CAP_SYS_PTRACE",
                            "CAP_SYS_PACCT",
                            "CAP_SYS_ADMIN",
                            "CAP_SYS_BOOT",
                            "CAP_SYS_NICE",
                            "CAP_SYS_RESOURCE",
                            "CAP_SYS_TIME",
                            "CAP_SYS_TTY_CONFIG",
                            "CAP_MKNOD",
                            "CAP_LEASE",
                            "CAP_AUDIT_WRITE",
                            "CAP_AUDIT_CONTROL",
                            "CAP_SETFCAP",
                            "CAP_MAC_OVERRIDE",
                            "CAP_MAC_ADMIN",
                            "CAP_SYSLOG",
                            "CAP_WAKE_ALARM",
                            "CAP_BLOCK_SUSPEND",
                            "CAP_AUDIT_READ",
                            "CAP_PERFMON",
                            "CAP_BPF",
                            "CAP_CHECKPOINT_RESTORE"};
  return all;
}

const std::set<std::string> kDefaultCapabilities = {
    "CAP_CHOWN",   "CAP_DAC_OVERRIDE", "CAP_FSETID",           "CAP_FOWNER",
    "CAP_MKNOD",   "CAP_NET_RAW",      "CAP_SETGID",           "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP",      "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT",
    "CAP_KILL",    "CAP_AUDIT_WRITE"};

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

absl::StatusOr<std::set<std::string>> ReadCapabilities(
    const google::protobuf::RepeatedPtrField<std::string>& names, const std::string& field) {
  std::set<std::string> set;
  const Names& all = AllCapabilities();
  for (std::string name : names) {
    for (char& c : name) c = c >= 'a' && c <= 'z' ? c - 32 : c;
    if (name == "ALL" || name == "CAP_ALL") {
      set.insert(all.begin(), all.end());
      continue;
    }
    if (!name.starts_with("CAP_")) name = "CAP_" + name;
    if (std::find(all.begin(), all.end(), name) == all.end())
      return Invalid(field, Cat("names an unknown capability `", name, "`"));
    set.insert(name);
  }
  return set;
}

absl::Status SetCapabilities(const api::LinuxContainerSecurityContext& security, oci::Capabilities* out) {
  const std::string field = "linux.security_context.capabilities.";
  const api::Capability& asked = security.capabilities();
  ASSIGN_OR_RETURN(auto add, ReadCapabilities(asked.add_capabilities(), field + "add_capabilities"));
  ASSIGN_OR_RETURN(auto drop, ReadCapabilities(asked.drop_capabilities(), field + "drop_capabilities"));
  ASSIGN_OR_RETURN(auto ambient,
                   ReadCapabilities(asked.add_ambient_capabilities(), field + "add_ambient_capabilities"));
  std::set<std::string> held = kDefaultCapabilities;
  auto is_all = [](const auto& names) {
    return std::any_of(names.begin(), names.end(),
                       [](const std::string& n) { return n == "ALL" || n == "all" || n == "CAP_ALL"; });
  };
  if (security.privileged()) {
    held = {AllCapabilities().begin(), AllCapabilities().end()};
  } else {
    // "ALL" first, then single names: {add: ALL, drop: X} and {drop: ALL, add: X} mean what they say.
    if (is_all(asked.add_capabilities())) held.insert(add.begin(), add.end());
    if (is_all(asked.drop_capabilities())) held.clear();
    if (!is_all(asked.add_capabilities()) || is_all(asked.drop_capabilities()))
      held.insert(add.begin(), add.end());
    if (!is_all(asked.drop_capabilities()))
      for (const std::string& name : drop) held.erase(name);
  }
  // An ambient capability must be inheritable and permitted too (capabilities(7)).
  held.insert(ambient.begin(), ambient.end());
  for (const std::string& name : AllCapabilities()) {
    if (held.contains(name)) out->bounding.push_back(name);
    if (ambient.contains(name)) out->ambient.push_back(name);
  }
  out->effective = out->permitted = out->bounding;
  out->inheritable = out->ambient;
  return absl::OkStatus();
}

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

absl::Status SetUser(const api::LinuxContainerSecurityContext& security, const oci::ImageConfig& image,
                     sock::runtime::UserRequest* user) {
  const std::string field = "linux.security_context.";
  auto id = [&](int64_t value, const char* name) -> absl::StatusOr<uint32_t> {
    if (value < 0 || value > INT32_MAX) return Invalid(field + name, Cat(value, " is out of range"));
    return static_cast<uint32_t>(value);
  };
  if (security.has_run_as_user() && !security.run_as_username().empty())
    return Invalid(field + "run_as_username", "and run_as_user are both set");
  if (security.has_run_as_group() && !security.has_run_as_user() && security.run_as_username().empty())
    return Invalid(field + "run_as_group", "is set without run_as_user or run_as_username");
  if (security.has_run_as_user()) {
    ASSIGN_OR_RETURN(user->uid, id(security.run_as_user().value(), "run_as_user"));
  } else if (!security.run_as_username().empty()) {
    user->username = security.run_as_username();
  } else {
    user->username = image.user;
  }
  if (security.has_run_as_group()) {
    ASSIGN_OR_RETURN(user->gid, id(security.run_as_group().value(), "run_as_group"));
  }
  for (int64_t group : security.supplemental_groups()) {
    ASSIGN_OR_RETURN(uint32_t gid, id(group, "supplemental_groups"));
    user->supplemental_groups.push_back(gid);
  }
  user->strict_groups = security.supplemental_groups_policy() == api::Strict;
  return absl::OkStatus();
}

absl::Status SetSeccomp(const api::LinuxContainerSecurityContext& security, const ConvertContext& context,
                        oci::Spec* spec) {
  using api::SecurityProfile;
  const std::string field = "linux.security_context.seccomp";
  if (security.privileged()) return absl::OkStatus();
  std::string path;
  if (security.has_seccomp()) {
    const SecurityProfile& seccomp = security.seccomp();
    if (seccomp.profile_type() == SecurityProfile::Unconfined) return absl::OkStatus();
    if (seccomp.profile_type() == SecurityProfile::Localhost) {
      path = seccomp.localhost_ref();
      if (path.empty()) return Invalid(field + ".localhost_ref", "is empty");
    } else if (seccomp.profile_type() != SecurityProfile::RuntimeDefault) {
      return Invalid(field + ".profile_type", "is unknown");
    }
  } else {  // the older, textual field; "" is unconfined
    const std::string& text = security.seccomp_profile_path();
    if (text.empty() || text == "unconfined") return absl::OkStatus();
    if (text.starts_with("localhost/")) {
      path = text.substr(10);
    } else if (text != "runtime/default" && text != "docker/default") {
      return Invalid("linux.security_context.seccomp_profile_path", Cat("`", text, "` is unknown"));
    }
  }
  if (path.empty()) {
    spec->seccomp = sock::runtime::DefaultSeccompProfile(spec->process.capabilities.bounding);
    return absl::OkStatus();
  }
  if (path[0] != '/') {
    if (context.seccomp_profile_root.empty()) return CheckPath(path, field + ".localhost_ref");
    path = context.seccomp_profile_root + "/" + path;
  }
  ASSIGN_OR_RETURN_AS(std::string json, ReadFile(path, 16 << 20), field);
  ASSIGN_OR_RETURN_AS(spec->seccomp,
                      sock::runtime::ParseSeccompProfile(json, spec->process.capabilities.bounding),
                      Cat(field, ": `", path, "`"));
  return absl::OkStatus();
}

// No AppArmor profile of ours exists, so the default is the kernel's: unconfined.
absl::Status SetAppArmor(const api::LinuxContainerSecurityContext& security, std::string* profile) {
  const std::string& text = security.apparmor_profile();
  const bool localhost = security.has_apparmor()
                             ? security.apparmor().profile_type() == api::SecurityProfile::Localhost
                             : text.starts_with("localhost/");
  if (localhost && !security.privileged()) {
    *profile = security.has_apparmor() ? security.apparmor().localhost_ref() : text;
    if (profile->starts_with("localhost/")) profile->erase(0, 10);
    if (profile->empty() || profile->find_first_of(std::string(" \n\0", 3)) != std::string::npos)
      return Invalid("linux.security_context.apparmor.localhost_ref",
                     Cat("`", *profile, "` is not a profile's name"));
    absl::StatusOr<std::string> enabled = ReadFile("/sys/module/apparmor/parameters/enabled");
    if (!enabled.ok() || !enabled->starts_with("Y"))
      return absl::FailedPreconditionError(Cat("linux.security_context.apparmor: profile `", *profile,
                                               "` cannot be applied: this kernel runs without AppArmor"));
  }
  if (!security.has_apparmor() && !localhost && !text.empty() && text != "runtime/default" &&
      text != "unconfined")
    return Invalid("linux.security_context.apparmor_profile", Cat("`", text, "` is unknown"));
  return absl::OkStatus();
}

// Without SELinux its options mean nothing, as everywhere in Kubernetes.
absl::Status CheckSelinux(const api::SELinuxOption& options) {
  const bool asked = !(options.user().empty() && options.role().empty() && options.type().empty() &&
                       options.level().empty());
  if (!asked || access("/sys/fs/selinux/enforce", F_OK) != 0) return absl::OkStatus();
  return absl::UnimplementedError("linux.security_context.selinux_options: labels are not supported");
}

void DefaultMounts(bool privileged, const ConvertContext& context, std::vector<oci::Mount>* out) {
  const std::string access = privileged ? "rw" : "ro";
  *out = {
      {"/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}},
      {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}},
      {"/dev/pts",
       "devpts",
       "devpts",
       {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
      {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}},
      {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", access}},
      {"/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", access}},
  };
  if (context.shm_dir.empty()) {
    out->push_back({"/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}});
  } else {
    out->push_back({"/dev/shm", "bind", context.shm_dir, {"rbind", "rprivate", "nosuid", "noexec", "nodev"}});
  }
}

// user_namespaces(7). Ranges may not overlap, on neither side.
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

// What the kernel tells a process of itself must not be forged: /proc takes another procfs and, of what lies
// below, files that hold figures for programs (lxcfs fills them in), as with runc.
absl::Status CheckBelowProc(const api::Mount& in, const std::string& destination, const std::string& field) {
  static const std::set<std::string> figures = {"/proc/cpuinfo",
                                                "/proc/diskstats",
                                                "/proc/loadavg",
                                                "/proc/meminfo",
                                                "/proc/slabinfo",
                                                "/proc/stat",
                                                "/proc/swaps",
                                                "/proc/uptime",
                                                "/proc/sys/crypto/fips_enabled",
                                                "/proc/sys/kernel/ns_last_pid"};
  if (destination != "/proc" && !destination.starts_with("/proc/")) return absl::OkStatus();
  if (figures.contains(destination)) return absl::OkStatus();
  if (destination != "/proc")
    return Invalid(field + ".container_path", Cat("`", in.container_path(), "` lies below /proc"));
  const std::string other = "is /proc, but the volume is no procfs";
  if (!in.image().image().empty()) return Invalid(field + ".container_path", other);
  ASSIGN_OR_RETURN_AS(Fd source, OpenPath(in.host_path(), O_PATH), field + ".host_path");
  struct statfs fs;
  if (fstatfs(source.get(), &fs) < 0) return ErrnoStatus(errno, Cat("stat `", in.host_path(), "`"));
  if (fs.f_type != PROC_SUPER_MAGIC) return Invalid(field + ".container_path", other);
  return absl::OkStatus();
}

absl::StatusOr<oci::Mount> ToMount(const api::Mount& in, const std::string& field) {
  const std::string& image = in.image().image();
  RETURN_IF_ERROR(CheckPath(in.container_path(), field + ".container_path"));
  if (image.empty()) {
    RETURN_IF_ERROR(CheckPath(in.host_path(), field + ".host_path"));
    if (!in.image_sub_path().empty()) return Invalid(field + ".image_sub_path", "is set without an image");
  } else {
    if (!in.host_path().empty()) return Invalid(field + ".host_path", "and image are both set");
    if (in.propagation() == api::PROPAGATION_BIDIRECTIONAL)
      return Invalid(field + ".propagation", "is BIDIRECTIONAL, but image is set");
    if (!in.readonly()) return Invalid(field + ".readonly", "is not set, but an image's volume is read-only");
    if (in.image_sub_path().find('\0') != std::string::npos)
      return Invalid(field + ".image_sub_path", "contains a zero byte");
  }
  oci::Mount out{Clean(in.container_path()), "bind", in.host_path(), {"rbind"}, {}, {}};
  if (in.uidmappings_size() || in.gidmappings_size()) {
    ASSIGN_OR_RETURN(out.uid_mappings, ReadMappings(in.uidmappings(), field + ".uidMappings"));
    ASSIGN_OR_RETURN(out.gid_mappings, ReadMappings(in.gidmappings(), field + ".gidMappings"));
  }
  if (out.destination == "/") return Invalid(field + ".container_path", "is the root");
  RETURN_IF_ERROR(CheckBelowProc(in, out.destination, field));
  switch (in.propagation()) {
    case api::PROPAGATION_PRIVATE:
      out.options.push_back("rprivate");
      break;
    case api::PROPAGATION_HOST_TO_CONTAINER:
      out.options.push_back("rslave");
      break;
    case api::PROPAGATION_BIDIRECTIONAL:
      out.options.push_back("rshared");
      break;
    default:
      return Invalid(field + ".propagation", Cat(static_cast<int>(in.propagation()), " is unknown"));
  }
  if (in.recursive_read_only()) {
    if (!in.readonly()) return Invalid(field + ".recursive_read_only", "is set without readonly");
    if (in.propagation() != api::PROPAGATION_PRIVATE)
      return Invalid(field + ".recursive_read_only", "is set with a propagation other than private");
    out.options.push_back("rro");
  } else if (in.readonly()) {  // never "rw": it would lift the read-only flag of the host's own mount
    out.options.push_back("ro");
  }
  if (!image.empty()) {  // always read-only; its layers are filled in where images are known
    out.type = "overlay";
    out.source = image;
    out.options = {"ro"};
    if (!in.image_sub_path().empty()) out.options.push_back("subpath=" + in.image_sub_path());
  }
  for (const std::string& option : in.mount_options()) {
    if (option != "noexec" && option != "nodev" && option != "nosuid")
      return Invalid(field + ".mount_options", Cat("`", option, "` is not noexec, nodev or nosuid"));
    out.options.push_back(option);
  }
  return out;
}

absl::Status SetMounts(const api::ContainerConfig& config, const ConvertContext& context, oci::Spec* spec) {
  std::vector<oci::Mount> asked;
  std::set<std::string> destinations;
  for (int i = 0; i < config.mounts_size(); ++i) {
    ASSIGN_OR_RETURN(oci::Mount mount, ToMount(config.mounts(i), Cat("mounts[", i, "]")));
    destinations.insert(mount.destination);
    asked.push_back(std::move(mount));
  }
  std::vector<oci::Mount> made;
  DefaultMounts(config.linux().security_context().privileged(), context, &made);
  Names options = {"rbind", "rprivate"};
  if (spec->root_readonly) options.push_back("ro");
  for (auto& [path, source] :
       {std::pair<const char*, const std::string&>{"/etc/resolv.conf", context.resolv_conf},
        {"/etc/hosts", context.hosts},
        {"/etc/hostname", context.hostname_file}})
    if (!source.empty()) made.push_back({path, "bind", source, options});
  for (oci::Mount& mount : made)
    if (!destinations.contains(mount.destination)) spec->mounts.push_back(std::move(mount));
  // A parent before what lies in it, else in the order given.
  std::stable_sort(asked.begin(), asked.end(), [](const oci::Mount& a, const oci::Mount& b) {
    return std::count(a.destination.begin(), a.destination.end(), '/') <
           std::count(b.destination.begin(), b.destination.end(), '/');
  });
  for (oci::Mount& mount : asked) spec->mounts.push_back(std::move(mount));
  return absl::OkStatus();
}

absl::StatusOr<oci::Device> ReadDevice(const std::string& host_path) {
  struct stat st;
  if (stat(host_path.c_str(), &st) < 0) {
    absl::Status status = ErrnoStatus(errno, Cat("stat device `", host_path, "`"));
    return errno == ENOENT || errno == ENOTDIR ? WithCode(status, absl::StatusCode::kNotFound) : status;
  }
  oci::Device device;
  if (S_ISCHR(st.st_mode)) {
    device.type = 'c';
  } else if (S_ISBLK(st.st_mode)) {
    device.type = 'b';
  } else {
    return absl::InvalidArgumentError(Cat("`", host_path, "` is not a device"));
  }
  device.path = device.host_path = host_path;
  device.major = major(st.st_rdev);
  device.minor = minor(st.st_rdev);
  device.file_mode = st.st_mode & 0777;
  device.uid = st.st_uid;
  device.gid = st.st_gid;
  return device;
}

// Device nodes that /dev gets from us or that belong to the host's terminals and mounts.
bool OwnDevice(const std::string& path) {
  static const std::set<std::string> own = {"/dev/console", "/dev/null",    "/dev/zero", "/dev/full",
                                            "/dev/random",  "/dev/urandom", "/dev/tty",  "/dev/ptmx"};
  return own.contains(path) || path.starts_with("/dev/pts/") || path.starts_with("/dev/shm/") ||
         path.starts_with("/dev/mqueue/");
}

void AllHostDevices(oci::Spec* spec) {
  std::error_code error;
  using Walk = std::filesystem::recursive_directory_iterator;
  for (Walk it("/dev", std::filesystem::directory_options::skip_permission_denied, error), end;
       !error && it != end; it.increment(error)) {
    std::error_code ignored;
    const auto type = it->symlink_status(ignored).type();
    if (type != std::filesystem::file_type::character && type != std::filesystem::file_type::block) continue;
    const std::string path = it->path().string();
    if (OwnDevice(path)) continue;
    if (auto device = ReadDevice(path); device.ok()) spec->devices.push_back(*std::move(device));
  }
}

absl::Status SetDevices(const api::ContainerConfig& config, oci::Spec* spec) {
  auto& rules = spec->resources.devices;
  if (config.linux().security_context().privileged()) {
    rules = {{true, 'a', {}, {}, "rwm"}};
    AllHostDevices(spec);
  } else {
    // Nothing, then: making nodes; null, zero, full, tty, console, ptmx, random, urandom; pseudo terminals.
    rules = {{false, 'a', {}, {}, "rwm"}, {true, 'c', {}, {}, "m"}, {true, 'b', {}, {}, "m"},
             {true, 'c', 1, 3, "rwm"},    {true, 'c', 1, 5, "rwm"}, {true, 'c', 1, 7, "rwm"},
             {true, 'c', 5, 0, "rwm"},    {true, 'c', 5, 1, "rwm"}, {true, 'c', 5, 2, "rwm"},
             {true, 'c', 1, 8, "rwm"},    {true, 'c', 1, 9, "rwm"}, {true, 'c', 136, {}, "rwm"}};
  }
  for (int i = 0; i < config.devices_size(); ++i) {
    const api::Device& in = config.devices(i);
    const std::string field = Cat("devices[", i, "]");
    RETURN_IF_ERROR(CheckPath(in.host_path(), field + ".host_path"));
    const std::string path = Clean(in.container_path().empty() ? in.host_path() : in.container_path());
    RETURN_IF_ERROR(CheckPath(path, field + ".container_path"));
    const std::string access = in.permissions().empty() ? "rwm" : in.permissions();
    if (access.find_first_not_of("rwm") != std::string::npos || access.size() > 3)
      return Invalid(field + ".permissions", Cat("`", access, "` is not of r, w and m"));
    ASSIGN_OR_RETURN_AS(oci::Device device, ReadDevice(in.host_path()), field + ".host_path");
    device.path = path;
    rules.push_back({true, device.type, device.major, device.minor, access});
    std::erase_if(spec->devices, [&](const oci::Device& known) { return known.path == path; });
    spec->devices.push_back(std::move(device));
  }
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

uint32_t RootId(const google::protobuf::RepeatedPtrField<api::IDMapping>& mappings) {
  for (const api::IDMapping& one : mappings)
    if (one.container_id() == 0) return one.host_id();
  return 0;
}

absl::StatusOr<SandboxSpec> ToSandboxSpec(const std::string& id, const api::PodSandboxConfig& config,
                                          const std::string& /*runtime_handler*/) {
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
  Names cdi;
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
