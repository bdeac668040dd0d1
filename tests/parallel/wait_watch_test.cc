// Who is blamed, with a board in memory and a clock that the tests move.
#include "parallel/wait_watch.h"

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

namespace convoke {
namespace {

using std::chrono::milliseconds;

constexpr double kDeadline = 2;
constexpr milliseconds kTick{10};
constexpr int kReduce = 0, kBroadcast = 2;

struct Boards {
  std::vector<uint64_t> marks;
  int publications = 0;
};

class TestBoard final : public WaitBoard {
 public:
  TestBoard(Boards& boards, int rank) : boards_(boards), rank_(rank) {}
  void publish(uint64_t mark) override {
    boards_.marks[size_t(rank_)] = mark;
    ++boards_.publications;
  }
  void read(std::span<uint64_t> marks) override {
    std::copy(boards_.marks.begin(), boards_.marks.end(), marks.begin());
  }

 private:
  Boards& boards_;
  int rank_;
};

/// Ranks that wait, do something else, or are stopped: the last two look the same from outside.
class WaitWatchTest : public testing::Test {
 protected:
  struct Rank {
    std::unique_ptr<TestBoard> board;
    std::unique_ptr<WaitWatch> watch;
    int awaited = -1;  // -1: not waiting
    std::optional<WaitWatch::Blame> blame;
    milliseconds blamed_after{0};
  };

  void make(int size) {
    boards_.marks.assign(size_t(size), 0);
    for (int r = 0; r < size; ++r) {
      Rank& rank = ranks_.emplace_back();
      rank.board = std::make_unique<TestBoard>(boards_, r);
      rank.watch = std::make_unique<WaitWatch>(*rank.board, r, size, kDeadline);
    }
  }

  void wait(int rank, int awaited, int operation = kReduce) {
    ranks_[size_t(rank)].awaited = awaited;
    ranks_[size_t(rank)].watch->begin(operation);
  }
  void arrive(int rank) {
    ranks_[size_t(rank)].awaited = -1;
    ranks_[size_t(rank)].watch->end();
  }
  /// Never to be heard of again, its mark as it is.
  void stop(int rank) { ranks_[size_t(rank)].awaited = -1; }

  /// All that wait look at the board, again and again; a rank that blames leaves the game.
  void pass(milliseconds time) {
    for (milliseconds spent{0}; spent < time; spent += kTick) {
      now_ += kTick;
      for (Rank& rank : ranks_) {
        if (rank.awaited < 0 || rank.blame) continue;
        rank.blame = rank.watch->look(now_, [&] { return rank.awaited; });
        if (rank.blame) rank.blamed_after = elapsed();
      }
    }
  }
  milliseconds elapsed() const { return std::chrono::duration_cast<milliseconds>(now_ - kStart); }

  void expect_blame(int by, int of, int operation = kReduce) {
    const auto& blame = ranks_[size_t(by)].blame;
    ASSERT_TRUE(blame.has_value()) << "rank " << by;
    EXPECT_EQ(blame->rank, of) << "blamed by " << by;
    EXPECT_EQ(blame->operation, operation) << "blamed by " << by;
  }
  void expect_nobody_blamed() {
    for (const Rank& rank : ranks_) EXPECT_FALSE(rank.blame.has_value());
  }
  WaitMark mark(int rank) const { return WaitMark::unpack(boards_.marks[size_t(rank)]); }

  static constexpr WaitWatch::Time kStart{std::chrono::hours(1)};
  Boards boards_;
  std::vector<Rank> ranks_;
  WaitWatch::Time now_ = kStart;
};

TEST(WaitMark, SurvivesPacking) {
  for (const int awaited : {-1, 0, 7, 100'000}) {
    for (const bool suspicious : {false, true}) {
      const WaitMark mark{awaited, 127, suspicious, 0xfffe, 0x8001};
      const WaitMark again = WaitMark::unpack(mark.packed());
      EXPECT_EQ(again.awaited, awaited);
      EXPECT_EQ(again.operation, 127);
      EXPECT_EQ(again.suspicious, suspicious);
      EXPECT_EQ(again.suspicion, 0xfffe);
      EXPECT_EQ(again.version, 0x8001);
    }
  }
  EXPECT_EQ(WaitMark::unpack(0).awaited, -1);
  EXPECT_FALSE(WaitMark::unpack(0).suspicious);
}

TEST_F(WaitWatchTest, TheSilentRankIsBlamedAtTheDeadline) {
  make(2);
  wait(0, 1);
  pass(milliseconds(1990));
  expect_nobody_blamed();
  pass(milliseconds(100));
  expect_blame(0, 1);
  EXPECT_LE(ranks_[0].blamed_after, milliseconds(2050));
}

// Rank 3 is stopped at the end of a reduction. Ranks 0 and 1 have all they need of it and go on to
// a broadcast, where they miss rank 2, which still waits for rank 3.
TEST_F(WaitWatchTest, ThoseAnOperationAheadBlameTheStoppedRankToo) {
  make(4);
  wait(0, 2, kBroadcast);
  wait(1, 0, kBroadcast);
  wait(2, 3, kReduce);
  pass(milliseconds(2100));
  for (const int rank : {0, 1, 2}) expect_blame(rank, 3, kReduce);
}

TEST_F(WaitWatchTest, ARankThatCameToItsWaitLateIsNotBlamed) {
  make(3);
  wait(0, 1);
  pass(milliseconds(1900));
  wait(1, 2, kBroadcast);  // had something else to do until now
  pass(milliseconds(200));
  expect_blame(0, 2, kBroadcast);
  EXPECT_FALSE(ranks_[1].blame.has_value());  // its own wait is young
}

TEST_F(WaitWatchTest, WhoIsMerelyLateIsForgiven) {
  make(3);
  wait(0, 1);
  wait(1, 2);
  pass(milliseconds(1900));
  EXPECT_TRUE(mark(0).suspicious);
  arrive(1);
  arrive(0);
  EXPECT_EQ(mark(0).awaited, -1);
  EXPECT_FALSE(mark(0).suspicious);
  EXPECT_EQ(mark(1).awaited, -1);
  // And nothing of it is left: the next wait has the whole deadline, and says nothing at first.
  const int before = boards_.publications;
  wait(0, 2);
  wait(1, 2);
  pass(milliseconds(900));
  EXPECT_EQ(boards_.publications, before);
  pass(milliseconds(1000));
  expect_nobody_blamed();
  pass(milliseconds(200));
  expect_blame(0, 2);
  expect_blame(1, 2);
}

TEST_F(WaitWatchTest, OfTwoStoppedRanksEachIsBlamedByThoseThatNeedIt) {
  make(5);
  wait(0, 3);
  wait(1, 4);
  wait(2, 1);
  pass(milliseconds(2100));
  expect_blame(0, 3);
  expect_blame(1, 4);
  expect_blame(2, 4);
}

TEST_F(WaitWatchTest, ACircleBlamesAnotherOfIts) {
  make(4);
  wait(0, 1);
  wait(1, 2);
  wait(2, 0);
  wait(3, 0);  // from outside
  pass(milliseconds(2100));
  for (int r = 0; r < 4; ++r) {
    ASSERT_TRUE(ranks_[size_t(r)].blame.has_value()) << r;
    EXPECT_NE(ranks_[size_t(r)].blame->rank, r);
    EXPECT_LT(ranks_[size_t(r)].blame->rank, 3);
  }
}

TEST_F(WaitWatchTest, AMarkFromBeforeTheSuspicionProvesNothing) {
  make(3);
  // Rank 0 suspects, rank 1 answers that it waits for rank 2. All comes, but rank 1 is stopped at
  // that moment and leaves its mark standing.
  wait(0, 1);
  wait(1, 2);
  pass(milliseconds(1500));
  EXPECT_EQ(mark(1).awaited, 2);
  stop(1);
  arrive(0);
  wait(0, 1);
  wait(2, 1);
  pass(milliseconds(2200));
  expect_blame(0, 1);
  expect_blame(2, 1);
}

TEST_F(WaitWatchTest, AnAnswerIsGivenAnewInTheNextWait) {
  make(4);
  wait(0, 1);
  wait(1, 2);
  pass(milliseconds(1500));
  EXPECT_EQ(mark(1).awaited, 2);
  arrive(1);
  EXPECT_EQ(mark(1).awaited, -1);
  wait(1, 3, kBroadcast);
  pass(milliseconds(100));
  EXPECT_EQ(mark(1).awaited, 3);
  pass(milliseconds(500));
  expect_blame(0, 3, kBroadcast);
}

TEST_F(WaitWatchTest, TheMarkFollowsTheRankThatIsMissingNow) {
  make(3);
  wait(0, 1);
  pass(milliseconds(1500));
  EXPECT_EQ(mark(0).awaited, 1);
  ranks_[0].awaited = 2;  // rank 1 has come
  pass(milliseconds(100));
  EXPECT_EQ(mark(0).awaited, 2);
  pass(milliseconds(500));
  expect_blame(0, 2);
}

TEST_F(WaitWatchTest, ARankThatWasStoppedItselfAsksBeforeItBlames) {
  make(3);
  wait(0, 1);
  pass(kTick);
  now_ += std::chrono::seconds(30);  // rank 0 looks neither here nor there
  wait(1, 2);
  pass(milliseconds(990));
  expect_nobody_blamed();
  pass(milliseconds(50));
  expect_blame(0, 2);
}

TEST_F(WaitWatchTest, NothingIsPublishedWhileNobodyIsStuckAndAnswersAreFew) {
  make(8);
  for (int round = 0; round < 20; ++round) {
    for (int r = 0; r < 7; ++r) wait(r, 7);
    pass(milliseconds(900));
    for (int r = 0; r < 7; ++r) arrive(r);
  }
  EXPECT_EQ(boards_.publications, 0);
  for (int r = 0; r < 7; ++r) wait(r, 7);
  pass(milliseconds(1990));
  expect_nobody_blamed();
  EXPECT_LE(boards_.publications, 7 * 8);  // at worst an answer to each suspicion
  for (int r = 0; r < 7; ++r) arrive(r);
  // An echo would go on for ever.
  const int before = boards_.publications;
  for (int round = 0; round < 20; ++round) {
    for (int r = 0; r < 7; ++r) wait(r, 7);
    pass(milliseconds(900));
    for (int r = 0; r < 7; ++r) arrive(r);
  }
  EXPECT_EQ(boards_.publications, before);
}

TEST_F(WaitWatchTest, CountersMayWrap) {
  make(2);
  for (int round = 0; round < 70'000; ++round) {
    wait(0, 1);
    pass(kTick);
    now_ += milliseconds(1100);
    pass(kTick);
    ASSERT_TRUE(mark(0).suspicious) << round;
    arrive(0);
  }
  wait(0, 1);
  pass(milliseconds(2100));
  expect_blame(0, 1);
}

TEST_F(WaitWatchTest, AWaitThatIsOverBlamesNobody) {
  make(2);
  WaitWatch& watch = *ranks_[0].watch;
  watch.begin(kReduce);
  for (int i = 0; i < 500; ++i) {
    now_ += kTick;
    EXPECT_FALSE(watch.look(now_, [] { return -1; }).has_value());
  }
  EXPECT_EQ(boards_.publications, 0);
}

}  // namespace
}  // namespace convoke
