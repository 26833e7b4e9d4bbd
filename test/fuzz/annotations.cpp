// Lines `KEY=VALUE`, each at once a pod annotation and an image label.
#include "oci/annotations.h"

#include "absl/strings/str_split.h"
#include "test/fuzz/fuzz.h"

FUZZ(annotations) {
  std::map<std::string, std::string> pod;
  sock::oci::Image image;
  for (absl::string_view line : absl::StrSplit(absl::string_view(input.data(), input.size()), '\n')) {
    std::pair<std::string, std::string> pair = absl::StrSplit(line, absl::MaxSplits('=', 1));
    pod.insert(pair);
    image.config.labels.insert(pair);
  }
  auto request = sock::oci::ResolveAnnotations(pod, "app", image);
  if (!request.ok()) {
    CHECK(request.status().message().find(".cri-sock.io") != absl::string_view::npos);
    return;
  }
  CHECK(request->packages.has_value() == !request->packages_source.empty());
  CHECK(!request->trust_domain || !request->trust_domain->empty());
}
