#include "runtime/base/fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sock {
namespace {

using std::string_view_literals::operator""sv;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

TEST(FieldsTest, WrittenAsTheProtocolSays) {
  Fields fields("load");
  fields.Add("serial", 7).AddAll("module", {"numpy", "os.path"}).Add("empty", "");
  auto packet = fields.Serialize();
  ASSERT_TRUE(packet.ok()) << packet.status();
  EXPECT_EQ(*packet, "op\0load\0serial\0007\0module\0numpy\0module\0os.path\0empty\0\0"sv);

  auto parsed = Fields::Parse(*packet);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->op(), "load");
  EXPECT_THAT(parsed->list(), ElementsAre(Pair("op", "load"), Pair("serial", "7"), Pair("module", "numpy"),
                                          Pair("module", "os.path"), Pair("empty", "")));
  EXPECT_EQ(*parsed->GetNumber("serial"), 7u);
  EXPECT_THAT(parsed->GetAll("module"), ElementsAre("numpy", "os.path"));
  EXPECT_THAT(parsed->GetAll("absent"), IsEmpty());
  EXPECT_EQ(*parsed->Get("empty"), "");
}

TEST(FieldsTest, WhatIsNoListOfFields) {
  for (auto [packet, reason] : {std::pair{""sv, "first field"},
                                {"op"sv, "`op` is cut off"},
                                {"op\0"sv, "`op` is cut off"},
                                {"op\0go"sv, "`op` is cut off"},
                                {"op\0go\0text\0half"sv, "`text` is cut off"},
                                {"op\0go\0\0value\0"sv, "without a name"},
                                {"serial\0001\0op\0go\0"sv, "first field"},
                                {"a\nb"sv, "`a?b` is cut off"}}) {
    auto parsed = Fields::Parse(packet);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(parsed.status().message(), HasSubstr(reason));
  }
}

TEST(FieldsTest, AbsentRepeatedAndNotANumber) {
  Fields fields("x");
  fields.Add("a", "1")
      .Add("a", "2")
      .Add("word", "12a")
      .Add("negative", "-1")
      .Add("space", " 1")
      .Add("no", "");
  fields.Add("large", "18446744073709551616").Add("largest", UINT64_MAX);
  EXPECT_THAT(fields.Get("b").status().message(), HasSubstr("`b` is missing"));
  EXPECT_THAT(fields.Get("a").status().message(), HasSubstr("`a` repeats"));
  EXPECT_FALSE(fields.GetOptional("a").ok());
  EXPECT_EQ(*fields.GetOptional("b"), std::nullopt);
  for (auto name : {"word", "negative", "space", "no", "large"})
    EXPECT_FALSE(fields.GetNumber(name).ok()) << name;
  EXPECT_EQ(*fields.GetNumber("largest"), UINT64_MAX);
}

TEST(FieldsTest, WhatCannotBeWritten) {
  EXPECT_THAT(Fields("x").Add("env", "A=\0"sv).Serialize().status().message(),
              HasSubstr("`env` holds a NUL"));
  EXPECT_FALSE(Fields("x").Add("", "v").Serialize().ok());
  // "op" and "x" with their ends are 5 bytes, "arg" and two ends 5 more.
  std::string largest(kMaxFieldsBytes - 10, 'a');
  auto packet = Fields("x").Add("arg", largest).Serialize();
  ASSERT_TRUE(packet.ok()) << packet.status();
  EXPECT_TRUE(Fields::Parse(*packet).ok());
  EXPECT_EQ(Fields("x").Add("arg", largest + "a").Serialize().status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(Fields::Parse(*packet + "b\0c\0").ok());
}

}  // namespace
}  // namespace sock
