// Configurations and results of CNI as text.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/network/cni.h"

namespace sock::runtime {
namespace {

using nlohmann::json;

constexpr std::array kVersions = {"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};

std::string StringOr(const json& object, const char* key, std::string otherwise) {
  auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : otherwise;
}

void Strings(const json& object, const char* key, std::vector<std::string>& out) {
  auto found = object.find(key);
  if (found == object.end() || !found->is_array()) return;
  for (const json& each : *found)
    if (each.is_string()) out.push_back(each.get<std::string>());
}

// "10.1.2.3/24" as "10.1.2.3".
std::string Address(const json& object, const char* key) {
  std::string address = StringOr(object, key, "");
  return address.substr(0, address.find('/'));
}

}  // namespace

absl::StatusOr<CniConfig> ParseCniConfig(const std::string& text, const std::string& file) {
  auto bad = [&](std::string_view why) {
    return absl::InvalidArgumentError(Cat("cni configuration `", file, "`: ", why));
  };
  json parsed = json::parse(text, nullptr, false);
  if (!parsed.is_object()) return bad("no JSON object");
  CniConfig config;
  config.file = file;
  config.name = StringOr(parsed, "name", "");
  config.version = StringOr(parsed, "cniVersion", "0.1.0");
  if (config.name.empty()) return bad("name is missing");
  if (std::find(kVersions.begin(), kVersions.end(), config.version) == kVersions.end())
    return bad(Cat("cniVersion `", config.version, "` is unknown; 0.1.0 to 1.1.0 are known"));
  // A dump can fail on bytes that are no UTF-8 only, which the parser refuses.
  if (file.ends_with(".conflist")) {
    if (!parsed.contains("plugins") || !parsed["plugins"].is_array() || parsed["plugins"].empty())
      return bad("plugins is missing or empty");
    auto check = parsed.find("disableCheck");
    config.disable_check = check != parsed.end() && (*check == true || *check == "true");
    for (const json& plugin : parsed["plugins"]) {
      if (!plugin.is_object()) return bad("a plugin is no JSON object");
      config.plugins.push_back(plugin.dump());
    }
  } else {
    config.plugins.push_back(parsed.dump());
  }
  for (const std::string& plugin : config.plugins) {
    std::string type = StringOr(json::parse(plugin, nullptr, false), "type", "");
    if (type.empty() || type.find('/') != std::string::npos || type == "." || type == "..")
      return bad(Cat("type `", type, "` of a plugin is no file name"));
  }
  return config;
}

absl::StatusOr<PodNetworkResult> ParseCniResult(const std::string& text) {
  json parsed = json::parse(text, nullptr, false);
  if (!parsed.is_object()) return absl::InternalError("cni result: no JSON object");
  PodNetworkResult result;
  if (auto ips = parsed.find("ips"); ips != parsed.end() && ips->is_array()) {
    // Addresses of the pod's own interfaces: a result lists those of the host's ends too.
    const json interfaces = parsed.value("interfaces", json::array());
    for (const json& ip : *ips) {
      if (!ip.is_object()) continue;
      auto at = ip.find("interface");
      if (at != ip.end() && at->is_number_unsigned() && interfaces.is_array() &&
          at->get<size_t>() < interfaces.size()) {
        const json& interface = interfaces[at->get<size_t>()];
        if (interface.is_object() && StringOr(interface, "sandbox", "").empty()) continue;
      }
      if (std::string address = Address(ip, "address"); !address.empty())
        result.ips.push_back(std::move(address));
    }
  }
  for (const char* old : {"ip4", "ip6"}) {  // before 0.3.0
    auto found = parsed.find(old);
    if (found == parsed.end() || !found->is_object()) continue;
    if (std::string address = Address(*found, "ip"); !address.empty())
      result.ips.push_back(std::move(address));
  }
  if (auto dns = parsed.find("dns"); dns != parsed.end() && dns->is_object()) {
    Strings(*dns, "nameservers", result.dns_servers);
    Strings(*dns, "search", result.dns_searches);
    if (result.dns_searches.empty())
      if (std::string domain = StringOr(*dns, "domain", ""); !domain.empty())
        result.dns_searches.push_back(domain);
    Strings(*dns, "options", result.dns_options);
  }
  return result;
}

}  // namespace sock::runtime
