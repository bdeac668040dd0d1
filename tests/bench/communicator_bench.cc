// Latency of all_reduce_add. Alone: ranks as threads, 2, 4 and 8 of them. Under mpirun: one row for
// the job's ranks (mpirun -np 4 --oversubscribe --bind-to none communicator_bench).
// Google Benchmark knows nothing of ranks, so this times itself: the middle and the best of 40
// batches of 50 calls.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <thread>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "parallel/job.h"

namespace {

using namespace convoke;

class Alone final : public cpu::CpuStream {
 public:
  int index() const override { return 0; }
  int count() const override { return 1; }
  void barrier() override {}
};

void measure(Communicator& comm, int64_t count) {
  constexpr int kBatches = 40;
  constexpr int kCalls = 50;
  Alone stream;
  std::vector<float> target(static_cast<size_t>(count));
  std::vector<double> micros;
  for (int batch = 0; batch < kBatches; ++batch) {
    comm.barrier();
    const auto start = std::chrono::steady_clock::now();
    for (int call = 0; call < kCalls; ++call) {
      comm.reduce_buffer()[0] = 1;
      comm.all_reduce_add(stream, target.data(), count);
    }
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
    micros.push_back(time.count() / kCalls);
  }
  std::sort(micros.begin(), micros.end());
  if (comm.rank() != 0) return;
  std::printf("%-14s %d ranks %7ld floats  %9.2f us (best %.2f)\n", comm.describe().c_str(),
              comm.size(), long(count), micros[kBatches / 2], micros[0]);
}

void measure_sizes(Communicator& comm) {
  for (const int64_t count : {512, 4096, 65536}) measure(comm, count);
}

CommunicatorOptions options() {
  CommunicatorOptions all;
  all.reduce_capacity = 65536;
  all.deadline_seconds = 60;
  return all;
}

}  // namespace

int main() {
  const auto job = Job::start();
  if (job->launched()) {
    std::vector<int> ranks(static_cast<size_t>(job->size()));
    std::iota(ranks.begin(), ranks.end(), 0);
    measure_sizes(*job->make_communicator(ranks, options()));
    CommunicatorOptions messages = options();
    messages.largest_block = 1;
    if (ranks.size() > 1) measure_sizes(*job->make_communicator(ranks, messages));
    job->finish();
    return EXIT_SUCCESS;
  }
  for (const int size : {1, 2, 4, 8}) {
    const auto comms = make_thread_communicators(size, options());
    std::vector<std::thread> threads;
    for (const auto& comm : comms) threads.emplace_back([&] { measure_sizes(*comm); });
    for (std::thread& thread : threads) thread.join();
  }
  return EXIT_SUCCESS;
}
