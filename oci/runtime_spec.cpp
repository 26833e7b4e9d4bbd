#include "oci/runtime_spec.h"

#include <nlohmann/json.hpp>

#include "runtime/base/text.h"

namespace sock::oci {
namespace {

using nlohmann::json;

json Mappings(const std::vector<IdMapping>& mappings) {
  json list = json::array();
  for (const auto& m : mappings) {
    list.push_back({{"containerID", m.container_id}, {"hostID", m.host_id}, {"size", m.size}});
  }
  return list;
}

template <typename T>
void Put(json& object, const char* key, const T& value) {
  if (!value.empty()) object[key] = value;
}

template <typename T>
void PutOptional(json& object, const char* key, const std::optional<T>& value) {
  if (value) object[key] = *value;
}

json ToJson(const Process& p) {
  json user = {{"uid", p.user.uid}, {"gid", p.user.gid}};
  Put(user, "additionalGids", p.user.additional_gids);
  PutOptional(user, "umask", p.user.umask);
  json out = {{"terminal", p.terminal},
              {"user", std::move(user)},
              {"args", p.args},
              {"env", p.env},
              {"cwd", p.cwd},
              {"noNewPrivileges", p.no_new_privileges},
              {"capabilities",
               {{"bounding", p.capabilities.bounding},
                {"effective", p.capabilities.effective},
                {"inheritable", p.capabilities.inheritable},
                {"permitted", p.capabilities.permitted},
                {"ambient", p.capabilities.ambient}}}};
  for (const auto& r : p.rlimits) {
    out["rlimits"].push_back({{"type", r.type}, {"soft", r.soft}, {"hard", r.hard}});
  }
  Put(out, "apparmorProfile", p.apparmor_profile);
  Put(out, "selinuxLabel", p.selinux_label);
  PutOptional(out, "oomScoreAdj", p.oom_score_adj);
  return out;
}

json ToJson(const Resources& r) {
  json out = json::object();
  for (const auto& d : r.devices) {
    json rule = {{"allow", d.allow}, {"type", std::string(1, d.type)}, {"access", d.access}};
    PutOptional(rule, "major", d.major);
    PutOptional(rule, "minor", d.minor);
    out["devices"].push_back(std::move(rule));
  }
  json memory = json::object(), cpu = json::object();
  PutOptional(memory, "limit", r.memory_limit);
  PutOptional(memory, "swap", r.memory_swap);
  PutOptional(cpu, "shares", r.cpu_shares);
  PutOptional(cpu, "period", r.cpu_period);
  PutOptional(cpu, "quota", r.cpu_quota);
  Put(cpu, "cpus", r.cpuset_cpus);
  Put(cpu, "mems", r.cpuset_mems);
  Put(out, "memory", memory);
  Put(out, "cpu", cpu);
  if (r.pids_limit) out["pids"] = {{"limit", *r.pids_limit}};
  for (const auto& [size, bytes] : r.hugepage_limits) {
    out["hugepageLimits"].push_back({{"pageSize", size}, {"limit", bytes}});
  }
  Put(out, "unified", r.unified);
  return out;
}

json ToJson(const Seccomp& s) {
  json out = {{"defaultAction", s.default_action}};
  PutOptional(out, "defaultErrnoRet", s.default_errno_ret);
  Put(out, "architectures", s.architectures);
  Put(out, "flags", s.flags);
  for (const auto& call : s.syscalls) {
    json rule = {{"names", call.names}, {"action", call.action}};
    PutOptional(rule, "errnoRet", call.errno_ret);
    for (const auto& a : call.args) {
      rule["args"].push_back(
          {{"index", a.index}, {"value", a.value}, {"valueTwo", a.value_two}, {"op", a.op}});
    }
    out["syscalls"].push_back(std::move(rule));
  }
  return out;
}

}  // namespace

// Every part ends with a byte that names cannot contain.
std::string Fingerprint(const Seccomp& s) {
  std::string text;
  auto add = [&](const auto& part) {
    Append(text, part);
    text.push_back('\0');
  };
  auto add_optional = [&](const std::optional<uint32_t>& v) {
    if (v) {
      add(*v);
    } else {
      add('-');
    }
  };
  auto add_all = [&](const std::vector<std::string>& list) {
    add(list.size());
    for (const std::string& item : list) add(item);
  };
  add(s.default_action);
  add_optional(s.default_errno_ret);
  add_all(s.architectures);
  add_all(s.flags);
  for (const SeccompSyscall& rule : s.syscalls) {
    add_all(rule.names);
    add(rule.action);
    add_optional(rule.errno_ret);
    add(rule.args.size());
    for (const SeccompArg& arg : rule.args) {
      add(arg.index);
      add(arg.value);
      add(arg.value_two);
      add(arg.op);
    }
  }
  return text;
}

std::string ToJson(const Spec& spec) {
  json out = {{"ociVersion", "1.2.0"},
              {"process", ToJson(spec.process)},
              {"root", {{"path", "rootfs"}, {"readonly", spec.root_readonly}}}};
  Put(out, "hostname", spec.hostname);
  for (const auto& m : spec.mounts) {
    json mount = {{"destination", m.destination}};
    Put(mount, "type", m.type);
    Put(mount, "source", m.source);
    Put(mount, "options", m.options);
    if (!m.uid_mappings.empty()) mount["uidMappings"] = Mappings(m.uid_mappings);
    if (!m.gid_mappings.empty()) mount["gidMappings"] = Mappings(m.gid_mappings);
    out["mounts"].push_back(std::move(mount));
  }
  Put(out, "annotations", spec.annotations);

  json linux_part = {{"resources", ToJson(spec.resources)}};
  linux_part["namespaces"].push_back({{"type", "mount"}});
  if (!spec.uid_mappings.empty()) {
    linux_part["namespaces"].push_back({{"type", "user"}});
    linux_part["uidMappings"] = Mappings(spec.uid_mappings);
  }
  if (!spec.gid_mappings.empty()) linux_part["gidMappings"] = Mappings(spec.gid_mappings);
  Put(linux_part, "cgroupsPath", spec.cgroups_path);
  for (const auto& d : spec.devices) {
    linux_part["devices"].push_back({{"path", d.path},
                                     {"type", std::string(1, d.type)},
                                     {"major", d.major},
                                     {"minor", d.minor},
                                     {"fileMode", d.file_mode},
                                     {"uid", d.uid},
                                     {"gid", d.gid}});
  }
  if (spec.seccomp) linux_part["seccomp"] = ToJson(*spec.seccomp);
  Put(linux_part, "maskedPaths", spec.masked_paths);
  Put(linux_part, "readonlyPaths", spec.readonly_paths);
  Put(linux_part, "sysctl", spec.sysctl);
  out["linux"] = std::move(linux_part);
  // A container's words may hold any bytes: what is no UTF-8 is replaced, not thrown over.
  return out.dump(2, ' ', false, json::error_handler_t::replace);
}

}  // namespace sock::oci
