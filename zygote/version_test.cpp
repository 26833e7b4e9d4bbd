#include "zygote/version.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sock::zygote {
namespace {

using ::testing::HasSubstr;

Version V(std::string_view text) {
  auto version = ParseVersion(text);
  EXPECT_TRUE(version.ok()) << version.status();
  return version.ok() ? *version : Version{.release = {{}}};
}

// Whether `version` fits the clause `op` `wanted`.
bool F(std::string_view op, std::string_view wanted, std::string_view version) {
  auto clause = ParseClause(op, wanted);
  EXPECT_TRUE(clause.ok()) << clause.status();
  return clause.ok() && Fits(*clause, version);
}

TEST(VersionTest, EachIsLessThanTheNext) {
  // The order that the specification gives as its example, and then some.
  const char* ordered[] = {"0",
                           "1.dev0",
                           "1.0.dev456",
                           "1.0a1",
                           "1.0a2.dev456",
                           "1.0a12.dev456",
                           "1.0a12",
                           "1.0b1.dev4",
                           "1.0b2",
                           "1.0b2.post345.dev456",
                           "1.0b2.post345",
                           "1.0rc1.dev456",
                           "1.0rc1",
                           "1.0",
                           "1.0+abc.5",
                           "1.0+abc.7",
                           "1.0+5",
                           "1.0+5.0",
                           "1.0+10",
                           "1.0.post456.dev34",
                           "1.0.post456",
                           "1.0.15",
                           "1.1.dev1",
                           "1.2",
                           "1.10",
                           "2024.1",
                           "99999999999999999999998",
                           "99999999999999999999999",
                           "1!0.1"};
  for (size_t i = 0; i < std::size(ordered); ++i)
    for (size_t j = 0; j < std::size(ordered); ++j)
      EXPECT_TRUE(Compare(V(ordered[i]), V(ordered[j])) == (i <=> j)) << ordered[i] << " and " << ordered[j];
}

TEST(VersionTest, SpellingsOfOneVersion) {
  for (auto [a, b] : {std::pair{"1.0", "1"},
                      {"v1.0.0", "1"},
                      {"1.0ALPHA1", "1.0a1"},
                      {"1.0-alpha.1", "1a1"},
                      {"1.0_beta", "1b0"},
                      {"1.0c2", "1rc2"},
                      {"1.0-preview2", "1rc2"},
                      {"1.0pre2", "1rc2"},
                      {"1.0-1", "1.post1"},
                      {"1.0-r1", "1.post1"},
                      {"1.0.rev-1", "1.post1"},
                      {"1.0post", "1.post0"},
                      {"1.0-dev_3", "1.dev3"},
                      {"01.002", "1.2"},
                      {"1.0+ubuntu-1", "1.0+Ubuntu.01"},
                      {"0!1", "1"},
                      {"1.0a-post1", "1a0.post1"}})
    EXPECT_TRUE(Compare(V(a), V(b)) == 0) << a << " and " << b;
}

TEST(VersionTest, NotVersions) {
  for (const std::string& text :
       {std::string(), std::string("abc"), std::string("1."), std::string("1..2"), std::string("1.0 "),
        std::string("!1"), std::string("1!"), std::string("1.0+"), std::string("1.0+a..b"),
        std::string("1.0+a+b"), std::string("1.0x1"), std::string("-1"), std::string("1.*"),
        std::string("1.0\0", 4), std::string(257, '1')}) {
    auto version = ParseVersion(text);
    EXPECT_EQ(version.status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_TRUE(ParseVersion(std::string(256, '1')).ok());
}

TEST(VersionTest, Clauses) {
  EXPECT_TRUE(F("==", "1.1", "1.1.0"));
  EXPECT_TRUE(F("==", "1.1", "1.1+local"));
  EXPECT_FALSE(F("==", "1.1+a", "1.1"));
  EXPECT_FALSE(F("==", "1.1", "1.1.post1"));
  EXPECT_TRUE(F("==", "1.1.*", "1.1.post1"));
  EXPECT_TRUE(F("==", "1.1.*", "1.1a1"));
  EXPECT_TRUE(F("==", "1.0.*", "1"));
  EXPECT_FALSE(F("==", "1.1.*", "1.11"));
  EXPECT_FALSE(F("==", "1!1.*", "1.1"));
  EXPECT_FALSE(F("!=", "1.1.*", "1.1.7"));
  EXPECT_TRUE(F("!=", "1.1", "1.1.7"));
  EXPECT_TRUE(F("~=", "2.2", "2.30"));
  EXPECT_FALSE(F("~=", "2.2", "2.1"));
  EXPECT_FALSE(F("~=", "2.2", "3.0"));
  EXPECT_FALSE(F("~=", "1.4.5", "1.5.0"));
  EXPECT_TRUE(F("~=", "2.2.post3", "2.2.post4"));
  EXPECT_TRUE(F("~=", "2.2.0", "2.2"));
  EXPECT_TRUE(F(">=", "1.2", "1.10"));
  EXPECT_TRUE(F(">=", "1.2", "1.2+local"));
  EXPECT_TRUE(F("<=", "1.2", "1.2+local"));
  EXPECT_FALSE(F(">", "1.2", "1.2+local"));
  EXPECT_FALSE(F(">", "1.7", "1.7.0.post1"));
  EXPECT_TRUE(F(">", "1.7", "1.7.1"));
  EXPECT_TRUE(F(">", "1.7.post2", "1.7.post3"));
  EXPECT_FALSE(F("<", "3.0", "3.0rc1"));
  EXPECT_TRUE(F("<", "3.0.post1", "3.0rc1"));
  EXPECT_FALSE(F("<", "3.0.post1", "3.0.post1.dev2"));
  EXPECT_TRUE(F(">", "3.0rc1", "3.0.post1"));
  EXPECT_FALSE(F(">", "3.0rc1", "3.0rc1.post1"));
  EXPECT_TRUE(F("<", "3.0rc2", "3.0rc1"));
  EXPECT_TRUE(F("<", "3.0", "2.9rc1"));  // an installed prerelease counts
  EXPECT_TRUE(F(">=", "2.0", "2.1.dev3"));
  EXPECT_TRUE(F("===", "1.0-Custom!", "1.0-custom!"));
  EXPECT_FALSE(F("===", "1.0", "1.0.0"));
  EXPECT_FALSE(F(">=", "0", "custom"));
  EXPECT_FALSE(F("!=", "1", "custom"));
}

TEST(VersionTest, ClausesThatAreNone) {
  for (auto [op, version, reason] : {std::tuple{">=", "1.*", "only"},
                                     {"<=", "1+a", "local"},
                                     {"~=", "1", "two numbers"},
                                     {"~=", "1.*", "only"},
                                     {"==", "1a1.*", "numbers only"},
                                     {"==", "*", "no version"},
                                     {"==", "1.*.*", "no version"},
                                     {"==", "", "without a version"},
                                     {"===", "", "without a version"},
                                     {"<", "x", "`x` is no version"}}) {
    auto clause = ParseClause(op, version);
    EXPECT_EQ(clause.status().code(), absl::StatusCode::kInvalidArgument) << op << version;
    EXPECT_THAT(clause.status().message(), HasSubstr(reason));
  }
}

}  // namespace
}  // namespace sock::zygote
