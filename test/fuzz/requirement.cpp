#include "zygote/requirement.h"

#include "test/fuzz/fuzz.h"

using namespace sock::zygote;

FUZZ(requirement) {
  if (auto modules = ParseImports(input); modules.ok())
    for (const std::string& module : *modules) CHECK(!module.empty() && module.front() != '.');
  auto version = ParseVersion(input);
  if (version.ok()) {
    CHECK(Compare(*version, *version) == 0);
    CHECK(Fits(*ParseClause("==", input), input));
  }
  auto list = ParseRequirements(input);
  if (!list.ok()) {
    CHECK(list.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  std::vector<InstalledPackage> installed;
  for (const Requirement& requirement : *list) {
    // What was read says the same when it is read by itself.
    auto again = ParseRequirements(requirement.text);
    CHECK(again.ok() && again->size() == 1 && again->at(0).Wanted() == requirement.Wanted());
    CHECK(NormalizeName(requirement.name) == requirement.name);
    installed.push_back(
        {requirement.name, requirement.clauses.empty() ? "1" : requirement.clauses[0].text, {}});
  }
  auto modules = Match(*list, installed, "3.11.2");
  CHECK(modules.ok() || modules.status().code() == absl::StatusCode::kFailedPrecondition);
}
