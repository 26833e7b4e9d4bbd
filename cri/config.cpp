#include "cri/config.h"

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include <algorithm>
#include <functional>
#include <map>

#include "oci/annotations.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/base/toml.h"

namespace sock::cri {

namespace {

using Setter = std::function<bool(const toml::node&)>;

Setter To(std::string& out) {
  return [&out](const toml::node& node) {
    auto value = node.value_exact<std::string>();
    if (value) out = *value;
    return value.has_value();
  };
}

Setter To(int& out, int64_t low, int64_t high) {
  return [&out, low, high](const toml::node& node) {
    auto value = node.value_exact<int64_t>();
    if (!value || *value < low || *value > high) return false;
    out = static_cast<int>(*value);
    return true;
  };
}

Setter To(bool& out) {
  return [&out](const toml::node& node) {
    auto value = node.value_exact<bool>();
    if (value) out = *value;
    return value.has_value();
  };
}

Setter To(std::vector<std::string>& out) {
  return [&out](const toml::node& node) {
    const toml::array* array = node.as_array();
    if (!array) return false;
    std::vector<std::string> all;
    for (const toml::node& item : *array) {
      auto value = item.value_exact<std::string>();
      if (!value) return false;
      all.push_back(*value);
    }
    out = std::move(all);
    return true;
  };
}

Setter To(std::map<std::string, std::vector<std::string>>& out) {
  return [&out](const toml::node& node) {
    const toml::table* table = node.as_table();
    if (!table) return false;
    for (const auto& [key, value] : *table)
      if (!oci::IsTrustDomain(std::string(key.str())) || !To(out[std::string(key.str())])(value))
        return false;
    return true;
  };
}

absl::Status Apply(const toml::table& table, const std::string& prefix,
                   const std::map<std::string, Setter>& keys) {
  for (const auto& [key, node] : table) {
    std::string name = Cat(prefix, key.str());
    auto setter = keys.find(name);
    if (setter != keys.end()) {
      if (setter->second(node)) continue;
      return absl::InvalidArgumentError(
          Cat("config key `", name, "` at line ", node.source().begin.line, " has a wrong type or value"));
    }
    if (const toml::table* inner = node.as_table()) {
      RETURN_IF_ERROR(Apply(*inner, name + ".", keys));
      continue;
    }
    return absl::InvalidArgumentError(
        Cat("config key `", name, "` at line ", node.source().begin.line, " is not known"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Config> ParseConfig(const std::string& text) {
  RETURN_IF_ERROR(CheckToml(text));
  toml::parse_result parsed = toml::parse(text);
  if (!parsed) {
    return absl::InvalidArgumentError(
        Cat("parse config at line ", parsed.error().source().begin.line, ": ", parsed.error().description()));
  }
  Config c;
  const std::map<std::string, Setter> keys = {
      {"handlers", To(c.handlers)},
      {"certs_dir", To(c.certs_dir)},
      {"cgroup_driver", To(c.cgroup_driver)},
      {"seccomp_profile_root", To(c.seccomp_profile_root)},
      {"spare_sandboxes", To(c.spare_sandboxes, 0, 1024)},
      {"zygotes.parked", To(c.parked, 0, 1024)},
      {"zygotes.import_seconds", To(c.import_seconds, 1, 3600)},
      {"zygotes.memory_mib", To(c.zygote_mib, 32, 1 << 20)},
      {"zygotes.parked_most", To(c.parked_most, 0, 1024)},
      {"zygotes.idle_seconds", To(c.zygote_idle_s, 1, 1 << 30)},
      {"zygotes.rotate_seconds", To(c.rotate_s, 0, 1 << 30)},
      {"zygotes.rotate_forks", To(c.rotate_forks, 0, 1 << 30)},
      {"zygotes.memory_budget_mib", To(c.zygote_memory_mib, 0, 1 << 30)},
      {"zygotes.learn", To(c.learn)},
      {"zygotes.trust_domains", To(c.trust_domains)},
      {"metrics.listen", To(c.metrics_listen)},
      {"zygotes.cgroup_parent", To(c.zygote_cgroup)},
      {"parallel_downloads", To(c.parallel_downloads, 1, 64)},
      {"cni.conf_dir", To(c.cni_conf_dir)},
      {"cni.bin_dirs", To(c.cni_bin_dirs)},
      {"bridge.name", To(c.bridge)},
      {"bridge.subnet", To(c.subnet)},
  };
  RETURN_IF_ERROR(Apply(parsed.table(), "", keys));
  if (c.cgroup_driver != "cgroupfs" && c.cgroup_driver != "systemd") {
    return absl::InvalidArgumentError(
        Cat("config key `cgroup_driver` is `", c.cgroup_driver, "`: want `cgroupfs` or `systemd`"));
  }
  if (c.handlers.empty()) return absl::InvalidArgumentError("config key `handlers` is empty");
  return c;
}

absl::StatusOr<Config> LoadConfig(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path, 1 << 20);
  if (absl::IsNotFound(text.status())) return Config();
  RETURN_IF_ERROR(text.status());
  auto config = ParseConfig(*text);
  if (!config.ok()) return Annotate(config.status(), Cat("`", path, "`"));
  return config;
}

absl::StatusOr<std::string> TrustDomain(const Config& config, const std::string& name,
                                        const std::optional<std::string>& domain, const std::string& source) {
  if (!domain) return name;
  auto found = config.trust_domains.find(*domain);
  if (found == config.trust_domains.end() || std::ranges::find(found->second, name) == found->second.end())
    return absl::PermissionDeniedError(
        Cat(source, ": this node's setting `zygotes.trust_domains` does not let pods of namespace `", name,
            "` into trust domain `", *domain, "`"));
  return Cat("domain/", *domain);  // no namespace's name has a slash
}

}  // namespace sock::cri
