// Run under mpirun with 2, 4 or 8 ranks, on one host or several: every rank runs the same tests,
// and results must be the bits that threads give, however the ranks are spread.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "fake_team.h"
#include "parallel/job.h"
#include "reference_sums.h"

namespace convoke {
namespace {

using test::contribution;
using test::FakeStream;
using test::message_of;
using test::reference;
using test::run_team;
using test::same_bits;

Job* job = nullptr;  // set by main()

void expect_none(const std::vector<std::exception_ptr>& thrown) {
  for (const std::exception_ptr& e : thrown) {
    if (e) std::rethrow_exception(e);
  }
}

CommunicatorOptions options_for(int64_t floats, int64_t bytes, int largest_block = 8,
                                double deadline = 60) {
  CommunicatorOptions options;
  options.reduce_capacity = floats;
  options.gather_capacity = bytes;
  options.largest_block = largest_block;
  options.deadline_seconds = deadline;
  return options;
}

std::vector<int> in_order() {
  std::vector<int> ranks(static_cast<size_t>(job->size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

/// Orders of the ranks that put neighbours on one host, apart, or neither.
std::vector<std::vector<int>> orders() {
  std::vector<int> same = in_order();
  std::vector<int> reversed(same.rbegin(), same.rend());
  std::vector<int> shuffled;
  for (const int r : same) {
    if (r % 2 == 0) shuffled.push_back(r);
  }
  for (const int r : same) {
    if (r % 2 != 0) shuffled.insert(shuffled.begin(), r);
  }
  return {same, reversed, shuffled};
}

void check_all_reduce(Communicator& comm, int64_t count, int threads, uint32_t seed) {
  const std::vector<float> mine = contribution(comm.rank(), count, seed);
  std::vector<float> target = contribution(99, count + 8, seed);
  const std::vector<float> expected = reference(comm.size(), count, seed, target);
  expect_none(run_team(threads, [&](FakeStream& stream) {
    if (stream.index() == 0) std::copy(mine.begin(), mine.end(), comm.reduce_buffer());
    stream.barrier();
    comm.all_reduce_add(stream, target.data(), count);
    EXPECT_TRUE(same_bits(target, expected)) << "rank " << comm.rank() << " count " << count;
  }));
}

TEST(MpiJob, KnowsItsRanks) {
  EXPECT_TRUE(job->launched());
  EXPECT_EQ(job->launcher(), "mpirun");
  EXPECT_EQ(int(job->hosts().size()), job->size());
  EXPECT_EQ(job->hosts()[size_t(job->rank())], job->host());
  EXPECT_THAT(job->shared_host_ranks(), testing::Contains(job->rank()));
  for (const int r : job->shared_host_ranks()) EXPECT_EQ(job->hosts()[size_t(r)], job->host());
  if (const char* hosts = std::getenv("CONVOKE_TEST_HOSTS")) {
    std::vector<std::string> names = job->hosts();
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    EXPECT_EQ(int(names.size()), std::atoi(hosts));
  }
}

TEST(MpiJob, Exchanges) {
  for (const size_t bytes : {size_t(0), size_t(5), size_t(300'000)}) {
    const auto text_of = [&](int rank) {
      return std::string(rank % 2 == 1 && bytes == 5 ? 0 : bytes, char('a' + rank));
    };
    const std::vector<std::string> all = job->all_gather(text_of(job->rank()));
    ASSERT_EQ(int(all.size()), job->size());
    for (int r = 0; r < job->size(); ++r) EXPECT_EQ(all[size_t(r)], text_of(r));
    for (int root = 0; root < job->size(); ++root) {
      EXPECT_EQ(job->broadcast(job->rank() == root ? text_of(root) : "other", root), text_of(root));
    }
  }
  job->barrier();
}

TEST(MpiCommunicator, AllReduceGivesTheBitsOfThreads) {
  constexpr int64_t kCapacity = 100'000;
  uint32_t seed = 0;
  for (const int largest : {8, 2, 1}) {
    for (const std::vector<int>& order : orders()) {
      const auto comm = job->make_communicator(order, options_for(kCapacity, 0, largest));
      ASSERT_NE(comm, nullptr);
      EXPECT_EQ(order[size_t(comm->rank())], job->rank());
      for (const int64_t count : {1, 15, 17, 512, 4096, 16'384, 33'333, int(kCapacity), 0, 7}) {
        check_all_reduce(*comm, count, 1 + int(seed % 2), seed);
        ++seed;
      }
    }
  }
}

TEST(MpiCommunicator, AllGatherAndBroadcast) {
  for (const int largest : {8, 2, 1}) {
    const auto comm = job->make_communicator(in_order(), options_for(0, 100'000, largest));
    for (const size_t bytes : {size_t(1), size_t(0), size_t(64), size_t(9000), size_t(100'000)}) {
      const std::vector<std::byte> mine = message_of(bytes, comm->rank());
      std::vector<std::byte> all(bytes * size_t(comm->size()));
      expect_none(run_team(2, [&](FakeStream& stream) { comm->all_gather(stream, mine, all); }));
      for (int r = 0; r < comm->size(); ++r) {
        const std::vector<std::byte> expected = message_of(bytes, r);
        EXPECT_TRUE(
            std::equal(expected.begin(), expected.end(), all.begin() + ptrdiff_t(bytes) * r));
      }
    }
    std::vector<std::byte> message;
    for (const size_t bytes : {size_t(0), size_t(1), size_t(32'760), size_t(32'761), size_t(65'537),
                               size_t(1'000'000), size_t(3)}) {
      for (int root = 0; root < comm->size(); ++root) {
        if (comm->rank() == root) message = message_of(bytes, root);
        comm->broadcast(message, root);
        EXPECT_EQ(message, message_of(bytes, root)) << bytes << " bytes from " << root;
      }
      comm->barrier();
    }
  }
}

// Many steps as a decoder takes them: a broadcast, small reductions, a gathering.
TEST(MpiCommunicator, ManySteps) {
  for (const int largest : {8, 2, 1}) {
    const auto comm = job->make_communicator(in_order(), options_for(2048, 64, largest));
    std::vector<std::byte> message;
    for (int step = 0; step < 100; ++step) {
      if (comm->rank() == 0) message = message_of(size_t(step * 37), step);
      comm->broadcast(message, 0);
      ASSERT_EQ(message, message_of(size_t(step * 37), step));
      for (int layer = 0; layer < 4; ++layer) {
        check_all_reduce(*comm, 512 + step, 1, uint32_t(step * 4 + layer));
      }
      const std::vector<std::byte> mine = message_of(16, comm->rank() + step);
      std::vector<std::byte> all(16 * size_t(comm->size()));
      expect_none(run_team(1, [&](FakeStream& stream) { comm->all_gather(stream, mine, all); }));
      const std::vector<std::byte> last = message_of(16, comm->size() - 1 + step);
      ASSERT_TRUE(std::equal(last.begin(), last.end(), all.end() - 16));
    }
  }
}

TEST(MpiCommunicator, GroupsOfTheJob) {
  const int half = job->size() / 2;
  std::vector<int> mine;
  for (int r = 0; r < half; ++r) mine.push_back(job->rank() < half ? r : r + half);
  const auto comm = job->make_communicator(mine, options_for(100, 0));
  EXPECT_EQ(comm->size(), half);
  EXPECT_EQ(comm->rank(), job->rank() % half);
  check_all_reduce(*comm, 100, 1, uint32_t(job->rank() / half));

  // The last rank belongs to none, as a drafter.
  const bool drafter = job->rank() == job->size() - 1;
  const auto first = job->make_communicator(
      drafter ? std::vector<int>{} : std::vector<int>{job->rank()}, options_for(100, 0));
  EXPECT_EQ(first == nullptr, drafter);
  if (first) check_all_reduce(*first, 100, 1, 5);
}

TEST(MpiCommunicator, SaysHowItWorks) {
  const auto comm = job->make_communicator(in_order(), options_for(100, 0));
  if (const char* expected = std::getenv("CONVOKE_TEST_DESCRIPTION")) {
    EXPECT_EQ(comm->describe(), expected);
  } else {
    EXPECT_EQ(comm->describe(), "shared memory");
  }
  const auto messages = job->make_communicator(in_order(), options_for(100, 0, 1));
  EXPECT_EQ(messages->describe(), "mpi");
}

TEST(MpiCommunicator, MissingRankIsNamed) {
  const int missing = job->size() - 1;
  for (const int largest : {8, 2, 1}) {
    const auto comm = job->make_communicator(in_order(), options_for(64, 0, largest, 2.5));
    job->barrier();
    if (job->rank() != missing) {
      std::vector<float> target(64);
      for (const std::exception_ptr& e : run_team(
               2, [&](FakeStream& stream) { comm->all_reduce_add(stream, target.data(), 64); })) {
        ASSERT_NE(e, nullptr);
        try {
          std::rethrow_exception(e);
        } catch (const Error& error) {
          EXPECT_EQ(error.kind(), ErrorKind::kTimeout);
          EXPECT_THAT(error.what(),
                      testing::HasSubstr(fmt::format("shard {} ({}) did not come to all-reduce",
                                                     missing, job->name_of(missing))));
        }
      }
      EXPECT_THROW(comm->barrier(), Error);
    }
    job->barrier();
    if (job->rank() == missing) {
      std::vector<std::byte> message;
      EXPECT_THROW(comm->broadcast(message, 0), Error);
    }
  }
}

TEST(MpiCommunicator, AbortReachesEveryRank) {
  for (const int largest : {8, 2, 1}) {
    const auto comm = job->make_communicator(in_order(), options_for(64, 0, largest, 60));
    std::thread aborter;
    const int last = job->size() - 1;
    if (job->rank() == last) {
      aborter = std::thread([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        comm->abort("enough of this");
      });
    }
    // Nobody broadcasts: rank 0 waits for a message from the last one, which waits for rank 0's.
    std::vector<std::byte> message;
    const auto start = std::chrono::steady_clock::now();
    try {
      comm->broadcast(message, job->rank() == last ? 0 : last);
      // The root of the others' broadcast is waiting elsewhere, so only a broken link ends this.
      ADD_FAILURE() << "no abort";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kPeer);
      EXPECT_STREQ(error.what(), "enough of this");
    }
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
    if (aborter.joinable()) aborter.join();
    job->barrier();
  }
}

}  // namespace
}  // namespace convoke

int main(int argc, char** argv) {
  const auto job = convoke::Job::start();
  convoke::job = job.get();
  // Successes once, failures from everybody.
  if (job->rank() != 0) GTEST_FLAG_SET(brief, true);
  testing::InitGoogleTest(&argc, argv);
  const int failures = RUN_ALL_TESTS();
  const auto all = job->all_gather(std::to_string(failures));
  job->finish();
  for (const std::string& rank : all) {
    if (rank != "0") return 1;
  }
  return 0;
}
