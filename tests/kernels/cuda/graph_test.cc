// Replayed passes on devices: what a capture forbids, when graphs are made and forgotten,
// and that they change no bit.
#include <cmath>

#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/graph_cache.h"
#include "kernels/cuda/kernels.h"
#include "tests/kernels/cuda/backend_fixture.h"

namespace convoke::cuda {
namespace {

using testing::mixed_trees;
using testing::Outcome;
using testing::ReplicaShape;
using testing::TestReplica;
using testing::TestRequest;

/// A stream, and floats on the device.
class GraphTest : public ::testing::Test {
 protected:
  GraphTest() { select_device(0); }
  ~GraphTest() override {
    synchronise(stream.handle);
    destroy_stream(stream.handle);
  }
  TensorView view(int64_t columns) const {
    return TensorView::matrix(memory.data(), DType::kFloat32, 1, columns);
  }
  void write(float value) {
    std::fill_n(pinned_floats(), kFloats, value);
    copy(memory.data(), pinned.data());
  }
  /// What the device holds.
  std::vector<float> read() {
    copy(pinned.data(), memory.data());
    synchronise(stream.handle);
    return {pinned_floats(), pinned_floats() + kFloats};
  }
  void copy(void* to, const void* from) {
    enqueue_copy(stream.handle, to, kBytes, from, kBytes, kBytes, 1);
  }
  float* pinned_floats() const { return static_cast<float*>(pinned.data()); }

  /// `launches` times x += x, over the first `columns` floats.
  LaunchLog doublings(int launches, int64_t columns = kFloats) {
    LaunchLog log;
    CudaStream recording = stream;
    recording.log = &log;
    for (int i = 0; i < launches; ++i) {
      add_bias(recording, view(columns), static_cast<const float*>(memory.data()));
    }
    return log;
  }

  static constexpr int64_t kFloats = 200;
  static constexpr size_t kBytes = kFloats * sizeof(float);
  CudaStream stream{create_stream()};
  DeviceBuffer memory{kBytes, "a test"};
  PinnedBuffer pinned{kBytes, "a test"};
};

TEST_F(GraphTest, AGraphRunsWhatWasRecordedOnWhatMemoryHoldsThen) {
  write(1);
  begin_capture(stream.handle);
  doublings(3).issue(stream);
  CUgraphExec_st* const graph = end_capture(stream.handle);
  EXPECT_EQ(read(), std::vector<float>(kFloats, 1)) << "recorded, not run";
  launch_graph(graph, stream.handle);
  EXPECT_EQ(read(), std::vector<float>(kFloats, 8));
  write(3);
  launch_graph(graph, stream.handle);
  launch_graph(graph, stream.handle);
  EXPECT_EQ(read(), std::vector<float>(kFloats, 192));
  destroy_graph(graph);
}

#if !defined(CONVOKE_TEST_ON_GPU)
TEST_F(GraphTest, ACaptureRefusesWhatARealOneWould) {
  std::vector<float> pageable(kFloats);
  begin_capture(stream.handle);
  EXPECT_THROW(synchronise(stream.handle), Error);
  EXPECT_THROW(allocate_device(64, "a test"), Error);
  EXPECT_THROW(allocate_pinned(64, "a test"), Error);
  EXPECT_THROW(copy(memory.data(), pageable.data()), Error);
  EXPECT_THROW(begin_capture(stream.handle), Error);
  copy(memory.data(), pinned.data());  // that is recorded
  drop_capture(stream.handle);
  EXPECT_FALSE(copies_asynchronously(pageable.data()));
  EXPECT_TRUE(copies_asynchronously(pinned.data()) && copies_asynchronously(memory.data()));
}
#endif

TEST_F(GraphTest, AGraphIsMadeTheSecondTime) {
  GraphCache cache;
  write(1);
  float want = 1;
  for (int times = 1; times <= 4; ++times) {
    cache.run(stream, doublings(10));
    want *= 1024;
    EXPECT_EQ(read(), std::vector<float>(kFloats, want));
    EXPECT_EQ(cache.counters().launched_singly, 1u);
    EXPECT_EQ(cache.counters().made, times > 1 ? 1u : 0u);
    EXPECT_EQ(cache.counters().replayed, uint64_t(times - 1));
  }
}

TEST_F(GraphTest, EveryArgumentCounts) {
  GraphCache cache;
  write(1);
  for (int i = 0; i < 2; ++i) {
    cache.run(stream, doublings(10, kFloats));
    cache.run(stream, doublings(10, kFloats - 1));
    cache.run(stream, doublings(9, kFloats));
  }
  EXPECT_EQ(cache.counters().made, 3u);
  const std::vector<float> got = read();
  EXPECT_EQ(got[0], std::ldexp(1.0f, 58));
  EXPECT_EQ(got[kFloats - 1], std::ldexp(1.0f, 38));
}

TEST_F(GraphTest, AFewLaunchesAreNotWorthAGraph) {
  GraphCache cache;
  for (int i = 0; i < 4; ++i) cache.run(stream, doublings(3));
  EXPECT_EQ(cache.counters().launched_singly, 4u);
  EXPECT_EQ(cache.counters().made, 0u);
}

TEST_F(GraphTest, WhatWasNotUsedForLongIsForgotten) {
  GraphCache cache;
  const auto run = [&](int64_t columns) { cache.run(stream, doublings(9, columns)); };
  run(1), run(1);
  EXPECT_EQ(cache.counters().made, 1u);
  for (int64_t columns = 2; columns <= 96; ++columns) run(columns);
  run(1);
  EXPECT_EQ(cache.counters().replayed, 2u) << "96 are kept";
  for (int64_t columns = 97; columns <= 192; ++columns) run(columns);
  run(1);
  EXPECT_EQ(cache.counters().replayed, 2u);
  EXPECT_EQ(cache.counters().launched_singly, 193u);
  synchronise(stream.handle);
}

TEST_F(GraphTest, PaddingRowsEnterAsNan) {
  const TensorView table = TensorView::matrix(memory.data(), DType::kFloat32, 2, 8);
  DeviceBuffer tokens(3 * sizeof(int32_t), "a test"), out(3 * 8 * sizeof(float), "a test");
  write(2);
  const int32_t host_tokens[] = {1, kPaddingToken, 0};
  enqueue_copy(stream.handle, tokens.data(), 12, host_tokens, 12, 12, 1);
  embed(stream, {.tokens = {static_cast<const int32_t*>(tokens.data()), 3},
                 .table = table,
                 .x = TensorView::matrix(out.data(), DType::kFloat32, 3, 8)});
  std::vector<float> x(24);
  enqueue_copy(stream.handle, x.data(), 96, out.data(), 96, 96, 1);
  for (size_t i = 0; i < 24; ++i) {
    if (i / 8 == 1) {
      EXPECT_TRUE(std::isnan(x[i])) << i;
    } else {
      EXPECT_EQ(x[i], 2) << i;
    }
  }
}

/// Greedy, sampled with edits, filtered, with log-probabilities.
std::vector<TestRequest> different_requests() {
  std::vector<TestRequest> requests(5);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt = {int32_t(3 + i), 9, 4, int32_t(20 + 7 * i), 5};
    requests[i].prompt.resize(5 + 4 * i, int32_t(i));
    SamplingParams& s = requests[i].sampling;
    s.seed = 40 + i;
    s.max_tokens = 5;
    s.ignore_eos = true;
    s.temperature = i == 0 ? 0.0f : 1.0f;
  }
  requests[2].sampling.top_k = 20;
  requests[2].sampling.min_p = 0.01f;
  requests[3].sampling.logprobs = 3;
  testing::use_every_processor(requests[4].sampling);
  return requests;
}

TEST(CudaGraphs, ReplayingChangesNoBit) {
  const auto directory = kGoldenModels / "llama-gqa-bf16";
  const auto requests = different_requests();
  const auto counters = [](TestReplica& replica) { return graph_counters(replica.backend(0)); };
  for (const int tp : {1, 2}) {
    SCOPED_TRACE(::testing::Message() << "tp " << tp);
    // 13 rows at most: no size that passes are filled up to.
    const ReplicaShape shape{.tp = tp, .max_sequences = 5, .max_rows = 13, .probe_candidates = 4};
    TestReplica singly(directory, on_gpus(shape, DType::kBFloat16, {.graphs = false}));
    TestReplica replayed(directory, on_gpus(shape, DType::kBFloat16));
    const std::vector<Outcome> plain = singly.run(requests);
    EXPECT_EQ(replayed.run(requests), plain);
    for (int i = 0; i < (tp == 1 ? 2 : 1); ++i) {
      const auto trees = mixed_trees(requests, plain, singly.config().vocabulary, 1);
      EXPECT_EQ(replayed.run(requests, trees), plain);
    }
    EXPECT_EQ(counters(singly).replayed + counters(singly).launched_singly, 0u);
    EXPECT_GT(counters(replayed).launched_singly, 0u);
    if (tp == 1) {
      EXPECT_GT(counters(replayed).made, 3u);
      EXPECT_GT(counters(replayed).replayed, counters(replayed).made);
    }
  }
}

TEST(CudaGraphs, AStepThatHasComeBeforeIsOneGraph) {
  TestReplica replica(kGoldenModels / "llama-gqa-bf16",
                      on_gpus({.max_sequences = 3}, DType::kBFloat16));
  auto requests = different_requests();
  requests.resize(3);
  const std::vector<Outcome> outcomes = replica.run(requests);
  const auto run = [&] {  // the same trees every time
    replica.run(requests, mixed_trees(requests, outcomes, replica.config().vocabulary, 3));
  };
  run(), run();
  const GraphCounters before = graph_counters(replica.backend(0));
#if !defined(CONVOKE_TEST_ON_GPU)
  const emulation::DeviceCounters device_before = emulation::device_counters();
#endif
  run();
  const GraphCounters& after = graph_counters(replica.backend(0));
  EXPECT_EQ(after.replayed - before.replayed, uint64_t(replica.steps()));
  EXPECT_EQ(after.made, before.made);
#if !defined(CONVOKE_TEST_ON_GPU)
  const emulation::DeviceCounters& device = emulation::device_counters();
  EXPECT_EQ(device.graph_launches - device_before.graph_launches, uint64_t(replica.steps()));
  EXPECT_EQ(device.allocations, device_before.allocations);
  EXPECT_EQ(device.waits - device_before.waits, uint64_t(replica.steps()));
#endif
}

}  // namespace
}  // namespace convoke::cuda
