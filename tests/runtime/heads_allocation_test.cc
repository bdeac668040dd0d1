// Passes of a head at the pace of decoding allocate nothing: counted by this program's own operator
// new.
#include <gtest/gtest.h>

#include "tests/runtime/allocation_counter.h"
#include "tests/support/heads_fixture.h"

namespace convoke {
namespace {

class HeadPasses : public ::testing::TestWithParam<std::string> {};

TEST_P(HeadPasses, AllocateNothing) {
  const testing::GoldenHead golden = testing::load_golden_head(GetParam());
  testing::OpenHead head(golden, {.dtype = "bfloat16", .threads = 2});
  BranchModel& model = *head.model;
  SamplingParams sampling;
  sampling.temperature = 0.8f;
  sampling.repetition_penalty = 1.1f;
  sampling.max_tokens = 60;
  sampling.logit_bias = {{2, 1.0f}};
  model.open(0, sampling, 5);
  std::vector<int32_t> tokens{1, 2, 3, 4, 5, 6};
  tokens.reserve(100);
  std::vector<float> values(size_t(4 * golden.features[0].size()), 0.25f);
  const auto width = int64_t(golden.features[0].size());
  const std::vector<int32_t> slots{0, 1, 2, 3}, path_tokens{7, 8, 9, 10};
  std::vector<BranchModel::Row> rows;
  for (size_t depth = 1; depth <= 4; ++depth) {
    rows.push_back({0, path_tokens[depth - 1], std::span(slots).first(depth),
                    std::span(path_tokens).first(depth)});
  }
  int64_t counted = 0;
  for (int round = 0; round < 16; ++round) {
    const auto features_begin = int32_t(tokens.size()) - (round == 0 ? 6 : 4);
    const BranchModel::Committed committed{
        .place = 0,
        .tokens = tokens,
        .feature_begin = features_begin,
        .features = TensorView::matrix(values.data(), DType::kFloat32, 3, width)};
    const int64_t before = allocations.load();
    model.absorb({&committed, 1}, 10);
    for (const BranchModel::Row& row : rows) model.expand({&row, 1}, 10);
    model.expand({rows.data(), 1}, 8);
    // The first rounds may grow buffers to the size that rounds have.
    if (round >= 2) counted += allocations.load() - before;
    ASSERT_FALSE(model.children(0).empty());
    for (int i = 0; i < 3; ++i) tokens.push_back(round + i);
  }
  EXPECT_EQ(counted, 0);
}

INSTANTIATE_TEST_SUITE_P(Heads, HeadPasses, ::testing::Values("eagle-fp32", "eagle3-reduced-bf16"));

}  // namespace
}  // namespace convoke
