#include "oci/manifest.h"

#include <openssl/evp.h>
#include <sys/utsname.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "oci/digest.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

using nlohmann::json;

constexpr size_t kMaxLayers = 1000;
constexpr size_t kMaxNesting = 64;

absl::Status Bad(std::string_view field, std::string_view reason) {
  return absl::InvalidArgumentError(Cat("`", field, "` ", reason));
}

// A document nested deeper than any real one would make the parser's tree recurse: refused.
absl::StatusOr<json> Parse(std::string_view document, std::string_view what) {
  bool deep = false;
  json parsed = json::parse(
      document.begin(), document.end(),
      [&](int depth, json::parse_event_t, json&) {
        deep = deep || depth > static_cast<int>(kMaxNesting);
        return !deep;
      },
      false);
  if (deep) return Bad(what, "is nested too deeply");
  if (parsed.is_discarded()) return Bad(what, "is not JSON");
  return parsed;
}

absl::StatusOr<json> ParseObject(std::string_view document, std::string_view what) {
  ASSIGN_OR_RETURN(json parsed, Parse(document, what));
  if (!parsed.is_object()) return Bad(what, "is not a JSON object");
  return parsed;
}

const json* Find(const json& object, const char* key) {
  auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

absl::Status Read(const json& object, const char* key, std::string& out) {
  const json* value = Find(object, key);
  if (!value) return absl::OkStatus();
  if (!value->is_string()) return Bad(key, "is not a string");
  out = value->get<std::string>();
  if (out.find('\0') != std::string::npos) return Bad(key, "holds a NUL");
  return absl::OkStatus();
}

absl::Status Read(const json& object, const char* key, std::vector<std::string>& out) {
  const json* value = Find(object, key);
  if (!value) return absl::OkStatus();
  if (!value->is_array()) return Bad(key, "is not a list");
  for (const auto& item : *value) {
    if (!item.is_string()) return Bad(key, "holds something that is not a string");
    out.push_back(item.get<std::string>());
    if (out.back().find('\0') != std::string::npos) return Bad(key, "holds a NUL");
  }
  return absl::OkStatus();
}

absl::Status Read(const json& object, const char* key, std::map<std::string, std::string>& out) {
  const json* value = Find(object, key);
  if (!value) return absl::OkStatus();
  if (!value->is_object()) return Bad(key, "is not an object");
  for (const auto& [name, item] : value->items()) {
    if (!item.is_string()) return Bad(key, "holds something that is not a string");
    out[name] = item.get<std::string>();
  }
  return absl::OkStatus();
}

absl::Status ReadPlatform(const json& object, Platform& out) {
  RETURN_IF_ERROR(Read(object, "os", out.os));
  RETURN_IF_ERROR(Read(object, "architecture", out.architecture));
  return Read(object, "variant", out.variant);
}

absl::StatusOr<Descriptor> ReadDescriptor(const json& value, std::string_view what) {
  if (!value.is_object()) return Bad(what, "is not an object");
  Descriptor out;
  RETURN_IF_ERROR_AS(Read(value, "mediaType", out.media_type), what);
  RETURN_IF_ERROR_AS(Read(value, "digest", out.digest), what);
  RETURN_IF_ERROR_AS(CheckDigest(out.digest, "digest"), what);
  const json* size = Find(value, "size");
  if (!size || !size->is_number_integer() || (!size->is_number_unsigned() && size->get<int64_t>() < 0)) {
    return Annotate(Bad("size", "is not a number of bytes"), what);
  }
  out.size = size->get<uint64_t>();
  if (out.size > uint64_t{1} << 62) return Annotate(Bad("size", "is too large"), what);
  RETURN_IF_ERROR_AS(Read(value, "annotations", out.annotations), what);
  if (const json* platform = Find(value, "platform")) {
    if (!platform->is_object()) return Annotate(Bad("platform", "is not an object"), what);
    RETURN_IF_ERROR_AS(ReadPlatform(*platform, out.platform), what);
  }
  return out;
}

absl::StatusOr<std::vector<Descriptor>> ReadDescriptors(const json& object, const char* key, size_t limit) {
  const json* list = Find(object, key);
  if (!list || !list->is_array()) return Bad(key, "is not a list");
  if (list->size() > limit) return Bad(key, Cat("has more than ", limit, " entries"));
  std::vector<Descriptor> out;
  for (const auto& item : *list) {
    ASSIGN_OR_RETURN(out.emplace_back(), ReadDescriptor(item, key));
  }
  return out;
}

bool NamesIndex(std::string_view media_type) {
  return media_type == "application/vnd.oci.image.index.v1+json" ||
         media_type == "application/vnd.docker.distribution.manifest.list.v2+json";
}

}  // namespace

absl::Status CheckDigest(std::string_view digest, std::string_view field) {
  constexpr std::string_view kPrefix = "sha256:";
  if (digest.substr(0, kPrefix.size()) != kPrefix) return Bad(field, "is not a sha256 digest");
  digest.remove_prefix(kPrefix.size());
  if (digest.size() != 64 || digest.find_first_not_of("0123456789abcdef") != std::string_view::npos) {
    return Bad(field, "is not a sha256 digest of 64 lower-case hex digits");
  }
  return absl::OkStatus();
}

bool IsIndex(std::string_view document) {
  auto parsed = ParseObject(document, "document");
  if (!parsed.ok()) return false;
  std::string media_type;
  if (Read(*parsed, "mediaType", media_type).ok() && NamesIndex(media_type)) return true;
  return Find(*parsed, "manifests") && !Find(*parsed, "layers") && !Find(*parsed, "config");
}

absl::StatusOr<Manifest> ParseManifest(std::string_view document) {
  ASSIGN_OR_RETURN(const json parsed, ParseObject(document, "manifest"));
  const json* version = Find(parsed, "schemaVersion");
  if (!version || !version->is_number_integer() || *version != 2) return Bad("schemaVersion", "is not 2");
  Manifest out;
  RETURN_IF_ERROR(Read(parsed, "mediaType", out.media_type));
  if (Find(parsed, "manifests") || NamesIndex(out.media_type)) {
    return Bad("manifest", "is an index, or both index and manifest");
  }
  const json* config = Find(parsed, "config");
  if (!config) return Bad("config", "is missing");
  ASSIGN_OR_RETURN(out.config, ReadDescriptor(*config, "config"));
  ASSIGN_OR_RETURN(out.layers, ReadDescriptors(parsed, "layers", kMaxLayers));
  RETURN_IF_ERROR(Read(parsed, "annotations", out.annotations));
  return out;
}

absl::StatusOr<std::vector<Descriptor>> ParseIndex(std::string_view document) {
  ASSIGN_OR_RETURN(const json parsed, ParseObject(document, "index"));
  const json* version = Find(parsed, "schemaVersion");
  if (!version || !version->is_number_integer() || *version != 2) return Bad("schemaVersion", "is not 2");
  if (Find(parsed, "layers")) return Bad("index", "is both index and manifest");
  return ReadDescriptors(parsed, "manifests", 10000);
}

absl::StatusOr<Config> ParseConfig(std::string_view document) {
  ASSIGN_OR_RETURN(const json parsed, ParseObject(document, "config"));
  Config out;
  RETURN_IF_ERROR(ReadPlatform(parsed, out.platform));
  const json* rootfs = Find(parsed, "rootfs");
  if (!rootfs || !rootfs->is_object()) return Bad("rootfs", "is not an object");
  RETURN_IF_ERROR(Read(*rootfs, "diff_ids", out.diff_ids));
  if (out.diff_ids.size() > kMaxLayers) return Bad("diff_ids", "has too many entries");
  for (const auto& id : out.diff_ids) RETURN_IF_ERROR(CheckDigest(id, "diff_ids"));

  const json* config = Find(parsed, "config");
  if (!config) return out;
  if (!config->is_object()) return Bad("config", "is not an object");
  RETURN_IF_ERROR(Read(*config, "User", out.config.user));
  RETURN_IF_ERROR(Read(*config, "WorkingDir", out.config.working_dir));
  RETURN_IF_ERROR(Read(*config, "StopSignal", out.config.stop_signal));
  RETURN_IF_ERROR(Read(*config, "Entrypoint", out.config.entrypoint));
  RETURN_IF_ERROR(Read(*config, "Cmd", out.config.cmd));
  RETURN_IF_ERROR(Read(*config, "Env", out.config.env));
  RETURN_IF_ERROR(Read(*config, "Labels", out.config.labels));
  if (const json* volumes = Find(*config, "Volumes")) {
    if (!volumes->is_object()) return Bad("Volumes", "is not an object");
    for (const auto& [path, unused] : volumes->items()) out.config.volumes.push_back(path);
  }
  return out;
}

absl::StatusOr<std::vector<DockerArchiveImage>> ParseDockerArchive(std::string_view document) {
  ASSIGN_OR_RETURN(const json parsed, Parse(document, "manifest.json"));
  if (!parsed.is_array() || parsed.empty()) return Bad("manifest.json", "is not a list of images");
  std::vector<DockerArchiveImage> out;
  for (const json& one : parsed) {
    if (!one.is_object()) return Bad("manifest.json", "is not a list of images");
    DockerArchiveImage& image = out.emplace_back();
    RETURN_IF_ERROR(Read(one, "Config", image.config));
    if (image.config.empty()) return Bad("Config", "is missing");
    RETURN_IF_ERROR(Read(one, "Layers", image.layers));
    if (image.layers.size() > kMaxLayers) return Bad("Layers", "has too many entries");
    RETURN_IF_ERROR(Read(one, "RepoTags", image.tags));
  }
  return out;
}

Platform HostPlatform() {
  utsname name{};
  uname(&name);
  const std::string machine = name.machine;
  Platform out{.os = "linux", .architecture = machine};
  if (machine == "x86_64") out.architecture = "amd64";
  if (machine == "aarch64") out = {"linux", "arm64", "v8"};
  if (machine == "armv7l") out = {"linux", "arm", "v7"};
  if (machine == "i686") out.architecture = "386";
  return out;
}

absl::StatusOr<Descriptor> ChoosePlatform(const std::vector<Descriptor>& index, const Platform& platform) {
  const Descriptor* variant = nullptr;  // same architecture, another or no variant
  const Descriptor* unnamed = nullptr;
  for (const auto& d : index) {
    if (d.platform.os.empty() && d.platform.architecture.empty()) {
      if (!unnamed) unnamed = &d;
    } else if (d.platform.os == platform.os && d.platform.architecture == platform.architecture) {
      if (d.platform.variant == platform.variant) return d;
      if (!variant) variant = &d;
    }
  }
  if (variant) return *variant;
  if (unnamed) return *unnamed;
  std::string there;
  for (const auto& d : index) {
    if (d.platform.os != "unknown" && there.size() < 512)  // attestations stand under "unknown"
      there += Cat(there.empty() ? "" : ", ", d.platform.os, "/", d.platform.architecture);
  }
  return absl::NotFoundError(Cat("the image is not made for ", platform.os, "/", platform.architecture,
                                 there.empty() ? "" : ", only for ", there));
}

std::vector<std::string> ChainIds(const std::vector<std::string>& diff_ids) {
  std::vector<std::string> out;
  for (const auto& id : diff_ids) out.push_back(out.empty() ? id : Sha256(Cat(out.back(), " ", id)));
  return out;
}

std::string Sha256(std::string_view data) {
  Sha256Hash hash;
  hash.Update(data.data(), data.size());
  return hash.Digest();
}

}  // namespace sock::oci
