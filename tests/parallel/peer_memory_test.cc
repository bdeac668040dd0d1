// Sums over CUDA IPC between processes: run under mpirun on one host, a rank with an emulated
// device of its own in each. (Between threads: tests/kernels/cuda/one_shot_test.cc.)
//   peer_memory_test          all ranks run the same tests
//   peer_memory_test stopped  the last rank stops in the middle of sums; the others say so, and end
//   peer_memory_test killed   the same, but it is killed
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <numeric>
#include <thread>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_runtime.h"
#include "parallel/device_communicator.h"
#include "parallel/job.h"
#include "tests/kernels/cuda/sum_case.h"
#include "tests/support/cuda_emulation/device.h"

namespace convoke {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

Job* job = nullptr;  // set by main()

/// This process's part of the job.
struct Rank {
  explicit Rank(int64_t largest, double deadline = 60) {
    emulation::set_devices(job->size());
    std::vector<int> ranks(size_t(job->size()), 0);
    std::iota(ranks.begin(), ranks.end(), 0);
    const CommunicatorOptions options{
        .reduce_capacity = largest, .gather_capacity = 64, .deadline_seconds = deadline};
    auto host = job->make_communicator(ranks, options);
    backend = cuda::make_cuda_backend({.device = job->rank()});
    DeviceLinks links;
    std::string why;
    links.peers = make_peer_memory(*backend, *host, place_of(job->rank()),
                                   {.capacity = kCapacity, .blocks = 2}, why);
    CONVOKE_CHECK(why.empty());
    communicator = make_device_communicator(*backend, std::move(host), std::move(links), options);
  }
  /// Adds up what the ranks contribute, in one program.
  void add(std::vector<SumCase>& sums) {
    std::vector<FloatArray> mine, there;
    for (const SumCase& sum : sums) {
      mine.emplace_back(*backend, sum.contributions[size_t(job->rank())]);
      there.emplace_back(*backend, sum.targets[0]);
    }
    backend->run([&](Stream& stream) {
      for (size_t i = 0; i < sums.size(); ++i) {
        const auto count = int64_t(mine[i].size());
        backend->copy(stream, floats(mine[i].data(), count),
                      floats(communicator->reduce_buffer(), count));
        communicator->all_reduce_add(stream, const_cast<float*>(there[i].data()), count);
      }
    });
    backend->run([&](Stream& stream) {
      for (size_t i = 0; i < sums.size(); ++i) {
        std::vector<float>& target = sums[i].targets[0];
        const auto count = int64_t(target.size());
        backend->copy(stream, floats(there[i].data(), count), floats(target.data(), count));
      }
    });
  }
  /// One sum; the error that ends it, if one does.
  std::string error_of_sum() {
    std::vector<SumCase> sums = {SumCase(job->size(), 100)};
    try {
      add(sums);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  static constexpr int64_t kCapacity = 3000;  ///< floats; larger sums go in turns
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Communicator> communicator;
};

void expect_summed(const SumCase& sum) {
  EXPECT_EQ(std::memcmp(sum.targets[0].data(), sum.sum.data(), sum.sum.size() * sizeof(float)), 0)
      << sum.sum.size() << " floats";
}

TEST(PeerProcesses, SumsAreTheTreeOfTheHostAtEverySize) {
  Rank rank(7001);
  EXPECT_THAT(rank.communicator->describe(), HasSubstr("one-shot sums over CUDA IPC"));
  for (const int64_t count : {1, 3, 1000, 2999, 3000, 7001}) {
    std::vector<SumCase> sums = {SumCase(job->size(), count, uint32_t(count))};
    rank.add(sums);
    expect_summed(sums[0]);
  }
}

TEST(PeerProcesses, RanksThatAreLateGetTheSameSums) {
  Rank rank(1024);
  std::mt19937 engine{uint32_t(job->rank())};
  for (uint32_t i = 0; i < 12; ++i) {
    if (engine() % 3 == 0) std::this_thread::sleep_for(milliseconds(engine() % 20));
    std::vector<SumCase> sums = {SumCase(job->size(), 1 + i * 93, i)};
    rank.add(sums);
    expect_summed(sums[0]);
  }
}

TEST(PeerProcesses, ManySumsInOneStreamNeedNoOtherWait) {
  // Between the halves of the regions, of different sizes.
  Rank rank(3000);
  std::vector<SumCase> sums;
  for (uint32_t i = 0; i < 20; ++i) sums.emplace_back(job->size(), i % 3 == 0 ? 2000 : 7 + i, i);
  rank.add(sums);
  for (const SumCase& sum : sums) expect_summed(sum);
}

/// What the memory holds, seen from the device.
uint32_t word_at(CUstream_st* stream, const void* there) {
  uint32_t word = 0;
  cuda::enqueue_copy(stream, &word, sizeof word, there, sizeof word, sizeof word, 1);
  cuda::synchronise(stream);
  return word;
}

TEST(PeerProcesses, AHandleLeadsToTheMemoryOfItsOwnerAsLongAsThatIsThere) {
  CUstream_st* const stream = cuda::create_stream();
  void* const mine = cuda::allocate_device(1000, "a test");
  const auto write = [&](void* there, uint32_t word) {
    cuda::enqueue_copy(stream, there, sizeof word, &word, sizeof word, sizeof word, 1);
  };
  write(mine, uint32_t(job->rank()));  // before and after others can see it
  const cuda::MemoryHandle handle = cuda::export_memory(mine);
  EXPECT_EQ(word_at(stream, mine), uint32_t(job->rank()));
  const auto handles = job->all_gather({reinterpret_cast<const char*>(&handle), sizeof handle});
  const int next = (job->rank() + 1) % job->size();
  cuda::MemoryHandle theirs;
  std::memcpy(&theirs, handles[size_t(next)].data(), sizeof theirs);
  void* const there = cuda::import_memory(theirs);
  EXPECT_EQ(word_at(stream, there), uint32_t(next));
  job->barrier();
  write(there, uint32_t(100 + job->rank()));
  job->barrier();
  EXPECT_EQ(word_at(stream, mine), uint32_t(100 + (job->rank() + job->size() - 1) % job->size()));
  cuda::release_import(there);
  cuda::free_device(mine);
  job->barrier();
  EXPECT_THROW(cuda::import_memory(theirs), Error);
  cuda::destroy_stream(stream);
}

TEST(PeerProcesses, ARankThatDoesNotComeIsNamed) {
  Rank rank(100, 1.5);
  const int last = job->size() - 1;
  if (job->rank() != last) {
    EXPECT_THAT(rank.error_of_sum(), HasSubstr(fmt::format("shard {}", last)));
    EXPECT_NE(rank.error_of_sum(), "") << "it is broken from then on";
  }
  job->barrier();
}

TEST(PeerProcesses, AnAbortOfOneRankEndsTheWaitOfAll) {
  Rank rank(100, 2);
  const int last = job->size() - 1;
  if (job->rank() == last) {
    std::this_thread::sleep_for(milliseconds(100));
    rank.communicator->abort("enough of this");
  } else {
    EXPECT_EQ(rank.error_of_sum(), "enough of this");
  }
  job->barrier();
}

/// Sums for ever, until the last rank is no more.
[[noreturn]] void lose_the_last(int signal) {
  Rank rank(1000, 3);
  std::string error;
  for (uint32_t i = 0; error.empty(); ++i) {
    std::vector<SumCase> sums = {SumCase(job->size(), 500, i), SumCase(job->size(), 900, i)};
    if (i == 5 && job->rank() == job->size() - 1) {
      // While its kernel waits for those of the others, or theirs for it.
      std::thread([signal] {
        std::this_thread::sleep_for(milliseconds(3));
        kill(getpid(), signal);
      }).detach();
    }
    try {
      rank.add(sums);
    } catch (const Error& failure) {
      error = failure.what();
    }
  }
  std::printf("rank %d ends: %s\n", job->rank(), error.c_str());
  std::fflush(stdout);
  // All that are left say so before one of them ends the job.
  std::this_thread::sleep_for(std::chrono::seconds(1));
  job->kill(3);
}

}  // namespace
}  // namespace convoke

int main(int argc, char** argv) {
  const auto job = convoke::Job::start();
  convoke::job = job.get();
  if (argc > 1 && argv[1] == std::string("stopped")) convoke::lose_the_last(SIGSTOP);
  if (argc > 1 && argv[1] == std::string("killed")) convoke::lose_the_last(SIGKILL);
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
