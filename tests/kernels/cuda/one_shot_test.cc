// Sums in one kernel over memory that ranks reach: the bits of the host's tree and of the kernels
// that the fused one stands for, at every size, order of ranks and replay, and how waits for a rank
// that is missing end.
#include <gmock/gmock.h>

#include <chrono>

#include "kernels/cuda/kernels.h"
#include "tests/kernels/cuda/ranks_fixture.h"

namespace convoke {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ReplicaShape;
using testing::TestReplica;
using testing::TestRequest;

TEST(OneShot, SumsAreTheTreeOfTheHostAtEverySize) {
  for (const int size : {2, 4, 8}) {
    const int64_t capacity = 5000;
    Ranks ranks({.size = size, .capacity = 12345, .transport = false, .one_shot = capacity});
    // One block with a few floats, several with odd numbers, a whole turn, several turns.
    for (const int64_t count : {1, 3, 1000, 1023, 4096, 4999, 5000, 12345}) {
      SCOPED_TRACE(::testing::Message() << size << " ranks, " << count << " floats");
      SumCase sums(size, count, uint32_t(count));
      ranks.add(sums.contributions, sums.targets);
      sums.expect_summed();
    }
  }
}

TEST(OneShot, LargeSumsAreTheTransports) {
  Ranks ranks({.capacity = 70000 * 8, .one_shot = 20000});
  for (const int64_t count : {20000, 20001, 70000}) {
    SumCase sums(2, count);
    ranks.add(sums.contributions, sums.targets);
    sums.expect_summed();
  }
  EXPECT_EQ(ranks.transports.all_gathers(), 2) << "of the second, and of the third's pieces";
  EXPECT_EQ(ranks.transports.all_to_alls(), 1);
  EXPECT_THAT(ranks.communicators[0]->describe(),
              AllOf(HasSubstr("one-shot sums over peer access up to 78 kB, emulated copies"),
                    HasSubstr("threads beside it")));
}

TEST(OneShot, TheBordersBetweenTheWaysShrinkWithMoreRanks) {
  EXPECT_GT(one_shot_bytes(2), one_shot_bytes(4));
  EXPECT_GT(one_shot_bytes(4), one_shot_bytes(8));
}

/// One sum of rows on all ranks with bias and norm: fused, and step by step on one device.
void expect_fused_bits(Ranks& ranks, int64_t rows, int64_t columns, DType dtype, bool biased,
                       uint32_t seed) {
  SCOPED_TRACE(::testing::Message() << ranks.size() << " ranks, " << rows << " x " << columns
                                    << ", " << dtype_name(dtype) << ", seed " << seed);
  const int64_t count = rows * columns;
  SumCase sums(ranks.size(), count, seed);
  const std::vector<float> weight = random_floats(columns, seed + 7);
  const std::vector<float> bias = random_floats(biased ? columns : 0, seed + 8);
  const size_t bytes = size_t(count) * dtype_size(dtype);
  std::vector<std::byte> want_normed(bytes);
  std::vector<float> want = sums.sum;
  {
    Backend& backend = *ranks.backends[0];
    const FloatArray x(backend, sums.sum), w(backend, weight), b(backend, bias);
    const auto y = backend.allocate(bytes);
    const TensorView normed = TensorView::matrix(y->data(), dtype, rows, columns);
    backend.run([&](Stream& stream) {
      const TensorView view = floats(x.data(), rows, columns);
      if (biased) backend.add_bias(stream, view, b.data());
      backend.rms_norm(stream, {.x = view, .weight = w.data(), .epsilon = 1e-5f, .y = normed});
      backend.copy(stream, view, floats(want.data(), rows, columns));
      backend.copy(stream, normed, TensorView::matrix(want_normed.data(), dtype, rows, columns));
    });
  }
  std::vector<std::vector<std::byte>> normed(size_t(ranks.size()), std::vector<std::byte>(bytes));
  ranks.on_all([&](int r) {
    Backend& backend = *ranks.backends[size_t(r)];
    Communicator& communicator = *ranks.communicators[size_t(r)];
    const FloatArray x(backend, sums.targets[size_t(r)]), w(backend, weight), b(backend, bias);
    const auto y = backend.allocate(bytes);
    const TensorView out = TensorView::matrix(y->data(), dtype, rows, columns);
    backend.run([&](Stream& stream) {
      backend.copy(stream, floats(sums.contributions[size_t(r)].data(), count),
                   floats(communicator.reduce_buffer(), count));
      communicator.all_reduce_add_norm(stream, {.target = const_cast<float*>(x.data()),
                                                .rows = rows,
                                                .columns = columns,
                                                .bias = b.data(),
                                                .norm_weight = w.data(),
                                                .norm_epsilon = 1e-5f,
                                                .normalised = out});
      backend.copy(stream, floats(x.data(), count), floats(sums.targets[size_t(r)].data(), count));
      backend.copy(stream, out, TensorView::matrix(normed[size_t(r)].data(), dtype, rows, columns));
    });
  });
  for (int r = 0; r < ranks.size(); ++r) {
    EXPECT_EQ(std::memcmp(sums.targets[size_t(r)].data(), want.data(), want.size() * 4), 0) << r;
    EXPECT_EQ(normed[size_t(r)], want_normed) << r;
  }
}

TEST(OneShot, BiasAndNormHaveTheBitsOfTheirKernels) {
  const DType dtypes[] = {DType::kBFloat16, DType::kFloat16, DType::kFloat32};
  uint32_t seed = 0;
  for (const int size : {2, 4, 8}) {
    Ranks ranks({.size = size, .capacity = 64 * 400, .transport = false, .one_shot = 64 * 300});
    for (const int64_t rows : {1, 2, 3, 4, 7, 16, 64}) {
      for (const int64_t columns : {37, 64, 300}) {
        expect_fused_bits(ranks, rows, columns, dtypes[seed % 3], seed % 2 == 0, seed);
        ++seed;
      }
    }
    // A row in two, three and four parts, with a ragged end; more than one kernel adds up.
    expect_fused_bits(ranks, 2, 2052, DType::kBFloat16, true, 91);
    expect_fused_bits(ranks, 1, 2900, DType::kFloat32, false, 92);
    expect_fused_bits(ranks, 1, 4097, DType::kBFloat16, true, 93);
    expect_fused_bits(ranks, 64, 400, DType::kBFloat16, true, 94);
  }
}

TEST(OneShot, NoOrderOfThreadsAndBlocksChangesABit) {
  Ranks ranks({.size = 4, .capacity = 8192, .transport = false, .one_shot = 8192});
  for (const auto schedule : emulation::kSchedules) {
    emulation::set_schedule(schedule, 5);
    expect_fused_bits(ranks, 1, 2900, DType::kBFloat16, true, 3);
    expect_fused_bits(ranks, 9, 100, DType::kBFloat16, false, 4);
  }
  emulation::set_schedule(emulation::Schedule::kInOrder);
}

TEST(OneShot, RanksThatAreLateGetTheSameSums) {
  for (const bool processes : {false, true}) {
    Ranks ranks({.size = 4,
                 .capacity = 1024,
                 .transport = false,
                 .one_shot = 1024,
                 .processes = processes});
    EXPECT_THAT(ranks.communicators[0]->describe(),
                HasSubstr(processes ? "CUDA IPC" : "peer access"));
    std::vector<SumCase> sums;
    for (uint32_t i = 0; i < 40; ++i) sums.emplace_back(4, 1 + i * 1023 / 39, i);
    ranks.on_all([&](int r) {
      std::mt19937 engine{uint32_t(r)};
      for (SumCase& sum : sums) {
        if (engine() % 4 == 0) {
          std::this_thread::sleep_for(std::chrono::milliseconds(engine() % 8));
        }
        ranks.add_on(r, sum.contributions[size_t(r)], sum.targets[size_t(r)]);
      }
    });
    for (const SumCase& sum : sums) sum.expect_summed();
  }
}

TEST(OneShot, ManySumsInOneStreamNeedNoOtherWait) {
  // As a pass has them: nothing but sums, of different sizes, between the halves of the memory.
  const int size = 4;
  Ranks ranks({.size = size, .capacity = 1500, .transport = false, .one_shot = 1500});
  std::vector<SumCase> sums;
  for (uint32_t i = 0; i < 30; ++i) sums.emplace_back(size, i % 3 == 0 ? 1500 : 7 + i, i);
  ranks.on_all([&](int r) {
    Backend& backend = *ranks.backends[size_t(r)];
    Communicator& communicator = *ranks.communicators[size_t(r)];
    std::vector<FloatArray> mine, targets;
    for (const SumCase& sum : sums) {
      mine.emplace_back(backend, sum.contributions[size_t(r)]);
      targets.emplace_back(backend, sum.targets[size_t(r)]);
    }
    backend.run([&](Stream& stream) {
      for (size_t i = 0; i < sums.size(); ++i) {
        const auto count = int64_t(mine[i].size());
        backend.copy(stream, floats(mine[i].data(), count),
                     floats(communicator.reduce_buffer(), count));
        communicator.all_reduce_add(stream, const_cast<float*>(targets[i].data()), count);
      }
    });
    backend.run([&](Stream& stream) {
      for (size_t i = 0; i < sums.size(); ++i) {
        auto& target = sums[i].targets[size_t(r)];
        backend.copy(stream, floats(targets[i].data(), int64_t(target.size())),
                     floats(target.data(), int64_t(target.size())));
      }
    });
  });
  for (const SumCase& sum : sums) sum.expect_summed();
}

// --- Ranks that do not come ---

TEST(OneShot, ARankThatDoesNotComeIsNamedWithinTheDeadline) {
  Ranks ranks({.capacity = 100, .deadline = 1, .transport = false, .one_shot = 100});
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THAT(error_of_sum(ranks, false), HasSubstr("rank 1"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(OneShot, AbortEndsTheWaitWithItsReason) {
  Ranks ranks({.capacity = 100, .transport = false, .one_shot = 100});
  std::jthread supervisor([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ranks.communicators[0]->abort("rank 1 on host h2 is dead");
  });
  EXPECT_EQ(error_of_sum(ranks, false), "rank 1 on host h2 is dead");
  EXPECT_EQ(error_of_sum(ranks, false), "rank 1 on host h2 is dead") << "from then on";
}

TEST(OneShot, ASumThatAnAbortEndedIsNotBelieved) {
  // All sums of the pass are enqueued when the abort comes; they end, and the pass fails.
  Ranks ranks({.capacity = 64, .transport = false, .one_shot = 64});
  std::vector<float> target(64, 0.0f);
  std::string error;
  std::jthread supervisor([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ranks.communicators[0]->abort("the job ends");
  });
  Backend& backend = *ranks.backends[0];
  const FloatArray there(backend, target);
  try {
    backend.run([&](Stream& stream) {
      for (int i = 0; i < 20; ++i) {
        ranks.communicators[0]->all_reduce_add(stream, const_cast<float*>(there.data()), 64);
      }
    });
  } catch (const Error& failure) {
    error = failure.what();
  }
  EXPECT_EQ(error, "the job ends");
}

// --- Who can ---

TEST(PeerMemory, OtherHostsAndThreadsOfOneDeviceCannot) {
  EXPECT_EQ(why_no_peers({{"h1", "0", 7}, {"h1", "1", 7}, {"h1", "1", 8}}), "");
  EXPECT_THAT(why_no_peers({{"h1", "0", 7}, {"h2", "0", 8}}), HasSubstr("hosts h1 and h2"));
  EXPECT_THAT(why_no_peers({{"h1", "0", 7}, {"h1", "0", 7}}), HasSubstr("share GPU 0"));
}

/// What make_peer_memory says on each of two ranks.
std::vector<std::string> objections(bool processes) {
  emulation::set_devices(2);
  auto hosts = make_thread_communicators(2, {.gather_capacity = 64});
  std::vector<std::string> why(2);
  std::vector<std::jthread> threads;
  for (int r = 0; r < 2; ++r) {
    threads.emplace_back([&, r] {
      const auto backend = cuda::make_cuda_backend({.device = r});
      RankPlace place = place_of(r);
      if (processes) place.process = r;
      const auto memory =
          make_peer_memory(*backend, *hosts[size_t(r)], place, {.capacity = 16}, why[size_t(r)]);
      EXPECT_EQ(memory == nullptr, !why[size_t(r)].empty());
    });
  }
  threads.clear();
  return why;
}

TEST(PeerMemory, DevicesWithoutALinkAreNamedOnAllRanks) {
  for (const bool processes : {false, true}) {
    emulation::cut_links(true);
    const auto why = objections(processes);
    emulation::cut_links(false);
    EXPECT_EQ(why[0], why[1]);
    EXPECT_EQ(why[0], "shard 0: GPU emulated:0 does not reach the memory of GPU emulated:1");
    EXPECT_EQ(objections(processes), std::vector<std::string>(2)) << "linked again";
  }
}

TEST(PeerMemory, ARankWithoutMemoryIsHeardOnAllRanks) {
  emulation::limit_device_bytes(emulation::device_bytes() + 1000);
  const auto why = objections(false);
  emulation::limit_device_bytes(uint64_t{1} << 40);
  EXPECT_EQ(why[0], why[1]);
  EXPECT_THAT(why[0], AllOf(HasSubstr("shard 0: "), HasSubstr("out of memory")));
}

// --- Whole models ---

struct TpCase {
  const char* model;
  int tp;
  DType storage = DType::kBFloat16;
};
void PrintTo(const TpCase& c, std::ostream* out) {
  *out << c.model << " at tp " << c.tp;
}

class OneShotModel : public ::testing::TestWithParam<TpCase> {};

TEST_P(OneShotModel, StepsAreOneGraphAndGiveThePlainBits) {
  const auto directory = kGoldenModels / GetParam().model;
  const int tp = GetParam().tp;
  emulation::set_devices(tp);
  std::vector<TestRequest> requests(3);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt = {int32_t(3 + i), 9, 4, 71, 5};
    requests[i].sampling.max_tokens = 8;
    requests[i].sampling.ignore_eos = true;
    requests[i].sampling.temperature = float(i);
  }
  TestReplica alone(directory, on_gpus({}, GetParam().storage, {.graphs = false}));
  const auto plain = alone.run(requests);
  const auto through_host =
      TestReplica(directory, on_gpus({.tp = tp}, GetParam().storage)).run(requests);
  EXPECT_EQ(through_host, plain);

  ReplicaShape shape{.tp = tp};
  shape.make_communicator = [](Backend& backend, std::unique_ptr<Communicator> host) {
    DeviceLinks links;
    std::string why;
    // Four rows: larger passes go in turns, and are normalised behind them.
    links.peers = make_peer_memory(backend, *host, place_of(cuda::device_of(backend)),
                                   {.capacity = 4 * 32, .blocks = 2}, why);
    EXPECT_EQ(why, "");
    return make_device_communicator(backend, std::move(host), std::move(links),
                                    {.reduce_capacity = 1 << 18, .deadline_seconds = 120});
  };
  TestReplica replica(directory, on_gpus(shape, GetParam().storage));
  EXPECT_EQ(replica.run(requests), plain);
  const auto trees = [&] {
    return testing::mixed_trees(requests, plain, replica.config().vocabulary, 5);
  };
  for (int i = 0; i < 2; ++i) EXPECT_EQ(replica.run(requests, trees()), plain);
  const cuda::GraphCounters before = cuda::graph_counters(replica.backend(1));
  for (int i = 0; i < 3; ++i) EXPECT_EQ(replica.run(requests, trees()), plain);
  const cuda::GraphCounters& after = cuda::graph_counters(replica.backend(1));
  EXPECT_EQ(after.replayed - before.replayed, 3 * uint64_t(replica.steps()));

  // Logits to be filtered have no way between the devices but the host's.
  for (TestRequest& r : requests) r.sampling.temperature = 1, r.sampling.top_k = 5;
  EXPECT_EQ(replica.run(requests), alone.run(requests));
  emulation::set_devices(2);
}

INSTANTIATE_TEST_SUITE_P(Models, OneShotModel,
                         ::testing::Values(TpCase{"llama-gqa-bf16", 4}, TpCase{"llama-gqa-bf16", 8},
                                           TpCase{"llama-linear-fp16", 4, DType::kFloat16},
                                           TpCase{"qwen3-bf16", 2, DType::kFloat32}),
                         [](const auto& test) {
                           std::string name = test.param.model;
                           std::ranges::replace(name, '-', '_');
                           return name + "_tp_" + std::to_string(test.param.tp);
                         });

}  // namespace
}  // namespace convoke
