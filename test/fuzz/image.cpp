#include "oci/manifest.h"
#include "test/fuzz/fuzz.h"

using namespace sock::oci;

FUZZ(image) {
  IsIndex(input);
  auto manifest = ParseManifest(input);
  if (manifest.ok()) {
    CHECK(!IsIndex(input));
    CHECK(CheckDigest(manifest->config.digest, "config").ok());
    for (const Descriptor& layer : manifest->layers) CHECK(CheckDigest(layer.digest, "layer").ok());
  }
  if (auto index = ParseIndex(input); index.ok())
    ChoosePlatform(*index, {"linux", "amd64", ""}).IgnoreError();
  if (auto images = ParseDockerArchive(input); images.ok()) CHECK(!images->front().config.empty());
  if (auto config = ParseConfig(input); config.ok())
    CHECK(ChainIds(config->diff_ids).size() == config->diff_ids.size());
}
