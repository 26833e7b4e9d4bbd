#include "zygote/requirement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/text.h"

namespace sock::zygote {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<Requirement> Parse(std::string_view text) {
  auto list = ParseRequirements(text);
  EXPECT_TRUE(list.ok()) << list.status();
  return list.ok() ? *list : std::vector<Requirement>{};
}

// Names and clauses of a list in one line.
std::string Shown(std::string_view text) {
  std::string shown;
  for (const Requirement& requirement : Parse(text)) {
    shown += requirement.name;
    for (const std::string& extra : requirement.extras) shown += "[" + extra + "]";
    for (const Clause& clause : requirement.clauses) shown += " " + clause.String();
    shown += ";";
  }
  return shown;
}

std::string ErrorOf(std::string_view text) {
  auto list = ParseRequirements(text);
  EXPECT_EQ(list.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(list.status().message());
}

// Whether the marker holds under CPython 3.11.2.
bool Holds(std::string marker) {
  auto list = ParseRequirements("x; " + marker);
  EXPECT_TRUE(list.ok()) << list.status();
  auto environment = MakeMarkerEnvironment("3.11.2");
  EXPECT_TRUE(environment.ok()) << environment.status();
  environment->platform_machine = "x86_64";
  return list.ok() && Applies(list->at(0), *environment);
}

TEST(RequirementTest, Lists) {
  EXPECT_EQ(Shown(""), "");
  EXPECT_EQ(Shown(" \n"), "");
  EXPECT_EQ(Shown("numpy==2.4.6, pandas"), "numpy ==2.4.6;pandas;");
  EXPECT_EQ(Shown("numpy>=1,<2, pandas"), "numpy >=1 <2;pandas;");
  EXPECT_EQ(Shown("numpy >= 1 ,\n < 2 , pandas\n"), "numpy >=1 <2;pandas;");
  EXPECT_EQ(Shown("numpy (>=1, <2),pandas"), "numpy >=1 <2;pandas;");
  EXPECT_EQ(Shown("Flask_SQL..Alchemy~=3.0"), "flask-sql-alchemy ~=3.0;");
  EXPECT_EQ(Shown("requests[socks, Use_Chardet]>2,urllib3[]"), "requests[socks][use-chardet] >2;urllib3;");
  EXPECT_EQ(Shown("a===1.0-x!y,b!=1.*"), "a ===1.0-x!y;b !=1.*;");
  EXPECT_EQ(Shown("a; python_version in '3.12,5' or os_name in 'a,b', b"), "a;b;");
  EXPECT_EQ(Parse(" a >= 1 ; os_name == 'nt' , b")[0].text, "a >= 1 ; os_name == 'nt'");
}

TEST(RequirementTest, MalformedSaysWhereAndWhy) {
  for (auto [text, reason] : {std::pair{"numpy,", "the end: expected the name"},
                              {",numpy", "character 1"},
                              {"numpy==", "`==` without a version"},
                              {"numpy=1", "character 6"},
                              {"numpy>=1,<", "`<` without a version"},
                              {"numpy>=x", "`x` is no version"},
                              {"numpy ~= 1", "two numbers"},
                              {"numpy pandas", "expected `,` or the end"},
                              {"numpy (>=1", "expected `)`"},
                              {"numpy (>=1, pandas)", "comparison operator"},
                              {"numpy ()", "comparison operator"},
                              {"-numpy", "begins and ends"},
                              {"numpy-", "begins and ends"},
                              {"numpy[", "name of an extra"},
                              {"numpy[a b]", "expected `,` or `]`"},
                              {"numpy[a,]", "name of an extra"},
                              {"n\xc3\xbcmpy", "\\303"},
                              {"a;", "expected a variable"},
                              {"a; python_version", "expected one of"},
                              {"a; python_version <", "expected a variable"},
                              {"a; python_version < '3.12", "not closed"},
                              {"a; python_version < '3.x'", "`3.x` is no version"},
                              {"a; python_version < 3", "`3` is not supported"},
                              {"a; extra == 'x'", "`extra` is not supported"},
                              {"a; platform_release > '5'", "`platform_release` is not supported"},
                              {"a; '3' < '4'", "compares a variable"},
                              {"a; os_name == sys_platform", "compares a variable"},
                              {"a; os_name ~= '1.0'", "versions only"},
                              {"a; os_name not 'x'", "expected `in`"},
                              {"a; (os_name == 'x'", "expected `)`"},
                              {"a; os_name == 'x' and", "expected a variable"},
                              {"a; os_name == 'x' android", "expected `,` or the end"}})
    EXPECT_THAT(ErrorOf(text), HasSubstr(reason)) << text;
  // A password in a URL is not repeated.
  EXPECT_THAT(ErrorOf("pip @ https://user:secret@example.com/x.whl"),
              AllOf(HasSubstr("`pip`: a URL"), Not(HasSubstr("secret"))));
}

TEST(RequirementTest, Limits) {
  EXPECT_THAT(ErrorOf(std::string(16385, 'a')), HasSubstr("16384 bytes"));
  std::string list = "a";
  for (int i = 1; i < 256; ++i) list += ",a";
  EXPECT_EQ(Parse(list).size(), 256u);
  EXPECT_THAT(ErrorOf(list + ",a"), HasSubstr("256 requirements"));
  EXPECT_TRUE(Holds(std::string(16, '(') + "os_name=='posix'" + std::string(16, ')')));
  EXPECT_THAT(ErrorOf("a;" + std::string(17, '(') + "os_name=='posix'" + std::string(17, ')')),
              HasSubstr("16 parentheses"));
}

TEST(RequirementTest, Markers) {
  EXPECT_TRUE(Holds("python_version >= '3.9'"));  // as versions, not as strings
  EXPECT_FALSE(Holds("python_version < \"3.9\""));
  EXPECT_TRUE(Holds("'3.9' <= python_version"));
  EXPECT_TRUE(Holds("python_version == '3.11'"));
  EXPECT_FALSE(Holds("python_full_version == '3.11'"));
  EXPECT_TRUE(Holds("python_full_version == '3.11.*'"));
  EXPECT_TRUE(Holds("python_full_version ~= '3.11.1'"));
  EXPECT_TRUE(Holds("python_version in '3.10, 3.11'"));
  EXPECT_TRUE(Holds("python_version not in '3.9 3.10'"));
  EXPECT_TRUE(Holds("sys_platform == 'linux' and platform_system == 'Linux' and os_name == 'posix'"));
  EXPECT_TRUE(Holds("implementation_name == 'cpython'"));
  EXPECT_TRUE(Holds("platform_machine == 'x86_64'"));
  EXPECT_TRUE(Holds("'x86' in platform_machine"));
  EXPECT_FALSE(Holds("sys_platform == 'win32' or implementation_name != 'cpython'"));
  EXPECT_TRUE(Holds("os_name >= 'posix'"));
  EXPECT_FALSE(Holds("os_name > 'nt' or os_name >= 'nt' or os_name < 'z'"));
  // `and` binds before `or`.
  EXPECT_TRUE(Holds("os_name == 'posix' or os_name == 'nt' and os_name == 'java'"));
  EXPECT_FALSE(Holds("(os_name == 'posix' or os_name == 'nt') and os_name == 'java'"));
}

TEST(RequirementTest, MatchesWhatIsInstalled) {
  std::vector<InstalledPackage> installed = {
      {"NumPy", "2.4.6", {"numpy"}},
      {"python_dateutil", "2.9.0.post0", {"dateutil"}},
      {"setuptools", "66.1.1", {"_distutils_hack", "pkg_resources", "setuptools"}},
      {"torch", "2.6.0.dev20250101+cpu", {"torch", "numpy"}},
      {"numpy", "1.0", {"shadowed"}},
      {"odd", "not-a-version", {"odd"}}};
  auto match = [&](std::string_view text) { return Match(Parse(text), installed, "3.11.2+"); };
  EXPECT_THAT(*match(""), IsEmpty());
  EXPECT_THAT(*match("torch, numpy>=2,<3, Python.Dateutil"), ElementsAre("torch", "numpy", "dateutil"));
  EXPECT_THAT(*match("setuptools[core]"), ElementsAre("_distutils_hack", "pkg_resources", "setuptools"));
  EXPECT_THAT(*match("absent; python_version < '3.9', odd"), ElementsAre("odd"));
  EXPECT_THAT(*match("odd===NOT-a-version"), ElementsAre("odd"));
  for (auto [text, reason] : {std::pair{"numpy, pandas >= 2", "`pandas` >=2: not installed"},
                              {"pandas", "`pandas`: not installed"},
                              {"numpy>=1,<2", "`numpy` >=1,<2: installed is `2.4.6`"},
                              {"odd>=0", "`odd` >=0: installed is `not-a-version`"}}) {
    auto modules = match(text);
    EXPECT_EQ(modules.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(modules.status().message(), reason);
  }
  EXPECT_EQ(Match({}, installed, "three").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(RequirementTest, Imports) {
  auto parse = [](std::string_view text) { return ParseImports(text); };
  EXPECT_THAT(*parse(""), IsEmpty());
  EXPECT_THAT(*parse("numpy, numpy.linalg\n_x  numpy,, a1"),
              ElementsAre("numpy", "numpy.linalg", "_x", "a1"));
  for (auto text : {"1a", "a.", ".a", "a..b", "a-b", "a;b", "a.1", "\xc3\xbc", "os:path"}) {
    auto modules = parse(Cat("fine ", text));
    EXPECT_EQ(modules.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(modules.status().message(), HasSubstr("is no dotted name"));
  }
  std::string many;
  for (int i = 0; i < 256; ++i) many += Cat("m", i, " ");
  EXPECT_EQ(parse(many)->size(), 256u);
  EXPECT_FALSE(parse(many + "last").ok());
  EXPECT_FALSE(parse(std::string(16385, ' ')).ok());
}

}  // namespace
}  // namespace sock::zygote
