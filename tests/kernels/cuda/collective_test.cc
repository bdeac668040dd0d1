// Sums between devices: the same bits as on the host, replayed and not, and how waits for a rank
// that is missing end.
#include <gmock/gmock.h>

#include <cmath>
#include <random>
#include <thread>

#include "parallel/device_communicator.h"
#include "parallel/nccl_transport.h"
#include "parallel/tree_sum.h"
#include "tests/kernels/cuda/backend_fixture.h"
#include "tests/support/cuda_emulation/transport.h"

namespace convoke {
namespace {

using ::testing::HasSubstr;
using testing::ReplicaShape;
using testing::TestReplica;
using testing::TestRequest;

std::vector<float> random_floats(int64_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(size_t(count), 0.0f);
  for (float& v : values) v = normal(engine) * std::ldexp(1.0f, int(engine() % 20) - 10);
  return values;
}

TensorView floats(const void* data, int64_t count) {
  return TensorView::matrix(const_cast<void*>(data), DType::kFloat32, 1, count);
}

/// Ranks with an emulated device each, as threads.
struct Ranks {
  Ranks(int size, int64_t capacity, double deadline = 8) : transports(size) {
    emulation::set_devices(size);
    const CommunicatorOptions options{
        .reduce_capacity = capacity, .gather_capacity = 64, .deadline_seconds = deadline};
    auto hosts = make_thread_communicators(size, options);
    for (int r = 0; r < size; ++r) {
      backends.push_back(cuda::make_cuda_backend({.device = r}));
      communicators.push_back(make_device_communicator(
          *backends.back(), std::move(hosts[size_t(r)]), transports.take(r), options));
    }
  }
  ~Ranks() {
    communicators.clear();
    emulation::set_devices(2);
  }
  /// Adds what rank r contributes to its target, on all ranks or those below `until`.
  void add(std::vector<std::vector<float>>& contributions,
           std::vector<std::vector<float>>& targets) {
    std::vector<std::jthread> threads;
    for (size_t r = 0; r < backends.size(); ++r) {
      threads.emplace_back([&, r] { add_on(int(r), contributions[r], targets[r]); });
    }
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

TEST(DeviceCommunicator, SumsAreTheTreeOfTheHostAtEverySize) {
  for (const int size : {2, 4, 8}) {
    const int64_t large = kSmallSumBytes / 4 + 37;  // no multiple of anything
    Ranks ranks(size, large);
    int gathers = 0, exchanges = 0;
    for (const int64_t count : {int64_t(1), int64_t(1000), kSmallSumBytes / 4, large}) {
      SCOPED_TRACE(::testing::Message() << size << " ranks, " << count << " floats");
      std::vector<std::vector<float>> contributions, targets, want;
      std::vector<const float*> sources;
      for (int r = 0; r < size; ++r) {
        contributions.push_back(random_floats(count, uint32_t(r)));
        targets.push_back(random_floats(count, 99));
      }
      for (const auto& c : contributions) sources.push_back(c.data());
      std::vector<float> sum = targets[0];
      add_tree_sum(sources.data(), size, sum.data(), {0, count});
      ranks.add(contributions, targets);
      for (const auto& target : targets) {
        EXPECT_EQ(std::memcmp(target.data(), sum.data(), sum.size() * sizeof(float)), 0);
      }
      const bool is_large = count * 4 > kSmallSumBytes;
      gathers += 1, exchanges += is_large ? 1 : 0;
      EXPECT_EQ(ranks.transports.all_gathers(), gathers);
      EXPECT_EQ(ranks.transports.all_to_alls(), exchanges);
    }
  }
}

/// The error that rank 0 gets from a sum to which rank 1 comes, or not.
std::string error_of_sum(Ranks& ranks, bool rank_1_comes) {
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

TEST(DeviceCommunicator, ARankThatDoesNotComeIsNamed) {
  Ranks ranks(2, 100, 0.4);
  EXPECT_THAT(error_of_sum(ranks, false), HasSubstr("rank 1"));
}

TEST(DeviceCommunicator, AnOperationThatHangsThoughAllAreThereEnds) {
  Ranks ranks(2, 100, 0.4);
  ranks.transports.stall(1);
  EXPECT_THAT(error_of_sum(ranks, true), HasSubstr("did not end within 0.2 s"));
}

TEST(DeviceCommunicator, AnErrorOfTheLibraryEndsTheWait) {
  Ranks ranks(2, 100);
  ranks.transports.fail(0);
  EXPECT_THAT(error_of_sum(ranks, false), HasSubstr("an emulated link is down"));
}

TEST(DeviceCommunicator, AbortEndsTheWaitWithItsReason) {
  Ranks ranks(2, 100);
  std::jthread supervisor([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ranks.communicators[0]->abort("rank 1 on host h2 is dead");
  });
  EXPECT_EQ(error_of_sum(ranks, false), "rank 1 on host h2 is dead");
  EXPECT_NE(error_of_sum(ranks, false), "") << "it is broken from then on";
}

TEST(DeviceCommunicator, StepsAreOneGraphAndGiveThePlainBits) {
  const auto directory = kGoldenModels / "llama-gqa-bf16";
  std::vector<TestRequest> requests(3);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt = {int32_t(3 + i), 9, 4, 71, 5};
    if (i == 2) testing::use_every_processor(requests[i].sampling);  // whole rows of logits
    requests[i].sampling.max_tokens = 8;
    requests[i].sampling.ignore_eos = true;
    requests[i].sampling.temperature = i == 0 ? 0.0f : 0.9f;
  }
  TestReplica alone(directory, on_gpus({}, DType::kBFloat16, {.graphs = false}));
  const auto plain = alone.run(requests);

  const emulation::Transports* transports = nullptr;
  auto connected = std::make_shared<emulation::Transports>(2);
  transports = connected.get();
  ReplicaShape shape{.tp = 2};
  shape.make_communicator = [connected](Backend& backend, std::unique_ptr<Communicator> host) {
    const int rank = host->rank();
    return make_device_communicator(backend, std::move(host), connected->take(rank),
                                    {.reduce_capacity = 1 << 18});
  };
  TestReplica replica(directory, on_gpus(shape, DType::kBFloat16));
  EXPECT_EQ(replica.run(requests), plain);
  const auto trees = [&] {
    return testing::mixed_trees(requests, plain, replica.config().vocabulary, 5);
  };
  for (int i = 0; i < 2; ++i) EXPECT_EQ(replica.run(requests, trees()), plain);
  const cuda::GraphCounters before = cuda::graph_counters(replica.backend(1));
  const int enqueued = transports->all_gathers();
  const emulation::DeviceCounters device_before = emulation::device_counters();
  EXPECT_EQ(replica.run(requests, trees()), plain);
  const cuda::GraphCounters& after = cuda::graph_counters(replica.backend(1));
  EXPECT_EQ(after.replayed - before.replayed, uint64_t(replica.steps()));
  EXPECT_EQ(transports->all_gathers(), enqueued) << "they are in the graphs";
  // Of both ranks, logits that are filtered included: picks alone meet on the hosts.
  const emulation::DeviceCounters& device = emulation::device_counters();
  EXPECT_EQ(device.to_device - device_before.to_device, 2 * uint64_t(replica.steps()));
  EXPECT_EQ(device.to_host - device_before.to_host, 2 * uint64_t(replica.steps()));
  EXPECT_EQ(device.allocations, device_before.allocations);
}

TEST(NcclTransport, ThreadsThatShareADeviceCannotUseIt) {
  const std::vector<RankPlace> apart{{"h1", "0", 7}, {"h1", "1", 7}, {"h2", "0", 7}};
  EXPECT_EQ(choose_transport(apart).why_not, "");
  EXPECT_EQ(choose_transport(apart).shares_device, std::vector<bool>(3, false));
  const std::vector<RankPlace> threads{{"h1", "0", 7}, {"h1", "0", 7}};
  EXPECT_THAT(choose_transport(threads).why_not, HasSubstr("threads that share GPU 0 of host h1"));
}

TEST(NcclTransport, ProcessesThatShareADeviceAreToldApart) {
  const std::vector<RankPlace> places{{"h1", "0", 7}, {"h1", "0", 8}, {"h1", "1", 9}};
  EXPECT_EQ(choose_transport(places).why_not, "");
  EXPECT_EQ(choose_transport(places).shares_device, (std::vector<bool>{true, true, false}));
}

TEST(NcclTransport, EveryRankNeedsTheLibrary) {
  const std::vector<RankPlace> places{{"h1", "0", 7}, {"h2", "0", 7, false}};
  EXPECT_THAT(choose_transport(places).why_not, HasSubstr("shard 1 on host h2 has no NCCL"));
}

}  // namespace
}  // namespace convoke
