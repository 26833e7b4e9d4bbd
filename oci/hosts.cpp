#include "oci/hosts.h"

#include <toml++/toml.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/base/toml.h"

namespace sock::oci {
namespace {

namespace fs = std::filesystem;

std::string_view WithoutPort(std::string_view host) {
  if (host.starts_with("[")) return host.substr(0, host.find(']') + 1);
  return host.substr(0, host.find(':'));
}

// "https://host/path" -> the API root. Without a scheme: https, or http for a loopback host.
absl::StatusOr<std::string> ApiRoot(std::string url, bool override_path) {
  if (url.find("://") == std::string::npos) {
    url = (IsLoopbackHost(url.substr(0, url.find('/'))) ? "http://" : "https://") + url;
  }
  if (!url.starts_with("https://") && !url.starts_with("http://")) {
    return absl::InvalidArgumentError(Cat("`", url, "` is neither a http nor a https URL"));
  }
  size_t start = url.find("://") + 3;
  if (url.size() == start || url[start] == '/' || url.find_first_of("?#@ \r\n", start) != std::string::npos) {
    return absl::InvalidArgumentError(Cat("`", url, "` is not a URL of scheme, host and path"));
  }
  while (url.ends_with("/")) url.pop_back();
  if (!override_path && !url.ends_with("/v2")) url += "/v2";
  return url;
}

std::string HostOf(std::string_view url) {
  url.remove_prefix(url.find("://") + 3);
  return std::string(url.substr(0, url.find('/')));
}

std::string DefaultHost(const std::string& host) {
  return host == "docker.io" ? "registry-1.docker.io" : host;
}

std::string PathIn(const fs::path& folder, const std::string& path) { return (folder / path).string(); }

absl::Status BadField(std::string_view field, std::string_view want) {
  return absl::InvalidArgumentError(Cat("`", field, "` must be ", want));
}

absl::Status ReadHost(const toml::table& table, const fs::path& folder, RegistryHost& out) {
  if (auto node = table["capabilities"]) {
    const toml::array* array = node.as_array();
    if (!array) return BadField("capabilities", "an array of strings");
    out.pull = out.resolve = false;
    for (const auto& item : *array) {
      std::string name = item.value_or(std::string());
      if (name == "pull") {
        out.pull = true;
      } else if (name == "resolve") {
        out.resolve = true;
      } else if (name != "push" && name != "referrers") {
        return BadField("capabilities", "of `pull`, `resolve`, `push`");
      }
    }
  }
  if (auto node = table["ca"]) {
    if (auto one = node.value<std::string>()) {
      out.ca.push_back(PathIn(folder, *one));
    } else if (const toml::array* array = node.as_array()) {
      for (const auto& item : *array) {
        auto path = item.value<std::string>();
        if (!path) return BadField("ca", "a path or an array of paths");
        out.ca.push_back(PathIn(folder, *path));
      }
    } else {
      return BadField("ca", "a path or an array of paths");
    }
  }
  if (auto node = table["client"]) {
    constexpr std::string_view kWant = "a path, or an array of paths or of [certificate, key]";
    const toml::array* array = node.as_array();
    if (auto one = node.value<std::string>()) {
      out.client_cert = PathIn(folder, *one);
    } else if (!array) {
      return BadField("client", kWant);
    } else if (!array->empty()) {
      const toml::array* pair = array->get(0)->as_array();
      if (pair && (pair->empty() || pair->size() > 2)) return BadField("client", kWant);
      const toml::node* cert = pair ? pair->get(0) : array->get(0);
      if (!cert->is_string()) return BadField("client", kWant);
      out.client_cert = PathIn(folder, cert->value_or(std::string()));
      std::string key = pair && pair->size() == 2 ? pair->get(1)->value_or(std::string()) : "";
      if (!key.empty()) out.client_key = PathIn(folder, key);
    }
  }
  if (auto node = table["skip_verify"]) {
    if (!node.is_boolean()) return BadField("skip_verify", "true or false");
    out.skip_verify = node.value_or(false);
  }
  if (auto node = table["header"]) {
    const toml::table* headers = node.as_table();
    if (!headers) return BadField("header", "a table");
    for (const auto& [name, value] : *headers) {
      std::vector<std::string> values;
      if (auto one = value.value<std::string>()) values.push_back(*one);
      if (const toml::array* array = value.as_array()) {
        for (const auto& item : *array) values.push_back(item.value_or(std::string()));
      }
      for (const std::string& text : values) {
        std::string line = Cat(name.str(), ": ", text);
        if (line.find_first_of("\r\n") != std::string::npos) return BadField("header", "without line breaks");
        out.headers.push_back(std::move(line));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> OverridePath(const toml::table& table) {
  auto node = table["override_path"];
  if (node && !node.is_boolean()) return BadField("override_path", "true or false");
  return node.value_or(false);
}

absl::StatusOr<std::vector<RegistryHost>> ReadToml(const toml::table& root, const fs::path& folder,
                                                   const std::string& host) {
  std::vector<std::pair<toml::source_position, RegistryHost>> listed;
  if (auto node = root["host"]) {
    const toml::table* hosts = node.as_table();
    if (!hosts) return BadField("host", "a table");
    for (const auto& [url, value] : *hosts) {
      std::string name(url.str());
      const toml::table* table = value.as_table();
      if (!table) return BadField(Cat("host.", name), "a table");
      RegistryHost entry;
      ASSIGN_OR_RETURN_AS(bool override_path, OverridePath(*table), Cat("host `", name, "`"));
      ASSIGN_OR_RETURN_AS(entry.url, ApiRoot(name, override_path), "host");
      entry.mirror = HostOf(entry.url) != DefaultHost(host);
      RETURN_IF_ERROR_AS(ReadHost(*table, folder, entry), Cat("host `", name, "`"));
      listed.emplace_back(url.source().begin, std::move(entry));
    }
  }
  // The parser's tables are sorted by name; the file's order is what counts.
  std::stable_sort(listed.begin(), listed.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<RegistryHost> out;
  for (auto& [position, entry] : listed) out.push_back(std::move(entry));

  if (root["server"] && !root["server"].is_string()) return BadField("server", "a URL");
  std::string server = root["server"].value_or(std::string());
  if (server.empty()) server = DefaultHost(host);
  RegistryHost last;
  ASSIGN_OR_RETURN(bool override_path, OverridePath(root));
  ASSIGN_OR_RETURN_AS(last.url, ApiRoot(server, override_path), "server");
  if (HostOf(last.url) == "docker.io")
    last.url.replace(last.url.find("docker.io"), 9, "registry-1.docker.io");
  last.mirror = HostOf(last.url) != DefaultHost(host);
  RETURN_IF_ERROR(ReadHost(root, folder, last));
  if (std::none_of(out.begin(), out.end(), [&](const auto& entry) { return entry.url == last.url; })) {
    out.push_back(std::move(last));
  }
  return out;
}

std::optional<fs::path> FindFolder(const std::string& certs_dir, const std::string& host) {
  if (certs_dir.empty()) return std::nullopt;
  std::vector<std::string> names;
  std::string_view name = WithoutPort(host);
  if (name.size() < host.size()) names.push_back(Cat(name, "_", host.substr(name.size() + 1), "_"));
  names.push_back(host);
  names.push_back("_default");
  for (const std::string& each : names) {
    std::error_code error;
    fs::path folder = fs::path(certs_dir) / each;
    if (fs::is_directory(folder, error)) return folder;
  }
  return std::nullopt;
}

}  // namespace

bool IsLoopbackHost(std::string_view host) {
  std::string_view name = WithoutPort(host);
  if (name == "localhost" || name == "[::1]") return true;
  return name.starts_with("127.") && name.find_first_not_of("0123456789.") == std::string_view::npos;
}

absl::StatusOr<std::vector<RegistryHost>> ResolveHosts(const std::string& certs_dir,
                                                       const std::string& host) {
  RegistryHost plain;
  ASSIGN_OR_RETURN_AS(plain.url, ApiRoot(DefaultHost(host), false), "registry host");
  std::optional<fs::path> folder = FindFolder(certs_dir, host);
  if (!folder) return std::vector<RegistryHost>{plain};
  fs::path file = *folder / "hosts.toml";
  std::error_code error;
  if (!fs::exists(file, error)) {
    for (auto it = fs::directory_iterator(*folder, error); !error && it != fs::directory_iterator();
         it.increment(error)) {
      if (it->path().extension() == ".crt") plain.ca.push_back(it->path().string());
    }
    return std::vector<RegistryHost>{plain};
  }
  std::ifstream stream(file);
  std::stringstream text;
  text << stream.rdbuf();
  if (!stream.good() && !stream.eof()) {
    return absl::InternalError(Cat("registry configuration `", file.string(), "`: cannot be read"));
  }
  auto hosts = ParseHosts(text.str(), folder->string(), host);
  return hosts.ok() ? hosts : Annotate(hosts.status(), Cat("registry configuration `", file.string(), "`"));
}

absl::StatusOr<std::vector<RegistryHost>> ParseHosts(const std::string& toml, const std::string& folder,
                                                     const std::string& host) {
  RETURN_IF_ERROR(CheckToml(toml));
  try {
    return ReadToml(toml::parse(toml), folder, host);
  } catch (const toml::parse_error& bad) {
    return absl::InvalidArgumentError(Cat("line ", bad.source().begin.line, ": ", bad.description()));
  }
}

}  // namespace sock::oci
