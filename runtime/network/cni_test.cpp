#include "runtime/network/cni.h"

#include <gtest/gtest.h>

namespace sock::runtime {
namespace {

TEST(CniConfigTest, ReadsSinglePluginsAndLists) {
  auto single = ParseCniConfig(R"({"cniVersion": "0.3.1", "name": "n", "type": "ptp"})", "a.conf");
  ASSERT_TRUE(single.ok()) << single.status();
  EXPECT_EQ(single->plugins.size(), 1u);
  auto list = ParseCniConfig(
      R"({"cniVersion": "1.1.0", "name": "n", "disableCheck": true, "plugins": [{"type": "a"}, {"type": "b"}]})",
      "a.conflist");
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->plugins.size(), 2u);
  EXPECT_TRUE(list->disable_check);
}

TEST(CniConfigTest, RefusesWhatIsWrong) {
  for (const char* bad :
       {"", "[]", "{", R"({"type": "a"})", R"({"name": "n"})", R"({"name": "n", "type": "../a"})",
        R"({"name": "n", "type": 3})", R"({"name": "n", "type": "a", "cniVersion": "2.0.0"})"})
    EXPECT_TRUE(absl::IsInvalidArgument(ParseCniConfig(bad, "a.conf").status())) << bad;
  for (const char* bad : {R"({"name": "n"})", R"({"name": "n", "plugins": []})",
                          R"({"name": "n", "plugins": [1]})", R"({"name": "n", "plugins": [{}]})"})
    EXPECT_TRUE(absl::IsInvalidArgument(ParseCniConfig(bad, "a.conflist").status())) << bad;
}

TEST(CniResultTest, ReadsEveryVersion) {
  auto recent = ParseCniResult(R"({"cniVersion": "1.0.0",
    "interfaces": [{"name": "br"}, {"name": "eth0", "sandbox": "/ns"}],
    "ips": [{"address": "10.0.0.1/24", "interface": 0}, {"address": "10.0.0.2/24", "interface": 1},
            {"address": "fd00::2/64"}],
    "dns": {"nameservers": ["1.1.1.1"], "domain": "d", "options": ["ndots:5"]}})");
  ASSERT_TRUE(recent.ok());
  EXPECT_EQ(recent->ips, (std::vector<std::string>{"10.0.0.2", "fd00::2"}));
  EXPECT_EQ(recent->dns_searches, std::vector<std::string>{"d"});
  EXPECT_EQ(recent->dns_options, std::vector<std::string>{"ndots:5"});
  auto old = ParseCniResult(R"({"ip4": {"ip": "10.0.0.3/24"}, "ip6": {"ip": "fd00::3/64"}})");
  EXPECT_EQ(old->ips, (std::vector<std::string>{"10.0.0.3", "fd00::3"}));
  EXPECT_FALSE(ParseCniResult("garbage").ok());
  EXPECT_TRUE(ParseCniResult(R"({"ips": [3, {"address": 4}], "interfaces": 3, "dns": []})")->ips.empty());
}

}  // namespace
}  // namespace sock::runtime
