// The communicator over memory, in every division of the ranks into blocks: one block is what
// make_thread_communicators() makes; several exchange messages through LocalLink.
#include "parallel/communicator.h"

#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <limits>
#include <mutex>
#include <random>
#include <thread>

#include "fake_team.h"
#include "local_link.h"
#include "parallel/block_communicator.h"
#include "reference_sums.h"

namespace convoke {
namespace {

using test::contribution;
using test::FakeStream;
using test::message_of;
using test::reference;
using test::run_team;
using test::same_bits;
using Steady = std::chrono::steady_clock;
using Ranks = std::vector<std::unique_ptr<Communicator>>;

Ranks make_ranks(int size, int block_size, const CommunicatorOptions& options,
                 std::shared_ptr<test::LocalExchange> exchange = nullptr) {
  if (block_size == size) return make_thread_communicators(size, options);
  if (!exchange) exchange = std::make_shared<test::LocalExchange>();
  Ranks ranks;
  std::shared_ptr<void> memory;
  for (int r = 0; r < size; ++r) {
    BlockSetup setup;
    setup.rank = r;
    setup.size = size;
    setup.block_size = block_size;
    setup.link = std::make_unique<test::LocalLink>(exchange, r, size);
    for (int i = 0; i < size; ++i) setup.names.push_back(fmt::format("rank {}", i));
    setup.description = "blocks";
    setup.options = options;
    if (r % block_size == 0) memory = allocate_region(setup.region_shape());
    setup.memory = memory;
    setup.region = memory.get();
    ranks.push_back(std::make_unique<BlockCommunicator>(std::move(setup)));
  }
  return ranks;
}

/// Runs `program(rank)` on one thread per rank. Element r is what rank r threw, or null.
std::vector<std::exception_ptr> on_ranks(int size, const std::function<void(int)>& program) {
  std::vector<std::exception_ptr> thrown(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      try {
        program(r);
      } catch (...) {
        thrown[size_t(r)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return thrown;
}

void expect_none(const std::vector<std::exception_ptr>& thrown) {
  for (const std::exception_ptr& e : thrown) {
    if (e) std::rethrow_exception(e);
  }
}

std::optional<Error> error_of(const std::exception_ptr& thrown) {
  if (!thrown) return std::nullopt;
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    return error;
  }
}

CommunicatorOptions options_for(int64_t floats, int64_t bytes, double deadline = 20) {
  CommunicatorOptions options;
  options.reduce_capacity = floats;
  options.gather_capacity = bytes;
  options.deadline_seconds = deadline;
  return options;
}

struct Division {
  int size;
  int block_size;
  int threads;
};

class CommunicatorTest : public testing::TestWithParam<Division> {
 protected:
  Ranks make(const CommunicatorOptions& options) {
    return make_ranks(GetParam().size, GetParam().block_size, options);
  }
  int size() const { return GetParam().size; }
  int threads() const { return GetParam().threads; }
};

TEST_P(CommunicatorTest, AllReduceAddsTheTreeSum) {
  constexpr int64_t kCapacity = 100'000;
  const int64_t counts[] = {1, 2, 15, 16, 17, 64, 511, 4096, 16'384, 33'333, kCapacity, 0, 3};
  Ranks ranks = make(options_for(kCapacity, 0));
  expect_none(on_ranks(size(), [&](int r) {
    Communicator& comm = *ranks[size_t(r)];
    EXPECT_EQ(comm.rank(), r);
    EXPECT_EQ(comm.size(), size());
    uint32_t seed = 0;
    for (const int64_t count : counts) {
      const std::vector<float> mine = contribution(r, count, ++seed);
      std::vector<float> target = contribution(99, count + 8, seed);  // the same on every rank
      const std::vector<float> expected = reference(size(), count, seed, target);
      expect_none(run_team(threads(), [&](FakeStream& stream) {
        if (stream.index() == 0 && count > 0) {
          std::copy(mine.begin(), mine.end(), comm.reduce_buffer());
        }
        stream.barrier();
        comm.all_reduce_add(stream, target.data(), count);
        // Visible to every thread of the team on return, and nothing beyond `count` touched.
        EXPECT_TRUE(same_bits(target, expected)) << "rank " << r << " count " << count;
      }));
    }
  }));
}

TEST_P(CommunicatorTest, AllGatherInRankOrder) {
  constexpr int64_t kCapacity = 100'000;
  const size_t sizes[] = {1, 0, 7, 64, 8192, 8193, size_t(kCapacity), 5};
  Ranks ranks = make(options_for(0, kCapacity));
  expect_none(on_ranks(size(), [&](int r) {
    Communicator& comm = *ranks[size_t(r)];
    for (const size_t bytes : sizes) {
      std::vector<std::byte> mine(bytes);
      for (size_t i = 0; i < bytes; ++i) mine[i] = std::byte(uint8_t(size_t(r) * 31 + i));
      std::vector<std::byte> all(bytes * size_t(size()), std::byte{0xee});
      expect_none(run_team(threads(), [&](FakeStream& stream) {
        comm.all_gather(stream, mine, all);
        for (size_t i = 0; i < all.size(); ++i) {
          ASSERT_EQ(int(all[i]), int(uint8_t(i / bytes * 31 + i % bytes))) << "byte " << i;
        }
      }));
    }
  }));
}

TEST_P(CommunicatorTest, BroadcastOfAnyLengthFromAnyRoot) {
  const size_t sizes[] = {0,     1,       32'760,  32'761, 65'535,    65'536, 65'537,
                          9'999, 131'072, 131'073, 3,      1'000'000, 0,      40'000};
  Ranks ranks = make(options_for(0, 0));
  expect_none(on_ranks(size(), [&](int r) {
    Communicator& comm = *ranks[size_t(r)];
    std::vector<std::byte> message;
    int salt = 0;
    for (const size_t bytes : sizes) {
      for (int root = 0; root < size(); ++root) {
        const std::vector<std::byte> sent = message_of(bytes, ++salt);
        if (r == root) message = sent;
        comm.broadcast(message, root);
        ASSERT_EQ(message, sent) << bytes << " bytes from " << root << " at " << r;
      }
    }
  }));
}

TEST_P(CommunicatorTest, BarrierHoldsEverybody) {
  Ranks ranks = make(options_for(0, 0));
  std::atomic<int> arrived{0};
  expect_none(on_ranks(size(), [&](int r) {
    for (int round = 1; round <= 50; ++round) {
      if (round % 10 == r) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      ++arrived;
      ranks[size_t(r)]->barrier();
      EXPECT_GE(arrived.load(), round * size());
      ranks[size_t(r)]->barrier();
    }
  }));
}

// What a decoding step does, over and over, with ranks drifting apart at random: buffers that are
// reused a moment too early would show.
TEST_P(CommunicatorTest, MixedOperationsUnderRandomDelays) {
  constexpr int kRounds = 150;
  constexpr int64_t kCapacity = 20'000;
  Ranks ranks = make(options_for(kCapacity, 64));
  expect_none(on_ranks(size(), [&](int r) {
    Communicator& comm = *ranks[size_t(r)];
    std::mt19937 same(7);                 // draws the plan, the same on every rank
    std::mt19937 own(100 + uint32_t(r));  // draws the delays
    std::vector<std::byte> message;
    expect_none(run_team(1, [&](FakeStream& stream) {
      for (int round = 0; round < kRounds; ++round) {
        if (own() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(own() % 300));
        const uint32_t kind = same() % 4;
        const auto draw = uint32_t(same() % kCapacity);
        const std::string where = fmt::format("round {} kind {} rank {}", round, kind, r);
        if (kind == 0) {
          const int root = int(draw) % size();
          const std::vector<std::byte> sent = message_of(draw * (draw % 11), round);
          if (r == root) message = sent;
          comm.broadcast(message, root);
          ASSERT_EQ(message, sent) << where;
        } else if (kind == 1) {
          std::byte mine[8];
          std::memcpy(mine, &draw, 4);
          std::memcpy(mine + 4, &r, 4);
          std::vector<std::byte> all(8 * size_t(size()));
          comm.all_gather(stream, mine, all);
          for (int from = 0; from < size(); ++from) {
            ASSERT_EQ(std::memcmp(&all[size_t(from) * 8], &draw, 4), 0) << where;
            ASSERT_EQ(std::memcmp(&all[size_t(from) * 8 + 4], &from, 4), 0) << where;
          }
        } else {
          const int64_t count = kind == 2 ? draw % 600 : draw;
          const std::vector<float> mine = contribution(r, count, draw);
          if (count > 0) std::copy(mine.begin(), mine.end(), comm.reduce_buffer());
          std::vector<float> target(static_cast<size_t>(count));
          comm.all_reduce_add(stream, target.data(), count);
          ASSERT_TRUE(
              same_bits(target, reference(size(), count, draw, std::vector<float>(size_t(count)))))
              << where;
        }
      }
    }));
  }));
}

class SeveralRanksTest : public CommunicatorTest {};

TEST_P(SeveralRanksTest, MissingRankIsNamedOnEveryThreadOfEveryRank) {
  const double deadline = 0.5;
  const int missing = size() - 1;
  const std::string name = fmt::format("rank {} did not come to all-reduce", missing);
  Ranks ranks = make(options_for(64, 0, deadline));
  std::atomic<int> left{size() - 1};
  const auto start = Steady::now();
  expect_none(on_ranks(size(), [&](int r) {
    Communicator& comm = *ranks[size_t(r)];
    // The missing rank comes after the others have given up, and finds a broken communicator.
    while (r == missing && left > 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::vector<float> target(64);
    const auto thrown = run_team(
        threads(), [&](FakeStream& stream) { comm.all_reduce_add(stream, target.data(), 64); });
    for (const std::exception_ptr& e : thrown) {
      const std::optional<Error> error = error_of(e);
      ASSERT_TRUE(error.has_value()) << "rank " << r;
      EXPECT_EQ(error->kind(), ErrorKind::kTimeout);
      EXPECT_NE(std::string(error->what()).find(name), std::string::npos) << error->what();
    }
    --left;
    EXPECT_THROW(comm.barrier(), Error);
    std::vector<std::byte> message;
    EXPECT_THROW(comm.broadcast(message, 0), Error);
    EXPECT_THROW(comm.broadcast(message, r), Error);
  }));
  const double seconds = std::chrono::duration<double>(Steady::now() - start).count();
  EXPECT_GE(seconds, deadline * 0.99);
}

TEST_P(SeveralRanksTest, AbortWakesEverybody) {
  Ranks ranks = make(options_for(64, 64, 60));
  const auto start = Steady::now();
  // Rank 0 never broadcasts; a thread that is no rank's own aborts.
  std::thread aborter([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    ranks[0]->abort("the operator pulled the plug");
  });
  const auto thrown = on_ranks(size(), [&](int r) {
    std::vector<std::byte> message;
    if (r > 0) ranks[size_t(r)]->broadcast(message, 0);
  });
  aborter.join();
  EXPECT_LT(std::chrono::duration<double>(Steady::now() - start).count(), 30);
  for (int r = 1; r < size(); ++r) {
    const std::optional<Error> error = error_of(thrown[size_t(r)]);
    ASSERT_TRUE(error.has_value()) << "rank " << r;
    EXPECT_EQ(error->kind(), ErrorKind::kPeer);
    EXPECT_STREQ(error->what(), "the operator pulled the plug");
  }
  EXPECT_THROW(ranks[0]->barrier(), Error);
}

std::vector<Division> divisions(int smallest) {
  std::vector<Division> all;
  for (int size = smallest; size <= 8; size *= 2) {
    for (int block = 1; block <= size; block *= 2) all.push_back({size, block, 1});
    all.push_back({size, size, size == 8 ? 2 : 3});
    if (size > 1) all.push_back({size, size / 2, 2});
  }
  return all;
}

std::string name_of(const testing::TestParamInfo<Division>& division) {
  return fmt::format("{}RanksInBlocksOf{}With{}Threads", division.param.size,
                     division.param.block_size, division.param.threads);
}

INSTANTIATE_TEST_SUITE_P(Divisions, CommunicatorTest, testing::ValuesIn(divisions(1)), name_of);
INSTANTIATE_TEST_SUITE_P(Divisions, SeveralRanksTest, testing::ValuesIn(divisions(2)), name_of);

TEST(SingleCommunicator, AddsItsOwnBuffer) {
  const auto comm = make_single_communicator(options_for(100, 16));
  EXPECT_EQ(comm->size(), 1);
  EXPECT_EQ(comm->rank(), 0);
  std::vector<float> target = {1.F, -0.F, 3.F};
  expect_none(run_team(2, [&](FakeStream& stream) {
    if (stream.index() == 0) {
      comm->reduce_buffer()[0] = 0.5F;
      comm->reduce_buffer()[1] = -0.F;
      comm->reduce_buffer()[2] = -3.F;
    }
    stream.barrier();
    comm->all_reduce_add(stream, target.data(), 3);
  }));
  EXPECT_TRUE(same_bits(target, {1.5F, -0.F, 0.F}));
  std::vector<std::byte> message = message_of(10, 1);
  comm->broadcast(message, 0);
  EXPECT_EQ(message, message_of(10, 1));
  comm->barrier();
  comm->abort("enough");
  EXPECT_THROW(comm->barrier(), Error);
}

TEST(ThreadCommunicators, RefuseOtherSizes) {
  for (const int size : {0, 3, 5, 16}) {
    EXPECT_DEATH(make_thread_communicators(size, {}), "internal error") << size;
  }
}

// --- ranks an operation apart -------------------------------------------------------------------

/// Holds a rank as SIGSTOP would.
class Frozen {
 public:
  void here() {
    std::unique_lock lock(mutex_);
    thawed_.wait(lock, [this] { return over_; });
  }
  void thaw() {
    const std::lock_guard lock(mutex_);
    over_ = true;
    thawed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable thawed_;
  bool over_ = false;
};

// Two hosts with two ranks each. Rank 3 is stopped when its sums have reached rank 1, but before
// rank 2 beside it can take them: that one waits in the last stage of a reduction that ranks 0 and
// 1 have behind them. Those miss rank 2 in the next operation.
class RanksApart : public testing::TestWithParam<const char*> {
 protected:
  RanksApart() {
    exchange_->after_transfers = [this](int rank) {
      if (rank == 3) frozen_.here();
    };
  }

  std::vector<std::exception_ptr> run(double deadline) {
    Ranks ranks = make_ranks(4, 2, options_for(64, 8, deadline), exchange_);
    return on_ranks(4, [&](int r) {
      Communicator& comm = *ranks[size_t(r)];
      const std::string next = GetParam();
      const auto leave = [&] {
        if (++left_ == 3) frozen_.thaw();
      };
      expect_none(run_team(1, [&](FakeStream& stream) {
        std::vector<float> target(64);
        std::vector<std::byte> message(8), all(32);
        try {
          comm.all_reduce_add(stream, target.data(), 64);
          if (next == "barrier") comm.barrier();
          if (next == "all-gather") comm.all_gather(stream, message, all);
          if (next == "broadcast") comm.broadcast(message, 0);
          comm.all_reduce_add(stream, target.data(), 64);
        } catch (...) {
          leave();
          throw;
        }
        leave();
      }));
    });
  }

  std::shared_ptr<test::LocalExchange> exchange_ = std::make_shared<test::LocalExchange>();
  Frozen frozen_;
  std::atomic<int> left_{0};
};

TEST_P(RanksApart, TheStoppedRankIsBlamedAndNotTheOneThatWaitsForIt) {
  for (const std::exception_ptr& e : run(1)) {
    const std::optional<Error> error = error_of(e);
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->kind(), ErrorKind::kTimeout);
    EXPECT_EQ(std::string(error->what()).find("rank 3 did not come to "), 0u) << error->what();
  }
}

TEST_P(RanksApart, ARankThatComesUnderSuspicionIsForgiven) {
  std::thread thawer([this] {
    for (bool suspicion = false; !suspicion;) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      const std::lock_guard lock(exchange_->mutex);
      for (const auto& [rank, mark] : exchange_->marks) {
        suspicion = suspicion || WaitMark::unpack(mark).suspicious;
      }
    }
    frozen_.thaw();
  });
  expect_none(run(4));
  thawer.join();
  for (const auto& [rank, mark] : exchange_->marks) {
    EXPECT_EQ(WaitMark::unpack(mark).awaited, -1) << "rank " << rank;
  }
}

INSTANTIATE_TEST_SUITE_P(Next, RanksApart,
                         testing::Values("all-reduce", "barrier", "all-gather", "broadcast"),
                         [](const auto& next) {
                           std::string name = next.param;
                           name.erase(std::remove(name.begin(), name.end(), '-'), name.end());
                           return name;
                         });

// Who sends many messages waits for their slowest reader, and the other readers wait for the
// sender.
TEST_P(SeveralRanksTest, MissingReaderIsNamedAndNotTheSender) {
  const int missing = size() - 1;
  const std::string name = fmt::format("rank {} did not come to ", missing);
  Ranks ranks = make(options_for(0, 0, 0.5));
  std::atomic<int> left{size() - 1};
  const auto thrown = on_ranks(size(), [&](int r) {
    while (r == missing && left > 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    try {
      std::vector<std::byte> message(100);
      for (int i = 0; i < 5; ++i) ranks[size_t(r)]->broadcast(message, 0);
      ranks[size_t(r)]->barrier();
    } catch (...) {
      --left;
      throw;
    }
  });
  for (const std::exception_ptr& e : thrown) {
    const std::optional<Error> error = error_of(e);
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(std::string(error->what()).find(name), 0u) << error->what();
  }
}

// A front end's replica may stand idle for hours; its shards must not heat the room meanwhile.
TEST(ThreadCommunicators, IdleReceiversUseHardlyAnyProcessorTime) {
  Ranks ranks = make_thread_communicators(4, options_for(0, 0, 30));
  std::array<double, 4> used{};
  expect_none(on_ranks(4, [&](int r) {
    const auto clock = [] {
      timespec t{};
      clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
      return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
    };
    std::vector<std::byte> message(3);
    const double before = clock();
    if (r == 0) std::this_thread::sleep_for(std::chrono::milliseconds(500));
    ranks[size_t(r)]->broadcast(message, 0);
    used[size_t(r)] = clock() - before;
  }));
  for (const double seconds : used) EXPECT_LT(seconds, 0.1);
}

}  // namespace
}  // namespace convoke
