#include "runtime/network/checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <semaphore>

namespace sock::runtime {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using testing::ElementsAre;

PodNetworkRequest Pod(const std::string& id) {
  PodNetworkRequest request;
  request.sandbox_id = id;
  return request;
}

TEST(NetworkChecksTest, TellsWhatChanges) {
  absl::Status now = absl::UnavailableError("no route");
  std::vector<std::string> told;
  NetworkChecks checks(
      1, [&](const PodNetworkRequest&, const std::string&, int) { return now; },
      [&](const std::string& id, const absl::Status& status) {
        told.push_back(id + ": " + std::string(status.message()));
      });
  EXPECT_FALSE(checks.Ask("a", hours(1)).has_value());
  checks.Add(Pod("a"), "");
  EXPECT_EQ(checks.Count().failed, 0u);
  for (const char* message : {"no route", "no route", "no address", ""}) {
    now = *message ? absl::UnavailableError(message) : absl::OkStatus();
    auto check = checks.Ask("a", hours(1));
    ASSERT_TRUE(check && check->status);
    EXPECT_EQ(*check->status, now);
    EXPECT_FALSE(check->pending);
    EXPECT_EQ(checks.Count().failed, *message ? 1u : 0u);
    EXPECT_EQ(checks.Count().ok, *message ? 0u : 1u);
  }
  EXPECT_THAT(told, ElementsAre("a: no route", "a: no address", "a: "));
  checks.Drop("a");
  EXPECT_EQ(checks.Count().ok, 0u);
  EXPECT_FALSE(checks.Ask("a", hours(1)).has_value());
}

TEST(NetworkChecksTest, APodThatGoesWaitsForNoOther) {
  std::counting_semaphore<> began(0);
  std::atomic<int> running = 0, most = 0;
  std::mutex mutex;
  std::vector<std::string> order;
  NetworkChecks checks(
      2,
      [&](const PodNetworkRequest& request, const std::string& state, int stop) {
        {
          std::lock_guard lock(mutex);
          order.push_back(request.sandbox_id);
        }
        if (state != "hangs") return absl::OkStatus();
        most = std::max<int>(most, ++running);
        began.release();
        pollfd ends{stop, POLLIN, 0};
        poll(&ends, 1, -1);
        --running;
        return absl::CancelledError();
      },
      [](const std::string& id, const absl::Status& status) { ADD_FAILURE() << id << " " << status; });
  for (const char* id : {"a", "b", "c"}) checks.Add(Pod(id), "hangs");
  checks.Add(Pod("last"), "");
  checks.AskAll();
  began.acquire();
  began.acquire();
  EXPECT_EQ(checks.Ask("a", milliseconds(0))->pending, true);
  EXPECT_FALSE(checks.Ask("a", milliseconds(0))->status.has_value());
  checks.Ask("last", milliseconds(0));  // comes before c
  checks.Drop("a");
  began.acquire();
  checks.Drop("b");
  auto last = checks.Ask("last", hours(1));
  EXPECT_TRUE(last->status && last->status->ok());
  EXPECT_EQ(most, 2);
  EXPECT_EQ(order[2], "last");
  EXPECT_EQ(checks.Count().failed, 0u);
}  // c still runs

}  // namespace
}  // namespace sock::runtime
