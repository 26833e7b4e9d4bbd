#include "oci/annotations.h"

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

constexpr char kPackages[] = "packages.cri-sock.io";
constexpr char kImports[] = "imports.cri-sock.io";
constexpr char kZygote[] = "zygote.cri-sock.io";
constexpr char kHandler[] = "handler.cri-sock.io";
constexpr char kTrustDomain[] = "trust-domain.cri-sock.io";

struct Found {
  std::string source, value;
};

std::string Quoted(const std::string& value) { return Cat("`", absl::CEscape(value.substr(0, 80)), "`"); }

std::optional<Found> FindInPod(const std::map<std::string, std::string>& annotations,
                               const std::string& container, const std::string& key) {
  for (const std::string& name : {key + "/" + container, key + "/POD", key})
    if (auto it = annotations.find(name); it != annotations.end())
      return Found{Cat("pod annotation `", name, "`"), it->second};
  return std::nullopt;
}

std::optional<Found> Find(const std::map<std::string, std::string>& annotations, const std::string& container,
                          const Image& image, const std::string& key) {
  if (auto found = FindInPod(annotations, container, key)) return found;
  if (auto it = image.config.labels.find(key); it != image.config.labels.end())
    return Found{Cat("image label `", key, "`"), it->second};
  if (auto it = image.annotations.find(key); it != image.annotations.end())
    return Found{Cat("image annotation `", key, "`"), it->second};
  return std::nullopt;
}

}  // namespace

bool IsTrustDomain(const std::string& name) {
  if (name.empty() || name.size() > 63 || name.front() == '-' || name.back() == '-') return false;
  for (char c : name)
    if (!absl::ascii_islower(c) && !absl::ascii_isdigit(c) && c != '-') return false;
  return true;
}

absl::StatusOr<ZygoteRequest> ResolveAnnotations(const std::map<std::string, std::string>& pod_annotations,
                                                 const std::string& container_name, const Image& image) {
  auto find = [&](const char* key) { return Find(pod_annotations, container_name, image, key); };
  ZygoteRequest request;
  if (auto found = find(kHandler))
    return absl::UnimplementedError(Cat(found->source, ": loading a function's own module is not supported"));
  if (auto found = find(kZygote)) {
    if (found->value == "auto") {
      request.mode = ZygoteRequest::Mode::kAuto;
    } else if (found->value == "off") {
      request.mode = ZygoteRequest::Mode::kOff;
    } else if (found->value == "required") {
      request.mode = ZygoteRequest::Mode::kRequired;
    } else {
      return absl::InvalidArgumentError(
          Cat(found->source, ": ", Quoted(found->value), " is none of `auto`, `off` and `required`"));
    }
  }
  if (auto found = FindInPod(pod_annotations, container_name, kTrustDomain)) {
    if (!IsTrustDomain(found->value))
      return absl::InvalidArgumentError(
          Cat(found->source, ": ", Quoted(found->value),
              " is not 1 to 63 of a to z, 0 to 9 and `-`, beginning and ending with a letter or digit"));
    request.trust_domain = found->value;
    request.trust_domain_source = found->source;
  }
  if (auto found = find(kPackages)) {
    request.packages = found->value;
    request.packages_source = found->source;
  }
  if (auto found = find(kImports)) {
    request.imports = found->value;
    request.imports_source = found->source;
  }
  return request;
}

}  // namespace sock::oci
