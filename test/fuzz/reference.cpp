#include "oci/reference.h"

#include "test/fuzz/fuzz.h"

FUZZ(reference) {
  auto reference = sock::oci::ParseReference(std::string(input));
  if (!reference.ok()) return;
  // What it is written as is the same reference, and fit for a URL and a path.
  auto again = sock::oci::ParseReference(reference->String());
  CHECK(again.ok() && again->String() == reference->String());
  CHECK(reference->repository.find("..") == std::string::npos);
}
