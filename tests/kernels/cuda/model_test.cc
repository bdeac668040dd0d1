// Models on CUDA devices, through the transformer, the pick rule and the scheduler: logits
// against transformers' goldens, and the same bits whatever shares a pass and whoever drafted.
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "kernels/dtype_convert.h"
#include "runtime/drafters/ngram.h"
#include "tests/kernels/cuda/backend_fixture.h"

namespace convoke {
namespace {

using testing::mixed_trees;
using testing::Outcome;
using testing::ReplicaShape;
using testing::TestReplica;
using testing::TestRequest;
using testing::use_every_processor;

constexpr const char* kFloat8Channel = "../float8_models/compressed-channel";
constexpr const char* kFloat8Tensor = "../float8_models/compressed-tensor";

/// As in tests/runtime/transformer_golden_test.cc: independent roundings of activations and cache,
/// and of weights if the checkpoint has more bits, add up as their root; four standard deviations.
double rounding_bound(const ModelConfig& config, DType storage) {
  const double roundings = 10.0 * config.layers + 2;
  if (storage == DType::kFloat32) {
    const double terms = std::sqrt(double(std::max<int64_t>(config.hidden, config.intermediate)));
    return 4 * 0x1p-24 * std::sqrt(roundings) * terms;
  }
  const double sources = config.checkpoint_dtype == storage ? 1 : 2;
  const double unit = storage == DType::kBFloat16 ? 0x1p-9 : 0x1p-12;
  return 4 * unit * std::sqrt(sources * roundings);
}

/// Greedy, sampled, and with every processor, by turns.
std::vector<TestRequest> make_requests(const ModelConfig& config, int count) {
  std::mt19937 random(11);
  std::vector<TestRequest> requests;
  for (int i = 0; i < count; ++i) {
    TestRequest& r = requests.emplace_back();
    r.prompt.resize(1 + random() % 24);
    for (int32_t& t : r.prompt) t = int32_t(random() % unsigned(config.vocabulary));
    r.sampling.seed = random();
    r.sampling.max_tokens = 7 + int(random() % 4);
    r.sampling.temperature = i % 3 == 0 ? 0.0f : 1.0f;
    r.sampling.ignore_eos = true;
    if (i % 3 == 2) use_every_processor(r.sampling);
  }
  return requests;
}

class CudaGolden : public ::testing::TestWithParam<GpuCase> {
 protected:
  GoldenModel model = load_golden_model(kGoldenModels / GetParam().model);
  DType storage = GetParam().storage;
};

TEST_P(CudaGolden, LogitsAreThoseOfTransformersInEveryChunk) {
  TestReplica replica(model.directory, on_gpus({}, storage));
  const double bound = rounding_bound(replica.config(), storage);
  const LogitRows logits = replica.logits(model.prompt, 512);
  for (size_t i = 0; i < model.positions.size(); ++i) {
    EXPECT_LE(distance(logits[size_t(model.positions[i])], model.logits[i]),
              bound * norm(model.logits[i]));
  }
  EXPECT_TRUE(same_bits(replica.logits(model.prompt, 7), logits));
  const std::vector<int32_t> few(model.prompt.begin(), model.prompt.begin() + 5);
  EXPECT_TRUE(same_bits(replica.logits(few, 1), {logits.begin(), logits.begin() + 5}));
}

class CudaExactness : public CudaGolden {};

TEST_P(CudaExactness, EveryShapeAndEveryTreeGivesThePlainBits) {
  TestReplica reference(model.directory, on_gpus({.max_sequences = 1}, storage, {.graphs = false}));
  const auto requests = make_requests(reference.config(), 3);
  const std::vector<Outcome> plain = reference.run(requests);
  EXPECT_EQ(reference.accepted(), 0);
  int64_t accepted = 0;
  const std::vector<ReplicaShape> shapes = {
      {.max_sequences = 1},
      {.max_sequences = 3, .max_rows = 16, .prompt_chunk = 5},
      {.tp = 2, .max_sequences = 8},
  };
  for (const ReplicaShape& shape : shapes) {
    SCOPED_TRACE(::testing::Message() << "tp " << shape.tp << ", " << shape.max_sequences
                                      << " sequences, chunk " << shape.prompt_chunk);
    TestReplica replica(model.directory, on_gpus(shape, storage));
    if (shape.max_sequences > 1) {
      EXPECT_EQ(replica.run(requests), plain);
    }
    const int vocabulary = reference.config().vocabulary;
    EXPECT_EQ(replica.run(requests, mixed_trees(requests, plain, vocabulary, 5)), plain);
    accepted += replica.accepted();
  }
  EXPECT_GT(accepted, 10) << "the trees must be right often enough to mean something";
}

INSTANTIATE_TEST_SUITE_P(Models, CudaGolden,
                         ::testing::Values(GpuCase{"llama-gqa-bf16", DType::kBFloat16},
                                           GpuCase{"llama-gqa-bf16", DType::kFloat32},
                                           GpuCase{"llama-linear-fp16", DType::kFloat16},
                                           GpuCase{"llama-head80-bf16", DType::kBFloat16},
                                           GpuCase{"llama-sharded-mixed", DType::kBFloat16},
                                           GpuCase{"llama3-scaled-bf16", DType::kFloat16},
                                           GpuCase{"mistral-window-bf16", DType::kBFloat16},
                                           GpuCase{"qwen2-tied-bf16", DType::kBFloat16},
                                           GpuCase{"qwen3-bf16", DType::kBFloat16},
                                           GpuCase{kFloat8Channel, DType::kBFloat16},
                                           GpuCase{kFloat8Tensor, DType::kBFloat16}),
                         gpu_case_name);
// Grouped heads, biases, a window, norms of queries and keys; every type of weights.
INSTANTIATE_TEST_SUITE_P(Models, CudaExactness,
                         ::testing::Values(GpuCase{"llama-gqa-bf16", DType::kBFloat16},
                                           GpuCase{"llama-linear-fp16", DType::kFloat16},
                                           GpuCase{"mistral-window-bf16", DType::kBFloat16},
                                           GpuCase{kFloat8Channel, DType::kBFloat16},
                                           GpuCase{"qwen3-bf16", DType::kFloat32}),
                         gpu_case_name);

TEST(CudaDecoding, GreedyContinuationIsThatOfTransformers) {
  const GoldenModel model = load_golden_model(kGoldenModels / "qwen2-tied-bf16");
  TestReplica replica(model.directory, on_gpus({}, DType::kFloat32));
  TestRequest request{model.prompt, {}};
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  request.sampling.max_tokens = int(model.greedy.size());
  EXPECT_EQ(replica.run({request})[0].tokens, model.greedy);
}

// How near, with the library's sums; not which bits.
/// With weights of 8 bits only lm_head is the library's.
class CudaLibrary : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Models, CudaLibrary, ::testing::Values("llama-gqa-bf16", kFloat8Channel));

TEST_P(CudaLibrary, ProductsDecode) {
  const GoldenModel model = load_golden_model(kGoldenModels / GetParam());
  TestReplica replica(model.directory, on_gpus({.max_rows = 150}, DType::kBFloat16,
                                               {.matmul = cuda::CudaMatmul::kFast}));
  const double bound = rounding_bound(replica.config(), DType::kBFloat16);
  const LogitRows logits = replica.logits(model.prompt, 512);
  for (size_t i = 0; i < model.positions.size(); ++i) {
    EXPECT_LE(distance(logits[size_t(model.positions[i])], model.logits[i]),
              bound * norm(model.logits[i]));
  }
  const auto requests = make_requests(replica.config(), 3);
  const std::vector<Outcome> once = replica.run(requests);
  EXPECT_EQ(replica.run(requests), once) << "by graphs";
  EXPECT_GT(cuda::graph_counters(replica.backend(0)).replayed, 0u);
}

TEST(CudaDecoding, LookUpDraftsChangeNothing) {
  const auto directory = kGoldenModels / "llama-gqa-bf16";
  TestReplica replica(directory, on_gpus({.max_sequences = 4}, DType::kBFloat16));
  // Prompts that repeat themselves, so that there is something to look up.
  std::vector<TestRequest> requests = make_requests(replica.config(), 3);
  for (TestRequest& r : requests) {
    const std::vector<int32_t> once = r.prompt;
    for (int i = 0; i < 2; ++i) r.prompt.insert(r.prompt.end(), once.begin(), once.end());
    r.sampling.max_tokens = 24;
  }
  const std::vector<Outcome> plain = replica.run(requests);
  NgramDrafter drafter({});
  EXPECT_EQ(replica.run(requests, drafter, {.max_nodes = 8}), plain);
  EXPECT_GT(replica.accepted(), 0);
}

TEST(CudaDecoding, BitsDependOnNeitherClustersNorTheWorkSpaceOfAttention) {
  const GoldenModel model = load_golden_model(kGoldenModels / "llama-gqa-bf16");
  TestReplica reference(model.directory, on_gpus({}, DType::kBFloat16));
  const auto requests = make_requests(reference.config(), 3);
  const LogitRows logits = reference.logits(model.prompt, 512);
  const std::vector<Outcome> plain = reference.run(requests);

  TestReplica row_by_row(model.directory,
                         on_gpus({}, DType::kBFloat16, {.attention_workspace = 1}));
  EXPECT_TRUE(same_bits(row_by_row.logits(model.prompt, 512), logits));
  EXPECT_EQ(row_by_row.run(requests, mixed_trees(requests, plain, 131, 7)), plain);

#if !defined(CONVOKE_TEST_ON_GPU)
  emulation::set_devices(2, 8);
  {
    TestReplica older(model.directory, on_gpus({}, DType::kBFloat16));
    EXPECT_TRUE(same_bits(older.logits(model.prompt, 512), logits));
    EXPECT_EQ(older.run(requests), plain);
  }
  emulation::set_devices(2);
#endif
}

/// The prompt and a tree below it, in one step.
StepPlan prompt_with_tree(const std::vector<int32_t>& prompt, std::vector<DraftNode> nodes) {
  StepPlan plan;
  plan.opened.push_back({.place = 0, .prompt_tokens = int(prompt.size())});
  plan.opened[0].sampling.temperature = 0.9f;
  SequenceRows& rows = plan.sequences.emplace_back();
  rows.new_blocks = {2, 0, 1};
  rows.chain = prompt;
  rows.tree.nodes = std::move(nodes);
  rows.pick = true;
  return plan;
}

TEST(CudaDecoding, ProbesAndLookaheadEmbeddingsAreRanked) {
  const auto directory = kGoldenModels / "llama-gqa-bf16";
  // Look-ahead embeddings are those of tokens 17 and 4: rows -1 and -2 are these tokens' rows.
  const std::vector<DraftNode> with_names{{-1, 7, false}, {-1, -1, true}, {1, -2, true}};
  const std::vector<DraftNode> with_tokens{{-1, 7, false}, {-1, 17, true}, {1, 4, true}};
  StepResult plain;
  TestReplica(directory, on_gpus({.probe_candidates = 6}, DType::kBFloat16))
      .execute(prompt_with_tree({1, 2, 3, 4, 5}, with_tokens), plain);
  for (int tp : {1, 2}) {
    TestReplica replica(
        directory,
        on_gpus({.tp = tp, .probe_candidates = 6, .lookahead_tokens = {17, 4}}, DType::kBFloat16));
    StepResult result;
    replica.execute(prompt_with_tree({1, 2, 3, 4, 5}, with_names), result);
    const SequencePicks &got = result.sequences.at(0), &want = plain.sequences.at(0);
    ASSERT_EQ(got.picks.size(), 4u);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(got.picks[i].token, want.picks[i].token) << "tp " << tp << " row " << i;
      EXPECT_EQ(got.picks[i].digest, want.picks[i].digest) << "tp " << tp << " row " << i;
      EXPECT_EQ(got.ranked[i], want.ranked[i]) << "tp " << tp << " row " << i;
    }
    EXPECT_EQ(got.ranked[2].size(), 6u);
    EXPECT_TRUE(got.ranked[1].empty()) << "a candidate";
  }
}

TEST(CudaDecoding, FeaturesReachTheHost) {
  const std::vector<int32_t> prompt{1, 9, 3, 4, 5, 2, 8};
  struct {
    const char* model;
    DType storage;
    FeatureSpec spec;
    double tolerance;
  } const cases[] = {
      {"llama-gqa-bf16", DType::kBFloat16, {FeatureSpec::Kind::kFinal, {}}, 0.03},
      {"llama-gqa-bf16", DType::kBFloat16, {FeatureSpec::Kind::kLayers, {0, 1, 2}}, 0.03},
      {"llama-linear-fp16", DType::kFloat16, {FeatureSpec::Kind::kLayers, {1, 2}}, 0.004},
  };
  for (const auto& c : cases) {
    ReplicaShape shape;
    shape.features = c.spec;
    StepResult got, want;
    TestReplica gpu(kGoldenModels / c.model, on_gpus(shape, c.storage));
    gpu.execute(prompt_with_tree(prompt, {}), got);
    shape.dtype = "float32";
    TestReplica cpu(kGoldenModels / c.model, shape);
    cpu.execute(prompt_with_tree(prompt, {}), want);
    ASSERT_EQ(got.features.rows, want.features.rows);
    ASSERT_EQ(got.features.cols, c.spec.width(gpu.config()));
    EXPECT_EQ(got.features.dtype,
              c.storage == DType::kBFloat16 ? DType::kBFloat16 : DType::kFloat32);
    for (int64_t r = 0; r < got.features.rows; ++r) {
      std::vector<float> mine, theirs;
      for (int64_t i = 0; i < got.features.cols; ++i) {
        mine.push_back(got.features.dtype == DType::kFloat32
                           ? got.features.row<float>(r)[i]
                           : bf16_to_float(got.features.row<uint16_t>(r)[i]));
        theirs.push_back(want.features.row<float>(r)[i]);
      }
      EXPECT_LE(distance(mine, theirs), c.tolerance * norm(theirs)) << c.model << " row " << r;
    }
  }
}

#if !defined(CONVOKE_TEST_ON_GPU)
// What a decoding step costs beside its kernels.
TEST(CudaDecoding, AStepIsOneTransferEachWayAndOneWait) {
  TestReplica replica(kGoldenModels / "llama-gqa-bf16",
                      on_gpus({.max_sequences = 4}, DType::kBFloat16));
  const auto requests = make_requests(replica.config(), 4);
  const std::vector<Outcome> plain = replica.run(requests);  // work space of filters is made once
  const auto trees = mixed_trees(requests, plain, replica.config().vocabulary, 3);
  const emulation::DeviceCounters before = emulation::device_counters();
  EXPECT_EQ(replica.run(requests, trees), plain);
  const emulation::DeviceCounters& after = emulation::device_counters();
  const auto steps = uint64_t(replica.steps());
  EXPECT_GE(steps, 4u);
  EXPECT_EQ(after.allocations, before.allocations);
  EXPECT_EQ(after.to_device - before.to_device, steps);
  EXPECT_EQ(after.to_host - before.to_host, steps);
  EXPECT_EQ(after.waits - before.waits, steps);
}
#endif

}  // namespace
}  // namespace convoke
