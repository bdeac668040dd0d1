// Ranks with an emulated device each, as threads, that add up between devices.
#pragma once

#include <thread>

#include "parallel/device_communicator.h"
#include "tests/kernels/cuda/backend_fixture.h"
#include "tests/kernels/cuda/sum_case.h"
#include "tests/support/cuda_emulation/transport.h"

namespace convoke {

struct RanksOptions {
  int size = 2;
  int64_t capacity = 0;
  double deadline = 120;   ///< sanitizers are slow
  bool transport = true;   ///< that does what NCCL would
  int64_t one_shot = 0;    ///< floats; 0: no memory that peers reach
  int blocks = 4;          ///< of a one-shot sum
  bool processes = false;  ///< the ranks pass for processes
};

struct Ranks {
  explicit Ranks(const RanksOptions& o) : transports(o.size) {
    emulation::set_devices(o.size);
    const CommunicatorOptions options{
        .reduce_capacity = o.capacity, .gather_capacity = 64, .deadline_seconds = o.deadline};
    auto hosts = make_thread_communicators(o.size, options);
    backends.resize(size_t(o.size));
    communicators.resize(size_t(o.size));
    on_all([&](int r) {
      auto& backend = backends[size_t(r)];
      backend = cuda::make_cuda_backend({.device = r});
      DeviceLinks links;
      if (o.transport) links.transport = transports.take(r);
      if (o.one_shot > 0) {
        RankPlace place = place_of(r);
        if (o.processes) place.process = 1000 + r;
        std::string why;
        links.peers = make_peer_memory(*backend, *hosts[size_t(r)], place,
                                       {.capacity = o.one_shot, .blocks = o.blocks}, why);
        EXPECT_EQ(why, "");
      }
      communicators[size_t(r)] = make_device_communicator(*backend, std::move(hosts[size_t(r)]),
                                                          std::move(links), options);
    });
  }
  ~Ranks() {
    communicators.clear();
    emulation::set_devices(2);
  }

  int size() const { return int(backends.size()); }
  template <typename Work>
  void on_all(Work work) {
    std::vector<std::jthread> threads;
    for (int r = 0; r < size(); ++r) threads.emplace_back([&work, r] { work(r); });
  }
  /// Adds what rank r contributes to its target, on all ranks.
  void add(const std::vector<std::vector<float>>& contributions,
           std::vector<std::vector<float>>& targets) {
    on_all([&](int r) { add_on(r, contributions[size_t(r)], targets[size_t(r)]); });
  }
  void add_on(int rank, const std::vector<float>& mine, std::vector<float>& target) {
    Backend& backend = *backends[size_t(rank)];
    Communicator& communicator = *communicators[size_t(rank)];
    const auto count = int64_t(mine.size());
    const FloatArray there(backend, target);
    backend.run([&](Stream& stream) {
      backend.copy(stream, floats(mine.data(), count), floats(communicator.reduce_buffer(), count));
      communicator.all_reduce_add(stream, const_cast<float*>(there.data()), count);
      backend.copy(stream, floats(there.data(), count), floats(target.data(), count));
    });
  }

  emulation::Transports transports;
  std::vector<std::unique_ptr<Backend>> backends;
  std::vector<std::unique_ptr<Communicator>> communicators;
};

/// The error that rank 0 gets from a sum to which rank 1 comes, or not.
inline std::string error_of_sum(Ranks& ranks, bool rank_1_comes) {
  std::vector<std::vector<float>> contributions(2, {1, 2}), targets(2, {0, 0});
  std::string error;
  std::jthread other([&] {
    if (!rank_1_comes) return;
    try {
      ranks.add_on(1, contributions[1], targets[1]);
    } catch (const Error&) {
    }
  });
  try {
    ranks.add_on(0, contributions[0], targets[0]);
  } catch (const Error& failure) {
    error = failure.what();
  }
  return error;
}

}  // namespace convoke
