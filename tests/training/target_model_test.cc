// The trainer's target against transformers.
#include <gtest/gtest.h>

#include "tests/support/golden_model.h"
#include "tests/training/torch_fixture.h"

namespace convoke::training {
namespace {

using namespace testing;

torch::Tensor tokens_of(const std::vector<int32_t>& ids) {
  return torch::tensor(std::vector<int64_t>(ids.begin(), ids.end()), torch::kInt64).unsqueeze(0);
}

void expect_near(const torch::Tensor& ours, const std::vector<float>& golden,
                 const std::string& what) {
  const torch::Tensor expected = torch::tensor(golden);
  ASSERT_EQ(ours.numel(), expected.numel()) << what;
  const double scale = expected.abs().max().item<double>();
  EXPECT_LE((ours.flatten() - expected).abs().max().item<double>(), 2e-4 * scale) << what;
}

class TargetOracle : public ::testing::TestWithParam<std::string> {};

TEST_P(TargetOracle, StatesAndLogitsAreThoseOfTransformers) {
  const GoldenModel golden = load_golden_model(kModels / GetParam());
  const TargetModel target = tiny_target(GetParam());
  std::vector<int> layers;
  for (int l = 0; l <= target.config().layers; ++l) layers.push_back(l);
  const TargetModel::Pass pass = target.run(tokens_of(golden.prompt), layers);
  const auto last = [](const torch::Tensor& x) { return x.select(1, x.size(1) - 1); };
  expect_near(last(pass.states[0]), golden.embedding, "embedding");
  for (int l = 0; l < target.config().layers; ++l) {
    expect_near(last(pass.states[size_t(l) + 1]), golden.layers[size_t(l)],
                "layer " + std::to_string(l));
  }
  expect_near(last(pass.hidden), golden.norm, "norm");
  const torch::Tensor logits = target.logits(pass.hidden);
  for (size_t i = 0; i < golden.positions.size(); ++i) {
    expect_near(logits.select(1, golden.positions[i]), golden.logits[i], "logits");
  }
  expect_near(target.logits(target.run(tokens_of(golden.short_prompt)).hidden), golden.short_logits,
              "logits of one token");
}

// Rows behind a context are the rows that would stand there in the text.
TEST_P(TargetOracle, RowsBehindAContextContinueIt) {
  const GoldenModel golden = load_golden_model(kModels / GetParam());
  const TargetModel target = tiny_target(GetParam());
  const int64_t rows = int64_t(golden.prompt.size()), seen = rows - 3;
  const torch::Tensor tokens = tokens_of(golden.prompt);
  const TargetModel::Pass whole = target.run(tokens);
  const TargetModel::Pass context = target.run(tokens.slice(1, 0, seen), {}, true);
  const torch::Tensor sees =
      torch::cat({torch::ones({3, seen}, torch::kBool),
                  torch::ones({3, 3}, torch::kInt64).tril().to(torch::kBool)},
                 1)
          .unsqueeze(0);
  const torch::Tensor hidden =
      target.run_behind(context, target.embed(tokens.slice(1, seen)),
                        torch::arange(seen, rows, torch::kInt64).unsqueeze(0), sees);
  const torch::Tensor expected = whole.hidden.slice(1, seen);
  const double scale = expected.abs().max().item<double>();
  EXPECT_LE((hidden - expected).abs().max().item<double>(), 1e-5 * scale);
}

INSTANTIATE_TEST_SUITE_P(Models, TargetOracle, ::testing::ValuesIn(golden_model_names(kModels)),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace convoke::training
