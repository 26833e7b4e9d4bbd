// Which packages and modules a container asks for, and whether its image holds them. Requirements are read as
// the dependency specifiers specification says (packaging.python.org/specifications/dependency-specifiers,
// once PEP 508).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "zygote/version.h"

namespace sock::zygote {

// A step of an environment marker, in postfix order: a comparison pushes a truth value, `and` and `or`
// combine the two last ones.
struct MarkerStep {
  enum class Kind { kCompare, kAnd, kOr };
  Kind kind = Kind::kCompare;
  std::string variable, op, literal;
  bool literal_first = false;  // '3' <= variable
};

struct Requirement {
  std::string text;  // as written
  std::string name;  // normalised
  std::vector<std::string>
      extras;                   // normalised; they are not looked at: their packages must be named themselves
  std::vector<Clause> clauses;  // all must fit
  std::vector<MarkerStep> marker;  // empty: always

  std::string Wanted() const;  // "`numpy` >=1,<2"
};

// The list of packages.cri-sock.io: requirements separated by commas. A comma followed by a comparison
// operator continues the version specifier before it instead (`numpy>=1,<2, pandas` names two packages).
// White space may stand between all parts, and an empty text names none. INVALID_ARGUMENT says where and why;
// also for URL requirements, for marker variables other than python_version, python_full_version,
// sys_platform, platform_machine, platform_system, implementation_name and os_name, and past 16,384 bytes or
// 256 requirements.
absl::StatusOr<std::vector<Requirement>> ParseRequirements(std::string_view text);

// The list of imports.cri-sock.io: dotted ASCII module names separated by commas or white space, without
// repetition. INVALID_ARGUMENT names the one that is none; also past 16,384 bytes or 256 modules.
absl::StatusOr<std::vector<std::string>> ParseImports(std::string_view text);

// Lower case, each run of `-`, `_` and `.` one `-` (specifications/name-normalization, once PEP 503).
std::string NormalizeName(std::string_view name);

// What markers are asked about: a CPython on Linux.
struct MarkerEnvironment {
  std::string python_full_version;  // "3.11.2"
  std::string python_version;       // "3.11"
  std::string platform_machine;     // uname(2)
};
// INVALID_ARGUMENT where the text is no version. A `+` at its end (a build from a work tree) is ignored.
absl::StatusOr<MarkerEnvironment> MakeMarkerEnvironment(std::string_view python_full_version);

// Whether the requirement is meant for this environment.
bool Applies(const Requirement& requirement, const MarkerEnvironment& environment);

// Whether the installed version fits every clause. Prereleases: see Fits.
bool Satisfies(const Requirement& requirement, std::string_view version);

struct InstalledPackage {
  std::string name, version;
  std::vector<std::string> modules;  // top-level ones
};

// The modules that the requirements stand for, in their order, without repetition; requirements whose marker
// does not hold are left out. Of two installed packages of one name the first counts, as on sys.path.
// FAILED_PRECONDITION names the first requirement that is not met and why; INVALID_ARGUMENT: no Python
// version.
absl::StatusOr<std::vector<std::string>> Match(const std::vector<Requirement>& requirements,
                                               const std::vector<InstalledPackage>& installed,
                                               std::string_view python_full_version);

}  // namespace sock::zygote
