// Every fuzzer over its seeds, in a build without libFuzzer.
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>

#include "runtime/base/path.h"
#include "test/fuzz/fuzz.h"

namespace sock::fuzz {
namespace {

std::map<std::string, Target>& Targets() {
  static std::map<std::string, Target> targets;
  return targets;
}

}  // namespace

bool Register(const char* name, Target target) { return Targets().emplace(name, target).second; }

TEST(CorpusTest, EverySeedOfEveryFuzzer) {
  EXPECT_GE(Targets().size(), 10u);
  for (const auto& [name, target] : Targets()) {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(CORPUS "/" + name)) {
      SCOPED_TRACE(entry.path().string());
      auto seed = ReadFile(entry.path().string());
      ASSERT_TRUE(seed.ok()) << seed.status();
      target(*seed);
      // What is cut anywhere is refused, not read past.
      for (size_t part = 1; part < 8; ++part)
        target(std::string_view(*seed).substr(0, seed->size() * part / 8));
      ++count;
    }
    EXPECT_GT(count, 0) << name << " has no seeds";
    target("");
  }
}

}  // namespace sock::fuzz
