#include "runtime/network/cni.h"

#include "test/fuzz/fuzz.h"

using namespace sock::runtime;

FUZZ(cni) {
  const std::string text(input);
  for (const char* file : {"a.conflist", "a.conf"}) {
    if (auto config = ParseCniConfig(text, file); config.ok()) CHECK(!config->plugins.empty());
  }
  ParseCniResult(text).IgnoreError();
}
