#include "actors/peer_watch.h"

#include <gtest/gtest.h>

namespace convoke {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class PeerWatchTest : public testing::Test {
 protected:
  PeerWatchTest()
      : watch_({{1, "h1", "shard 1 of replica 0"}, {2, "h2", "drafter of replica 0"}}, {}, now_) {}

  /// Lets time pass in small steps, as the supervisor does, with heartbeats of the given ranks.
  std::optional<PeerWatch::Death> pass(milliseconds duration, std::vector<int> alive) {
    for (milliseconds done{0}; done < duration; done += milliseconds(50)) {
      now_ += milliseconds(50);
      for (int rank : alive) watch_.heard(rank, now_);
      if (auto death = watch_.check(now_)) return death;
    }
    return std::nullopt;
  }

  PeerWatch::Time now_ = PeerWatch::Time(seconds(5000));
  PeerWatch watch_;
};

TEST_F(PeerWatchTest, PeersThatBeatLive) {
  EXPECT_FALSE(pass(seconds(120), {1, 2}));
}

TEST_F(PeerWatchTest, SilenceIsDeathAfterFiveSeconds) {
  pass(seconds(1), {1, 2});
  EXPECT_FALSE(pass(milliseconds(4900), {2}));
  const auto death = pass(milliseconds(200), {2});
  ASSERT_TRUE(death);
  EXPECT_EQ(describe(death->peer), "rank 1 (host h1, shard 1 of replica 0)");
  EXPECT_EQ(death->reason, "died: nothing heard for 5.0 s");
}

TEST_F(PeerWatchTest, ALostConnectionIsDeathAtOnceButForAGrace) {
  pass(seconds(1), {1, 2});
  watch_.connection_lost(2, now_);
  EXPECT_TRUE(watch_.doubtful());
  EXPECT_FALSE(watch_.check(now_ + milliseconds(149)));
  const auto death = watch_.check(now_ + milliseconds(150));
  ASSERT_TRUE(death);
  EXPECT_EQ(death->peer.rank, 2);
  EXPECT_EQ(death->reason, "died: connection lost");
}

TEST_F(PeerWatchTest, AGoodbyeOrAReturnWithinTheGraceIsNoDeath) {
  pass(seconds(1), {1, 2});
  watch_.connection_lost(1, now_);
  watch_.connection_lost(2, now_);
  watch_.left(1);
  watch_.heard(2, now_ + milliseconds(100));
  EXPECT_FALSE(watch_.check(now_ + milliseconds(500)));
  EXPECT_FALSE(watch_.doubtful());
  EXPECT_TRUE(watch_.watching());
  watch_.left(2);
  EXPECT_FALSE(watch_.watching());
  EXPECT_FALSE(pass(seconds(100), {}));
}

TEST_F(PeerWatchTest, OfSeveralDeathsTheFirstIsReported) {
  pass(seconds(1), {1, 2});
  watch_.connection_lost(2, now_);
  watch_.connection_lost(1, now_ + milliseconds(20));
  const auto death = watch_.check(now_ + milliseconds(400));
  ASSERT_TRUE(death);
  EXPECT_EQ(death->peer.rank, 2);
}

TEST_F(PeerWatchTest, StartingTakesLongerButNotForEver) {
  EXPECT_FALSE(pass(milliseconds(59900), {2}));
  const auto death = pass(milliseconds(200), {2});
  ASSERT_TRUE(death);
  EXPECT_EQ(death->peer.rank, 1);
  EXPECT_EQ(death->reason, "did not report within 60 s of the start");
}

TEST_F(PeerWatchTest, OwnAbsenceIsNotBlamedOnPeers) {
  pass(seconds(1), {1, 2});
  now_ += seconds(30);  // stopped by a debugger, a laptop lid, a starved machine
  EXPECT_FALSE(watch_.check(now_));
  EXPECT_FALSE(pass(milliseconds(4900), {2}));
  EXPECT_TRUE(pass(milliseconds(300), {2}));
}

TEST_F(PeerWatchTest, StrangersAreIgnored) {
  watch_.heard(7, now_);
  watch_.left(-1);
  watch_.connection_lost(99, now_);
  EXPECT_FALSE(watch_.check(now_));
  EXPECT_EQ(watch_.find(7), nullptr);
  EXPECT_EQ(watch_.find(2)->host, "h2");
}

TEST(PeerWatch, NobodyToWatch) {
  PeerWatch watch({}, {}, PeerWatch::Time());
  EXPECT_FALSE(watch.check(PeerWatch::Time(seconds(100))));
  EXPECT_FALSE(watch.watching());
}

TEST(PeerWatch, DescriptionsWithoutDetails) {
  EXPECT_EQ(describe({3, "", ""}), "rank 3 (unknown host)");
}

}  // namespace
}  // namespace convoke
