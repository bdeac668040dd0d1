// Hidden states that the target exports for drafters.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/dtype_convert.h"
#include "tests/support/golden_model.h"
#include "tests/support/test_replica.h"

namespace convoke {
namespace {

using testing::possible_tp;
using testing::ReplicaShape;
using testing::TestReplica;

const std::filesystem::path kModels = CONVOKE_SOURCE_DIR "/tests/golden/models";

FeatureSpec all_layers(const ModelConfig& config) {
  FeatureSpec spec{FeatureSpec::Kind::kLayers, {}};
  spec.layers.resize(size_t(config.layers) + 1);
  std::iota(spec.layers.begin(), spec.layers.end(), 0);
  return spec;
}

float value(const TensorView& view, int64_t row, int64_t column) {
  return view.dtype == DType::kFloat32 ? view.row<float>(row)[column]
                                       : bf16_to_float(view.row<uint16_t>(row)[column]);
}

std::vector<float> row_of(const TensorView& view, int64_t row) {
  std::vector<float> values;
  for (int64_t c = 0; c < view.cols; ++c) values.push_back(value(view, row, c));
  return values;
}

/// Features of every token of `tokens`, computed in chunks with a tree of two guesses at the end.
std::vector<std::vector<float>> features(TestReplica& replica, const std::vector<int32_t>& tokens,
                                         int chunk) {
  std::vector<std::vector<float>> rows;
  StepResult result;
  for (int begin = 0; begin < int(tokens.size()); begin += chunk) {
    const int end = std::min(begin + chunk, int(tokens.size()));
    StepPlan plan;
    if (begin == 0) plan.opened.push_back({.place = 0, .prompt_tokens = int(tokens.size())});
    SequenceRows& s = plan.sequences.emplace_back();
    if (begin == 0) {
      s.new_blocks.resize(size_t(blocks_for(int64_t(tokens.size()) + 2)));
      std::iota(s.new_blocks.begin(), s.new_blocks.end(), 0);
    }
    s.context = begin;
    s.chain.assign(tokens.begin() + begin, tokens.begin() + end);
    s.pick = end == int(tokens.size());
    if (s.pick) s.tree.nodes = {{-1, 1, false}, {0, 2, false}};
    replica.execute(plan, result);
    const int first = result.sequences[0].first_row;
    for (int i = 0; i < end - begin; ++i) rows.push_back(row_of(result.features, first + i));
  }
  StepPlan last;
  last.closed = {0};
  replica.execute(last, result);
  return rows;
}

float largest_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  float largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

float magnitude(std::span<const float> a) {
  float largest = 0;
  for (float v : a) largest = std::max(largest, std::abs(v));
  return largest;
}

class Features : public ::testing::TestWithParam<std::string> {
 protected:
  ReplicaShape shape(FeatureSpec spec, int tp = 1, int threads = 1) const {
    ReplicaShape s{.tp = tp, .threads = threads};
    s.dtype = "float32";
    s.features = std::move(spec);
    return s;
  }
  GoldenModel golden_ = load_golden_model(kModels / GetParam());
  ModelConfig config_ = ModelConfig::load(golden_.directory);
};

TEST_P(Features, AreTheHiddenStatesOfTransformers) {
  TestReplica layers(golden_.directory, shape(all_layers(config_)));
  const auto rows = features(layers, golden_.prompt, 512);
  const std::span<const float> last = rows.back();
  ASSERT_EQ(int(last.size()), (config_.layers + 1) * config_.hidden);
  const auto layer = [&](int l) {
    return last.subspan(size_t(l) * size_t(config_.hidden), size_t(config_.hidden));
  };
  EXPECT_LE(largest_difference(layer(0), golden_.embedding), 1e-6f * magnitude(golden_.embedding));
  for (int l = 0; l < config_.layers; ++l) {
    const auto& expected = golden_.layers[size_t(l)];
    EXPECT_LE(largest_difference(layer(l + 1), expected), 2e-4f * magnitude(expected)) << l;
  }
  TestReplica final(golden_.directory, shape({FeatureSpec::Kind::kFinal, {}}));
  const auto normed = features(final, golden_.prompt, 512);
  EXPECT_LE(largest_difference(normed.back(), golden_.norm), 2e-4f * magnitude(golden_.norm));
}

TEST_P(Features, HaveTheSameBitsHoweverTheyAreComputed) {
  TestReplica plain(golden_.directory, shape(all_layers(config_)));
  const auto expected = features(plain, golden_.prompt, 512);
  for (int tp : possible_tp(config_)) {
    for (int chunk : {1, 5}) {
      TestReplica replica(golden_.directory, shape(all_layers(config_), tp, chunk == 5 ? 2 : 1));
      EXPECT_TRUE(features(replica, golden_.prompt, chunk) == expected)
          << "tp " << tp << ", chunks of " << chunk;
    }
  }
}

std::string test_name(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::ranges::replace(name, '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Models, Features, ::testing::ValuesIn(golden_model_names(kModels)),
                         test_name);

TEST(FeatureExport, IsOffUnlessAsked) {
  TestReplica replica(kModels / "llama-gqa-bf16", {});
  StepResult result;
  StepPlan plan;
  plan.opened.push_back({.place = 0, .prompt_tokens = 1});
  plan.sequences.push_back({.new_blocks = {0}, .chain = {1}, .pick = true});
  replica.execute(plan, result);
  EXPECT_EQ(result.features.rows, 0);
}

TEST(FeatureExport, KeepsTheActivationDtype) {
  ReplicaShape shape;
  shape.features = {FeatureSpec::Kind::kFinal, {}};
  TestReplica replica(kModels / "llama-gqa-bf16", shape);
  StepResult result;
  StepPlan plan;
  plan.opened.push_back({.place = 0, .prompt_tokens = 1});
  plan.sequences.push_back({.new_blocks = {0}, .chain = {1}, .pick = true});
  replica.execute(plan, result);
  EXPECT_EQ(result.features.dtype, DType::kBFloat16);
  EXPECT_EQ(result.features.cols, replica.config().hidden);
}

}  // namespace
}  // namespace convoke
