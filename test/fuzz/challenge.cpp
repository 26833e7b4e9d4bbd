#include "oci/transport.h"
#include "test/fuzz/fuzz.h"

FUZZ(challenge) {
  for (const auto& challenge : sock::oci::ParseChallenges(input)) CHECK(!challenge.scheme.empty());
}
