#include <unistd.h>

#include <algorithm>
#include <set>

#include "cri/convert_parts.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/container/seccomp_profile.h"

// Old clients still send the deprecated textual profile fields.
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace sock::cri {
namespace {

using Names = std::vector<std::string>;

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

}  // namespace

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
  ASSIGN_OR_RETURN_AS(oci::Seccomp profile,
                      sock::runtime::ParseSeccompProfile(json, spec->process.capabilities.bounding),
                      Cat(field, ": `", path, "`"));
  spec->seccomp = std::make_shared<oci::Seccomp>(std::move(profile));
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

}  // namespace sock::cri
