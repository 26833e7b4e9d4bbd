#include "oci/annotations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sock::oci {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Annotations = std::map<std::string, std::string>;

TEST(AnnotationsTest, NothingAskedFor) {
  auto request =
      ResolveAnnotations({{"unknown.cri-sock.io", "\x01"}, {"packages.example.com", "numpy"}}, "app", {});
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->packages, std::nullopt);
  EXPECT_EQ(request->imports, std::nullopt);
  EXPECT_EQ(request->trust_domain, std::nullopt);
  EXPECT_EQ(request->mode, ZygoteRequest::Mode::kAuto);
}

TEST(AnnotationsTest, TheNearestHolds) {
  Annotations pod = {{"packages.cri-sock.io/app", "a"},
                     {"packages.cri-sock.io/other", "o"},
                     {"packages.cri-sock.io/POD", "b"},
                     {"packages.cri-sock.io", "c"}};
  Image image;
  image.config.labels = {{"packages.cri-sock.io", "d"}};
  image.annotations = {{"packages.cri-sock.io", "e"}};
  auto expect = [&](const char* value, const char* source) {
    auto request = ResolveAnnotations(pod, "app", image);
    ASSERT_TRUE(request.ok()) << request.status();
    EXPECT_EQ(request->packages, value);
    EXPECT_EQ(request->packages_source, source);
  };
  expect("a", "pod annotation `packages.cri-sock.io/app`");
  pod.erase("packages.cri-sock.io/app");
  expect("b", "pod annotation `packages.cri-sock.io/POD`");
  pod.erase("packages.cri-sock.io/POD");
  expect("c", "pod annotation `packages.cri-sock.io`");
  pod.erase("packages.cri-sock.io");
  expect("d", "image label `packages.cri-sock.io`");
  image.config.labels.clear();
  expect("e", "image annotation `packages.cri-sock.io`");
}

TEST(AnnotationsTest, EachKeyByItself) {
  Image image;
  image.config.labels = {{"packages.cri-sock.io", "numpy"}, {"imports.cri-sock.io", "numpy.linalg"}};
  image.annotations = {{"zygote.cri-sock.io", "required"}};
  auto request = ResolveAnnotations({{"packages.cri-sock.io", ""}, {"trust-domain.cri-sock.io", "team-1"}},
                                    "app", image);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->packages, "");  // asked for none, against the label
  EXPECT_EQ(request->imports, "numpy.linalg");
  EXPECT_EQ(request->imports_source, "image label `imports.cri-sock.io`");
  EXPECT_EQ(request->mode, ZygoteRequest::Mode::kRequired);
  EXPECT_EQ(request->trust_domain, "team-1");
  EXPECT_EQ(request->trust_domain_source, "pod annotation `trust-domain.cri-sock.io`");
}

TEST(AnnotationsTest, AnImageCannotChooseWhomThePodTrusts) {
  Image image;
  image.config.labels = {{"trust-domain.cri-sock.io", "kube-system"}};
  image.annotations = image.config.labels;
  auto request = ResolveAnnotations({}, "app", image);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->trust_domain, std::nullopt);
}

TEST(AnnotationsTest, MalformedNamesTheKeyThatWasFound) {
  Image image;
  image.config.labels = {{"zygote.cri-sock.io", "never\n"}};
  auto status = ResolveAnnotations({}, "app", image).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(),
              AllOf(HasSubstr("image label `zygote.cri-sock.io`"), HasSubstr("`never\\n`")));
  EXPECT_TRUE(ResolveAnnotations({{"zygote.cri-sock.io/app", "off"}}, "app", image).ok());

  for (auto mode : {"", "AUTO", "on"}) {
    status = ResolveAnnotations({{"zygote.cri-sock.io/app", mode}}, "app", {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << mode;
    EXPECT_THAT(status.message(), HasSubstr("`zygote.cri-sock.io/app`"));
  }
  for (const std::string& domain : {std::string(), std::string("Team"), std::string("-a"), std::string("a-"),
                                    std::string("a/b"), std::string("a.b"), std::string(64, 'a')}) {
    status = ResolveAnnotations({{"trust-domain.cri-sock.io/POD", domain}}, "app", {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << domain;
    EXPECT_THAT(status.message(), HasSubstr("`trust-domain.cri-sock.io/POD`"));
  }
}

TEST(AnnotationsTest, HandlersAreNotThereYet) {
  Image image;
  image.config.labels = {{"handler.cri-sock.io", "app.main"}};
  auto status = ResolveAnnotations({}, "app", image).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(status.message(), HasSubstr("image label `handler.cri-sock.io`"));
}

}  // namespace
}  // namespace sock::oci
