// Models of drafters on CUDA devices: what PyTorch and transformers compute for them, the same bits
// in every shape of a pass, and what a draft pass costs beside its kernels.
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "runtime/heads/medusa_heads.h"
#include "tests/kernels/cuda/backend_fixture.h"
#include "tests/support/heads_fixture.h"

namespace convoke {
namespace {

using testing::expect_golden;
using testing::expect_like;
using testing::GoldenHead;
using testing::HeadShape;
using testing::load_golden_head;
using testing::OpenHead;
using testing::run_golden;
using testing::RunOptions;
using testing::Trace;

/// Of what heads are rounded to; float32 as on the CPU (tests/runtime/heads_golden_test.cc).
double tolerance_of(const GoldenHead& golden, const std::string& dtype) {
  return dtype == "float32" ? 1e-4 : 3 * golden.bfloat16_error;
}

std::string test_name(const ::testing::TestParamInfo<std::string>& test) {
  std::string name = test.param;
  std::ranges::replace(name, '-', '_');
  return name;
}

class CudaHeads : public ::testing::TestWithParam<std::string> {
 protected:
  OpenHead open(const HeadShape& shape, const cuda::CudaOptions& options = {}) const {
    return {golden, shape, cuda::make_cuda_backend(options)};
  }
  GoldenHead golden = load_golden_head(GetParam());
};

TEST_P(CudaHeads, CandidatesAreThoseOfPyTorch) {
  // "auto" keeps a float16 head in float16, which the CPU cannot.
  for (const char* dtype : {"float32", "bfloat16", "auto"}) {
    SCOPED_TRACE(dtype);
    OpenHead head = open({.dtype = dtype, .float16 = true});
    const Trace trace = run_golden(*head.model, golden, {});
    expect_golden(trace, golden, tolerance_of(golden, dtype));
    RunOptions narrow;
    narrow.bfloat16_features = true;  // golden features fit
    EXPECT_EQ(run_golden(*head.model, golden, narrow), trace);
  }
  // The library's sums.
  OpenHead fast = open({.dtype = "bfloat16"}, {.matmul = cuda::CudaMatmul::kFast});
  expect_golden(run_golden(*fast.model, golden, {}), golden, tolerance_of(golden, "bfloat16"));
}

class CudaHeadShapes : public CudaHeads {};

TEST_P(CudaHeadShapes, SameBits) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    SCOPED_TRACE(dtype);
    OpenHead reference = open({.dtype = dtype}, {.graphs = false});
    const Trace expected = run_golden(*reference.model, golden, {});
    OpenHead head = open({.dtype = dtype});
    for (int times = 0; times < 3; ++times) {
      EXPECT_EQ(run_golden(*head.model, golden, {}), expected) << "filled up, time " << times;
    }
    EXPECT_GT(cuda::graph_counters(*head.backend).replayed, 0u);
    for (const int chunk : {1, 7}) {
      RunOptions options;
      options.chunk = chunk;
      EXPECT_EQ(run_golden(*head.model, golden, options), expected) << "chunks of " << chunk;
    }
    RunOptions single;
    single.rows_per_expand = 1;
    single.place = 2;
    EXPECT_EQ(run_golden(*head.model, golden, single), expected) << "rows one by one";
    OpenHead small = open({.dtype = dtype, .max_rows = 10});
    EXPECT_EQ(run_golden(*small.model, golden, {}), expected) << "passes of 10 rows";
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, CudaHeads,
                         ::testing::ValuesIn(testing::golden_head_names({"eagle", "eagle3"})),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Golden, CudaHeadShapes,
                         ::testing::Values("eagle-reduced-fp32", "eagle3-reduced-bf16"), test_name);

TEST(CudaHeadModels, SequencesThatTakeTurnsInAPassGiveTheSameBits) {
  const GoldenHead golden = load_golden_head("eagle3-reduced-bf16");
  const GoldenHead::Step& step = golden.steps.front();
  std::vector<float> flat;
  for (int i = 0; i < step.tokens - 1; ++i) {
    flat.insert(flat.end(), golden.features[size_t(i)].begin(), golden.features[size_t(i)].end());
  }
  const TensorView features = TensorView::matrix(flat.data(), DType::kFloat32, step.tokens - 1,
                                                 int64_t(golden.features[0].size()));
  const std::vector<int32_t> slots{3}, tokens{7};
  const auto candidates = [&](const std::vector<int>& places) {
    OpenHead head(golden, {.dtype = "bfloat16"}, cuda::make_cuda_backend({}));
    std::vector<BranchModel::Committed> committed;
    for (const int place : {0, 1, 2}) {
      head.model->open(place, {}, step.tokens);
      committed.push_back({.place = place,
                           .tokens = std::span(golden.tokens).first(size_t(step.tokens)),
                           .features = features});
    }
    head.model->absorb(committed, 8);
    std::vector<BranchModel::Row> rows;
    for (const int place : places) rows.push_back({place, tokens[0], slots, tokens});
    head.model->expand(rows, 8);
    Trace trace;
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto best = head.model->children(int(i));
      trace.emplace_back(best.begin(), best.end());
    }
    return trace;
  };
  const Trace alone = candidates({1});
  const Trace turns = candidates({2, 0, 1, 2, 0});
  ASSERT_EQ(turns.size(), 5u);
  for (const auto& row : turns) EXPECT_EQ(row, alone[0]);
}

struct OpenMedusa {
  OpenMedusa(const GoldenHead& golden, const std::string& dtype,
             const cuda::CudaOptions& options = {})
      : backend(cuda::make_cuda_backend(options)),
        source(open_head(golden.directory)),
        heads(
            *backend,
            load_head_config(HeadKind::kMedusa, golden.directory, ModelConfig::load(golden.target)),
            *source, {.max_rows = 7, .dtype = dtype, .float16 = true}) {}

  /// The candidates of all heads for these features, head after head.
  Trace rank(std::span<const std::vector<float>> features, int count) {
    std::vector<MedusaHeads::Row> rows;
    for (const auto& f : features) rows.push_back({.feature = {f.data()}, .params = {}});
    heads.rank(rows, count);
    Trace trace;
    for (int head = 0; head < heads.heads(); ++head) {
      for (size_t r = 0; r < rows.size(); ++r) {
        const auto best = heads.ranked(int(r), head);
        trace.emplace_back(best.begin(), best.end());
      }
    }
    return trace;
  }

  std::unique_ptr<Backend> backend;
  std::shared_ptr<const TensorSource> source;
  MedusaHeads heads;
};

class CudaMedusa : public ::testing::TestWithParam<std::string> {
 protected:
  GoldenHead golden = load_golden_head(GetParam());
};

TEST_P(CudaMedusa, CandidatesAreThoseOfPyTorch) {
  for (const char* dtype : {"float32", "bfloat16", "float16"}) {
    SCOPED_TRACE(dtype);
    OpenMedusa medusa(golden, dtype);
    const Trace trace = medusa.rank(golden.features, 24);
    const size_t rows = golden.features.size();
    ASSERT_EQ(trace.size(), golden.heads.size() * rows);
    for (size_t i = 0; i < trace.size(); ++i) {
      expect_like(trace[i], golden.heads[i / rows][i % rows], tolerance_of(golden, dtype),
                  "row " + std::to_string(i));
    }
  }
}

TEST_P(CudaMedusa, SameBitsAloneAndTogether) {
  OpenMedusa medusa(golden, "bfloat16"), singly(golden, "bfloat16", {.graphs = false});
  const Trace together = singly.rank(golden.features, 10);
  const size_t rows = golden.features.size();
  for (int times = 0; times < 3; ++times) {
    EXPECT_EQ(medusa.rank(golden.features, 10), together);
    for (size_t r = 0; r < rows; ++r) {
      const Trace alone = medusa.rank(std::span(golden.features).subspan(r, 1), 10);
      for (size_t head = 0; head < alone.size(); ++head) {
        EXPECT_EQ(alone[head], together[head * rows + r]) << "row " << r << " head " << head;
      }
    }
  }
  EXPECT_GT(cuda::graph_counters(*medusa.backend).replayed, 0u);
}

INSTANTIATE_TEST_SUITE_P(Golden, CudaMedusa,
                         ::testing::Values("medusa-fp32", "medusa-two-layers-bf16"), test_name);

TEST(CudaDraftModel, RanksWhatTransformersComputes) {
  for (const char* name : {"llama-gqa-bf16", "qwen2-tied-bf16"}) {
    const GoldenModel golden = load_golden_model(kGoldenModels / name);
    DraftContext context;
    context.model = kGoldenModels / name;
    context.dtype = "float32";
    context.max_sequences = 1;
    const auto backend = cuda::make_cuda_backend({});
    // Passes of 10 rows: the prompt takes several.
    const auto model = open_branch_model("draft-model", context.model.string(), context,
                                         {.max_rows = 10}, *backend);
    SamplingParams greedy;
    greedy.temperature = 0;
    model->open(0, greedy, int32_t(golden.prompt.size()));
    const BranchModel::Committed committed{.place = 0, .tokens = golden.prompt};
    model->absorb({&committed, 1}, 8);
    ASSERT_EQ(model->children(0).size(), 8u);
    EXPECT_EQ(model->children(0)[0].token, golden.greedy[0]);
    for (const RankedToken& child : model->children(0)) {
      EXPECT_NEAR(child.score, golden.logits.back()[size_t(child.token)], 1e-4) << name;
    }
  }
}

#if !defined(CONVOKE_TEST_ON_GPU)
// At the pace of decoding: a few features, then a path, node by node.
TEST(CudaHeadModels, ADraftPassIsOneTransferEachWayAndOneWait) {
  for (const char* name : {"eagle-fp32", "eagle3-reduced-bf16"}) {
    SCOPED_TRACE(name);
    const GoldenHead golden = load_golden_head(name);
    OpenHead head(golden, {.dtype = "bfloat16"}, cuda::make_cuda_backend({}));
    SamplingParams sampling;
    sampling.temperature = 0.8f;
    sampling.repetition_penalty = 1.1f;
    head.model->open(0, sampling, 5);
    std::vector<int32_t> tokens{1, 2, 3, 4, 5, 6};
    const auto width = int64_t(golden.features[0].size());
    std::vector<float> values(size_t(3 * width), 0.25f);
    const std::vector<int32_t> slots{0, 1, 2, 3}, path_tokens{7, 8, 9, 10};
    emulation::DeviceCounters before;
    for (int round = 0; round < 12; ++round) {
      if (round == 4) before = emulation::device_counters();
      const BranchModel::Committed committed{
          .place = 0,
          .tokens = tokens,
          .feature_begin = int32_t(tokens.size()) - (round == 0 ? 6 : 4),
          .features = TensorView::matrix(values.data(), DType::kFloat32, 3, width)};
      head.model->absorb({&committed, 1}, 10);
      for (size_t depth = 1; depth <= 4; ++depth) {
        const BranchModel::Row row{0, path_tokens[depth - 1], std::span(slots).first(depth),
                                   std::span(path_tokens).first(depth)};
        head.model->expand({&row, 1}, 10);
      }
      for (int i = 0; i < 3; ++i) tokens.push_back(round + i);
    }
    const emulation::DeviceCounters& after = emulation::device_counters();
    const uint64_t rounds = 8, passes = 5 * rounds;
    EXPECT_EQ(after.allocations, before.allocations);
    EXPECT_EQ(after.to_device - before.to_device, passes + rounds) << "features are one more";
    EXPECT_EQ(after.to_host - before.to_host, passes);
    EXPECT_EQ(after.waits - before.waits, passes);
    EXPECT_EQ(after.graph_launches - before.graph_launches, passes);
  }
}

TEST(CudaHeadModels, MedusaRanksInOnePass) {
  const GoldenHead golden = load_golden_head("medusa-two-layers-bf16");
  OpenMedusa medusa(golden, "bfloat16");
  const auto features = std::span(golden.features).first(2);
  medusa.rank(features, 10), medusa.rank(features, 10);
  const emulation::DeviceCounters before = emulation::device_counters();
  for (int i = 0; i < 4; ++i) medusa.rank(features, 10);
  const emulation::DeviceCounters& after = emulation::device_counters();
  EXPECT_EQ(after.allocations, before.allocations);
  EXPECT_EQ(after.to_device - before.to_device, 8u) << "parameters, features";
  EXPECT_EQ(after.to_host - before.to_host, 4u);
  EXPECT_EQ(after.waits - before.waits, 4u);
  EXPECT_EQ(after.graph_launches - before.graph_launches, 4u);
}

TEST(CudaHeadModels, FreeAllTheyTook) {
  const uint64_t before = emulation::device_bytes();
  {
    OpenHead head(load_golden_head("eagle3-reduced-bf16"), {}, cuda::make_cuda_backend({}));
    OpenMedusa medusa(load_golden_head("medusa-fp32"), "auto");
    EXPECT_GT(emulation::device_bytes(), before);
  }
  EXPECT_EQ(emulation::device_bytes(), before);
}
#endif

}  // namespace
}  // namespace convoke
