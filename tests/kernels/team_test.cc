#include "kernels/cpu/team.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <array>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace convoke::cpu {
namespace {

TEST(Team, EveryThreadRunsTheProgramOnce) {
  for (int threads : {1, 2, 3, 8}) {
    Team team(threads);
    EXPECT_EQ(team.threads(), threads);
    std::vector<int> runs(static_cast<size_t>(threads), 0);
    std::vector<std::thread::id> ids;
    ids.resize(size_t(threads));
    team.run([&](CpuStream& stream) {
      EXPECT_EQ(stream.count(), threads);
      ++runs[size_t(stream.index())];
      ids[size_t(stream.index())] = std::this_thread::get_id();
    });
    for (int count : runs) EXPECT_EQ(count, 1);
    EXPECT_EQ(ids[0], std::this_thread::get_id());
  }
}

TEST(Team, BarriersOrderPlainMemory) {
  // Each round every thread reads what all the others wrote in the round before: with a barrier
  // missing, a sum is wrong and the thread sanitizer complains.
  constexpr int kRounds = 500;
  for (int threads : {1, 2, 4, 7}) {
    Team team(threads);
    std::vector<int64_t> values(static_cast<size_t>(threads), 1);
    std::atomic<int> wrong{0};
    team.run([&](CpuStream& stream) {
      int64_t expected = threads;
      for (int round = 0; round < kRounds; ++round) {
        int64_t sum = 0;
        for (int64_t value : values) sum += value;
        if (sum != expected) ++wrong;
        stream.barrier();
        values[size_t(stream.index())] += stream.index() + 1;
        expected += int64_t(threads) * (threads + 1) / 2;
        stream.barrier();
      }
    });
    EXPECT_EQ(wrong, 0);
  }
}

TEST(Team, ManyShortPrograms) {
  Team team(3);
  std::array<int, 3> counts{};
  int programs = 0;
  // Where others keep the processors busy, every program waits for a turn of three threads.
  const auto enough = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (programs < 20000 && std::chrono::steady_clock::now() < enough) {
    team.run([&](CpuStream& stream) { ++counts[size_t(stream.index())]; });
    ++programs;
  }
  EXPECT_GT(programs, 0);
  EXPECT_EQ(counts, (std::array<int, 3>{programs, programs, programs}));
}

TEST(Team, ProgramsAfterWorkersFellAsleep) {
  Team team(4);
  int total = 0;
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    team.run([&](CpuStream& stream) {
      stream.barrier();
      if (stream.index() == 3) ++total;
    });
  }
  EXPECT_EQ(total, 5);
}

TEST(Team, IdleTeamsUseNoProcessorTime) {
  Team team(4);
  team.run([](CpuStream& stream) { stream.barrier(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const auto used = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  };
  const double before = used();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_LT(used() - before, 0.1);  // three awake threads would have used up to 1.0
}

/// `thrower` throws in round `round`; all others must leave and run() must throw its exception.
void throw_in_round(Team& team, int thrower, int round) {
  std::atomic<int> rounds_after{0};
  bool caught = false;
  try {
    team.run([&](CpuStream& stream) {
      for (int i = 0; i < 20; ++i) {
        if (i == round && stream.index() == thrower) {
          throw std::runtime_error("thread " + std::to_string(thrower));
        }
        stream.barrier();
        if (i >= round) ++rounds_after;
      }
    });
  } catch (const std::runtime_error& error) {
    caught = true;
    EXPECT_EQ(std::string(error.what()), "thread " + std::to_string(thrower));
  }
  EXPECT_TRUE(caught);
  EXPECT_EQ(rounds_after, 0);
}

TEST(Team, AnExceptionOnOneThreadEndsTheProgramForAll) {
  for (int threads : {1, 2, 4}) {
    Team team(threads);
    for (int thrower = 0; thrower < threads; ++thrower) {
      for (int round = 0; round < 20; round += 3) throw_in_round(team, thrower, round);
    }
    int after = 0;
    team.run([&](CpuStream& stream) {
      stream.barrier();
      if (stream.index() == 0) ++after;
      stream.barrier();
    });
    EXPECT_EQ(after, 1);
  }
}

TEST(Team, TheSameExceptionOnAllThreadsIsThrownOnce) {
  Team team(4);
  for (int i = 0; i < 200; ++i) {
    EXPECT_THROW(team.run([](CpuStream& stream) {
      stream.barrier();
      throw Error(ErrorKind::kPeer, "rank 3 did not come");
    }),
                 Error);
  }
}

TEST(Team, SeveralTeamsOnFewProcessors) {
  // Four teams of four threads, each driven by a thread of its own, as tp = 4 in one process.
  std::vector<std::thread> drivers;
  std::array<int64_t, 4> sums{};
  for (size_t t = 0; t < 4; ++t) {
    drivers.emplace_back([&sums, t] {
      Team team(4);
      for (int i = 0; i < 50; ++i) {
        team.run([&](CpuStream& stream) {
          for (int k = 0; k < 20; ++k) {
            if (stream.index() == k % 4) ++sums[t];
            stream.barrier();
          }
        });
      }
    });
  }
  for (std::thread& driver : drivers) driver.join();
  for (int64_t sum : sums) EXPECT_EQ(sum, 50 * 20);
}

TEST(Team, PinnedThreadsRun) {
  std::thread([] {  // a thread of its own: pinning stays with the caller
    Team team(2, true);
    int count = 0;
    team.run([&](CpuStream& stream) {
      stream.barrier();
      if (stream.index() == 1) ++count;
    });
    EXPECT_EQ(count, 1);
  })
      .join();
}

TEST(Team, ThreadsThatShareItTakeTurns) {
  Team team(2);
  int inside = 0, sum = 0;  // no atomics: only one program runs at a time
  const auto caller = [&] {
    for (int i = 0; i < 500; ++i) {
      team.run([&](CpuStream& stream) {
        if (stream.index() == 0) {
          EXPECT_EQ(inside++, 0);
        }
        stream.barrier();
        if (stream.index() == 1) ++sum;
        stream.barrier();
        if (stream.index() == 0) --inside;
      });
    }
  };
  std::thread other(caller);
  caller();
  other.join();
  EXPECT_EQ(sum, 1000);
}

TEST(CpuBackend, SiblingsOutliveEachOtherAndGiveTheSameBits) {
  auto first = make_cpu_backend({.threads = 2});
  const auto second = first->sibling();
  EXPECT_EQ(second->describe(), first->describe());
  const auto value = [](Backend& backend) {
    std::vector<float> x{1, 2, 3, 4}, weight(4, 1.0f), y(4);
    backend.run([&](Stream& stream) {
      backend.rms_norm(stream, {.x = TensorView::matrix(x.data(), DType::kFloat32, 1, 4),
                                .weight = weight.data(),
                                .epsilon = 0,
                                .y = TensorView::matrix(y.data(), DType::kFloat32, 1, 4)});
    });
    return y;
  };
  const std::vector<float> expected = value(*first);
  EXPECT_EQ(value(*second), expected);
  first.reset();
  EXPECT_EQ(value(*second), expected);
}

TEST(TeamDeathTest, AProgramInsideAProgramIsAMistake) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        Team team(1);
        team.run([&](CpuStream&) { team.run([](CpuStream&) {}); });
      },
      "in_program");
}

TEST(Isa, NamesRoundTripAndUnknownOnesAreRefused) {
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512Bf16, Isa::kAmxBf16}) {
    EXPECT_EQ(parse_isa(isa_name(isa)), isa);
  }
  try {
    parse_isa("sse9");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("avx512-bf16"), std::string::npos);
  }
}

}  // namespace
}  // namespace convoke::cpu
