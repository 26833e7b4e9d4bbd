#include "runtime/network/ipam.h"

#include <gtest/gtest.h>

namespace sock::runtime {
namespace {

TEST(SubnetTest, TakesTheFirstIpv4OfAList) {
  EXPECT_EQ(ParseSubnet("fd00::/64,10.1.2.3/24")->Text(), "10.1.2.0/24");
  EXPECT_EQ(IpText(ParseSubnet("10.88.0.0/16")->gateway()), "10.88.0.1");
  for (const char* bad :
       {"", "10.0.0.0", "10.0.0.0/31", "10.0.0.0/7", "10.0.0.0/2x", "10.0.0/24", "fd00::/64"})
    EXPECT_TRUE(absl::IsInvalidArgument(ParseSubnet(bad).status())) << bad;
}

TEST(IpamTest, HandsOutEachOnceAndTheLongestFreedFirst) {
  Ipam ipam(*ParseSubnet("10.0.0.0/29"));  // .1 is the gateway, .7 the broadcast: .2 to .6
  ASSERT_TRUE(ipam.Adopt(*ParseIp("10.0.0.3")).ok());
  EXPECT_TRUE(absl::IsAlreadyExists(ipam.Adopt(*ParseIp("10.0.0.3"))));
  EXPECT_EQ(IpText(*ipam.Allocate()), "10.0.0.2");
  EXPECT_EQ(IpText(*ipam.Allocate()), "10.0.0.4");
  ipam.Release(*ParseIp("10.0.0.4"));
  ipam.Release(*ParseIp("10.0.0.2"));
  ipam.Release(*ParseIp("10.0.0.2"));  // not taken any more
  EXPECT_EQ(IpText(*ipam.Allocate()), "10.0.0.5");
  EXPECT_EQ(IpText(*ipam.Allocate()), "10.0.0.6");
  EXPECT_EQ(IpText(*ipam.Allocate()), "10.0.0.4");
  EXPECT_EQ(IpText(*ipam.Allocate()), "10.0.0.2");
  EXPECT_TRUE(absl::IsResourceExhausted(ipam.Allocate().status()));
  ipam.Release(*ParseIp("10.0.0.3"));
  EXPECT_EQ(IpText(*ipam.Allocate()), "10.0.0.3");
}

}  // namespace
}  // namespace sock::runtime
