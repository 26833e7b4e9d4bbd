// Our own annotations and labels: the only place that knows their keys.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "oci/image_store.h"

namespace sock::oci {

// What a container asks of Zygotes, in the words of whoever wrote it: zygote/requirement.h reads the lists.
struct ZygoteRequest {
  enum class Mode { kAuto, kOff, kRequired };

  // PEP 508 requirements; present and empty: asks for none, whatever the image says.
  std::optional<std::string> packages;
  std::optional<std::string> imports;  // dotted modules; present and empty: none
  std::optional<std::string> trust_domain;
  Mode mode = Mode::kAuto;

  // Where these were found, for messages: "pod annotation `packages.cri-sock.io/app`".
  std::string packages_source, imports_source, trust_domain_source;
};

// Each key is looked up as pod annotation `KEY/<container>`, `KEY/POD` and `KEY`, then as label and as
// manifest annotation of the image; the first found holds. trust-domain.cri-sock.io is taken from the pod
// alone, since whom a pod trusts is not for the maker of its image to say. Other keys are ignored.
// INVALID_ARGUMENT names the key that was found and the reason; UNIMPLEMENTED the key handler.cri-sock.io
// with any value.
absl::StatusOr<ZygoteRequest> ResolveAnnotations(const std::map<std::string, std::string>& pod_annotations,
                                                 const std::string& container_name, const Image& image);

// A trust domain's name has the form of a Kubernetes namespace's (RFC 1123 label).
bool IsTrustDomain(const std::string& name);

}  // namespace sock::oci
