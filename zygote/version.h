// Versions of Python packages: read, compared and matched as the version specifiers specification says
// (packaging.python.org/specifications/version-specifiers, once PEP 440).
#pragma once

#include <compare>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace sock::zygote {

// A number of any length: decimal digits without leading zeros.
struct Digits {
  std::string text = "0";
  std::strong_ordering operator<=>(const Digits& other) const;
  bool operator==(const Digits& other) const = default;
};

struct Version {
  Digits epoch;
  std::vector<Digits> release;  // never empty
  std::string pre;              // "a", "b", "rc", or empty: none
  Digits pre_number;            // 0 without `pre`
  std::optional<Digits> post, dev;
  std::vector<std::string> local;  // lower case, numbers without leading zeros; empty: none

  bool IsPrerelease() const { return !pre.empty() || dev.has_value(); }
};

// Reads every spelling that normalises to a version ("v1.0-RC.1"). INVALID_ARGUMENT with the text and the
// reason for anything else, and for more than 256 bytes.
absl::StatusOr<Version> ParseVersion(std::string_view text);

// The order of versions; 1.0 and 1.0.0 are equal.
std::weak_ordering Compare(const Version& a, const Version& b);

// One clause of a specifier: ">=1.2", "==1.*", "===anything".
struct Clause {
  std::string op;       // one of === ~= == != <= >= < >
  std::string text;     // the version as written
  bool prefix = false;  // it ends with ".*"
  Version version;      // unset for ===

  std::string String() const { return op + text; }
};

// INVALID_ARGUMENT where `op` does not allow that version: .* only with == and !=, a local part too, ~= with
// at least two numbers.
absl::StatusOr<Clause> ParseClause(std::string_view op, std::string_view version);

// True if `version` fits. Whether it is a prerelease makes no difference: an installed one counts as wished
// for, as the specification has it for what is already present. A text that is no version fits === alone.
bool Fits(const Clause& clause, std::string_view version);

}  // namespace sock::zygote
