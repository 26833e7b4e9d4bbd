#include "oci/reference.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "oci/hosts.h"

namespace sock::oci {
namespace {

const std::string kDigest = "sha256:" + std::string(64, 'a');

TEST(ReferenceTest, Table) {
  const std::pair<std::string, std::string> good[] = {
      {"busybox", "docker.io/library/busybox:latest"},
      {"busybox:1", "docker.io/library/busybox:1"},
      {"a/b", "docker.io/a/b:latest"},
      {"docker.io/busybox", "docker.io/library/busybox:latest"},
      {"index.docker.io/a/b:x", "docker.io/a/b:x"},
      {"localhost/x", "localhost/x:latest"},
      {"localhost:5000/x:y", "localhost:5000/x:y"},
      {"[::1]:5000/x", "[::1]:5000/x:latest"},
      {"host:5000", "docker.io/library/host:5000"},
      {"r.test/a__b/c--d/e.f@" + kDigest, "r.test/a__b/c--d/e.f@" + kDigest},
      {"busybox:1@" + kDigest, "docker.io/library/busybox:1@" + kDigest},
  };
  for (const auto& [text, want] : good) {
    auto got = ParseReference(text);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(got->String(), want);
    EXPECT_EQ(ParseReference(want)->String(), want);
  }
  for (const std::string& text : {std::string(),
                                  std::string("A"),
                                  std::string("a:"),
                                  std::string("a@sha256:12"),
                                  "a@" + kDigest + "0",
                                  std::string("/a"),
                                  std::string("a/"),
                                  std::string("a//b"),
                                  std::string("a/../b"),
                                  std::string("../a"),
                                  std::string("r.test:0/a"),
                                  std::string("r.test:99999/a"),
                                  std::string("-a"),
                                  std::string("a_-b"),
                                  std::string("a___b"),
                                  std::string("a:-x"),
                                  "a:" + std::string(129, 'x'),
                                  std::string(256, 'a'),
                                  std::string("http://r.test/a"),
                                  std::string("r.test/a b"),
                                  std::string("[::1/a"),
                                  std::string("a\0b", 3)}) {
    EXPECT_EQ(ParseReference(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

struct HostsTest : testing::Test {
  std::string dir = [] {
    char name[] = "/tmp/hosts-test-XXXXXX";
    return std::string(mkdtemp(name));
  }();
  ~HostsTest() override { std::filesystem::remove_all(dir); }
  void Write(const std::string& folder, const std::string& text) {
    std::filesystem::create_directories(dir + "/" + folder);
    std::ofstream(dir + "/" + folder + "/hosts.toml") << text;
  }
};

TEST_F(HostsTest, Defaults) {
  EXPECT_EQ(ResolveHosts("", "docker.io")->at(0).url, "https://registry-1.docker.io/v2");
  EXPECT_EQ(ResolveHosts(dir, "r.test:5000")->at(0).url, "https://r.test:5000/v2");
  EXPECT_EQ(ResolveHosts(dir, "127.0.0.1.r.test")->at(0).url, "https://127.0.0.1.r.test/v2");
  for (std::string host : {"localhost:5000", "127.0.0.1", "[::1]:5"}) {
    EXPECT_EQ(ResolveHosts(dir, host)->at(0).url, "http://" + host + "/v2");
  }
}

TEST_F(HostsTest, FileOrderAndFields) {
  Write("r.test:5000", R"(server = "https://up.test"
[host."http://z.test"]
  capabilities = ["pull"]
  skip_verify = true
[host."https://a.test/own/root"]
  capabilities = ["pull", "resolve"]
  override_path = true
  ca = "ca.pem"
  client = [["c.pem", "/k.pem"]]
)");
  auto hosts = ResolveHosts(dir, "r.test:5000");
  ASSERT_TRUE(hosts.ok()) << hosts.status();
  ASSERT_EQ(hosts->size(), 3u);
  EXPECT_EQ((*hosts)[0].url, "http://z.test/v2");
  EXPECT_TRUE((*hosts)[0].pull && !(*hosts)[0].resolve && (*hosts)[0].skip_verify && (*hosts)[0].mirror);
  EXPECT_EQ((*hosts)[1].url, "https://a.test/own/root");
  EXPECT_EQ((*hosts)[1].ca, std::vector<std::string>{dir + "/r.test:5000/ca.pem"});
  EXPECT_EQ((*hosts)[1].client_cert, dir + "/r.test:5000/c.pem");
  EXPECT_EQ((*hosts)[1].client_key, "/k.pem");
  EXPECT_EQ((*hosts)[2].url, "https://up.test/v2");
  Write("r.test_5000_", "server = \"http://first.test\"");
  EXPECT_EQ(ResolveHosts(dir, "r.test:5000")->at(0).url, "http://first.test/v2");
  Write("_default", "server = \"http://other.test\"");
  EXPECT_EQ(ResolveHosts(dir, "else.test")->at(0).url, "http://other.test/v2");
  for (const char* bad :
       {"server = 1", "server = \"ftp://x\"", "[host.\"https://x\"]\ncapabilities = [\"fly\"]", "a = ["}) {
    Write("_default", bad);
    EXPECT_EQ(ResolveHosts(dir, "else.test").status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace sock::oci
