// Gradients, overfitting, resuming: for every method.
#include "training/trainer.h"

#include <gtest/gtest.h>
#include <torch/optim/adamw.h>

#include <cmath>

#include "kernels/check.h"
#include "tests/support/model_directory.h"
#include "tests/training/torch_fixture.h"

namespace convoke::training {
namespace {

using namespace testing;

class Methods : public ::testing::TestWithParam<std::string> {
 protected:
  Methods() { at::set_num_threads(1); }
  TargetModel target_ = tiny_target();
};

/// The gradient along a direction, and the slope of the loss between two points on it.
TEST_P(Methods, GradientsAreTheSlopeOfTheLoss) {
  const auto objective = tiny_objective(GetParam(), target_, 3);
  stir(*objective);
  // Padding included: a shorter second text.
  TokenCorpus corpus = tiny_corpus(1, 14, target_.config().vocabulary);
  corpus.add(tiny_corpus(1, 9, target_.config().vocabulary, 8).sequence(0));
  const Batch batch = batch_of(corpus);
  objective->loss(batch, 5).backward();
  torch::Generator generator = seeded_generator(1, torch::kCPU);
  int checked = 0;
  for (Parameter& parameter : objective->parameters()) {
    const torch::Tensor gradient = parameter.value.grad();
    ASSERT_TRUE(gradient.defined()) << parameter.name;
    const double length = gradient.norm().item<double>();
    if (length < 1e-4) continue;  // float32 could not tell its slope
    // Mostly along the gradient, or rounding would hide the slope of a large tensor.
    torch::Tensor direction = torch::randn(gradient.sizes(), generator);
    direction = gradient / length + direction / direction.norm();
    const double expected = (gradient * direction).sum().item<double>();
    const double width = 0.02 / std::max(1.0, std::sqrt(length));
    const auto loss_at = [&](double place) {
      const torch::NoGradGuard no_gradients;
      parameter.value.add_(direction * place);
      const double loss = objective->loss(batch, 5).item<double>();
      parameter.value.sub_(direction * place);
      return loss;
    };
    const double slope = (loss_at(width) - loss_at(-width)) / (2 * width);
    EXPECT_NEAR(slope, expected, 0.02 * std::abs(expected) + 1e-3) << parameter.name;
    ++checked;
  }
  EXPECT_GE(checked, GetParam() == "pass" ? 1 : 6);
}

TEST_P(Methods, PaddingChangesNothing) {
  const auto objective = tiny_objective(GetParam(), target_, 3);
  stir(*objective);
  const TokenCorpus corpus = tiny_corpus(1, 10, target_.config().vocabulary);
  Batch batch = batch_of(corpus);
  const double loss = objective->loss(batch, 5).item<double>();
  batch.tokens = torch::cat({batch.tokens, torch::full({1, 6}, 3, torch::kInt64)}, 1);
  EXPECT_NEAR(objective->loss(batch, 5).item<double>(), loss, 1e-4 * std::abs(loss));
}

TrainOptions options_of(const std::string& method, int64_t steps) {
  TrainOptions options;
  options.method = method == "eagle"    ? Method::kEagle
                   : method == "eagle3" ? Method::kEagle3
                   : method == "pass"   ? Method::kPass
                                        : Method::kMedusa;
  options.steps = steps;
  options.batch_size = 2;
  options.learning_rate = 1e-2;
  options.warmup = 2;
  options.eval_every = 1000;
  options.eval_sequences = 4;
  options.seed = 11;
  return options;
}

TEST_P(Methods, ATinySetIsLearntByHeart) {
  const auto objective = tiny_objective(GetParam(), target_, 2);
  // Heads can learn what follows many prefixes of a random target. Embeddings alone cannot tell the
  // prefixes apart, only the target's attention can; so there is one.
  const bool pass = GetParam() == "pass";
  const TokenCorpus corpus = tiny_corpus(pass ? 1 : 4, pass ? 2 : 16, target_.config().vocabulary);
  TrainOptions options = options_of(GetParam(), 600);
  if (pass) options.learning_rate = 0.05;
  const TemporaryDirectory directory;
  Trainer trainer(*objective, options, corpus, corpus, {torch::kCPU},
                  directory.path() / "state.safetensors");
  const DraftScores before = trainer.evaluate().scores;
  EXPECT_LT(before.rates(0, false).first, 0.5);
  EXPECT_EQ(trainer.run({}), Trainer::End::kSteps);
  const DraftScores after = trainer.evaluate().scores;
  EXPECT_GE(after.rates(0, false).first, 0.95);
  EXPECT_GE(after.rates(0, false).wide, after.rates(0, false).first);
  EXPECT_GE(after.rates(0, true).wide, 0.9);
}

std::vector<torch::Tensor> values(Objective& objective) {
  std::vector<torch::Tensor> copies;
  for (const Parameter& p : objective.parameters()) copies.push_back(p.value.detach().clone());
  return copies;
}

TEST_P(Methods, ResumedTrainingGivesTheSameBits) {
  for (const char* optimizer : {"adamw", "muon"}) {
    const TokenCorpus train = tiny_corpus(5, 12, target_.config().vocabulary);
    const TokenCorpus held_out = tiny_corpus(2, 12, target_.config().vocabulary, 9);
    TrainOptions options = options_of(GetParam(), 9);
    options.optimizer = optimizer;
    options.eval_every = 2;
    const auto run = [&](const std::vector<int>& stops) {
      const TemporaryDirectory directory;
      for (const int stop : stops) {
        const auto objective = tiny_objective(GetParam(), target_, 2);
        Trainer trainer(*objective, options, train, held_out, {torch::kCPU},
                        directory.path() / "state.safetensors");
        int64_t last = 0;
        const auto end =
            trainer.run({.stepped = [&](const StepReport& report) { last = report.step; },
                         .interrupted = [&] { return stop > 0 && last >= stop; }});
        if (stop == 0) return values(*objective);
        EXPECT_EQ(end, Trainer::End::kInterrupted);
      }
      return std::vector<torch::Tensor>{};
    };
    const auto undisturbed = run({0}), resumed = run({1, 4, 5, 8, 0});
    ASSERT_EQ(undisturbed.size(), resumed.size());
    for (size_t i = 0; i < resumed.size(); ++i) {
      EXPECT_TRUE(torch::equal(undisturbed[i], resumed[i])) << optimizer << " " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Methods, ::testing::Values("eagle", "eagle3", "medusa", "pass"),
                         [](const auto& test) { return test.param; });

TEST(Trainer, ACheckpointOfAnotherTrainingIsRefused) {
  const TargetModel target = tiny_target();
  const TokenCorpus corpus = tiny_corpus(3, 10, target.config().vocabulary);
  const TemporaryDirectory directory;
  const auto file = directory.path() / "state.safetensors";
  const auto medusa = tiny_objective("medusa", target);
  Trainer(*medusa, options_of("medusa", 1), corpus, corpus, {torch::kCPU}, file).run({});
  const auto eagle = tiny_objective("eagle", target);
  try {
    Trainer(*eagle, options_of("eagle", 1), corpus, corpus, {torch::kCPU}, file).run({});
    FAIL() << "it was taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("fc.weight' is missing"), std::string::npos)
        << error.what();
  }
}

TEST(Trainer, PatienceEndsTrainingWithTheBestWeights) {
  const TargetModel target = tiny_target();
  const TokenCorpus train = tiny_corpus(3, 10, target.config().vocabulary);
  const TokenCorpus held_out = tiny_corpus(2, 10, target.config().vocabulary, 4);
  TrainOptions options = options_of("medusa", 400);
  options.learning_rate = 0.3;  // soon ruins what it was
  options.eval_every = 1;
  options.patience = 3;
  const TemporaryDirectory directory;
  const auto objective = tiny_objective("medusa", target);
  Trainer trainer(*objective, options, train, held_out, {torch::kCPU},
                  directory.path() / "state.safetensors");
  EXPECT_EQ(trainer.run({}), Trainer::End::kPatience);
  EXPECT_LT(trainer.state().step, 400);
  EXPECT_DOUBLE_EQ(trainer.evaluate().score(), trainer.state().best_score);
}

TEST(Optimizer, WarmsUpAndEndsLow) {
  const OptimizerOptions options{
      .learning_rate = 1.0, .least_share = 0.1, .warmup = 10, .steps = 110};
  EXPECT_DOUBLE_EQ(Optimizer::learning_rate(options, 0), 0.1);
  EXPECT_DOUBLE_EQ(Optimizer::learning_rate(options, 9), 1.0);
  EXPECT_NEAR(Optimizer::learning_rate(options, 60), 0.55, 1e-9);
  EXPECT_NEAR(Optimizer::learning_rate(options, 110), 0.1, 1e-9);
}

TEST(Optimizer, AdamWTakesTheStepsOfTheLibrarys) {
  torch::manual_seed(3);
  const torch::Tensor start = torch::randn({4, 6});
  const torch::Tensor goal = torch::randn({4, 6});
  const OptimizerOptions options{.learning_rate = 0.05,
                                 .least_share = 1.0,
                                 .warmup = 0,
                                 .steps = 20,
                                 .weight_decay = 0.1,
                                 .clip = 0};
  const torch::Tensor ours = start.clone().requires_grad_(true);
  const torch::Tensor theirs = start.clone().requires_grad_(true);
  Optimizer optimizer({{"x", ours}}, options);
  torch::optim::AdamW reference(
      {theirs}, torch::optim::AdamWOptions(0.05).betas({0.9, 0.95}).weight_decay(0.1));
  for (int step = 0; step < 20; ++step) {
    (ours - goal).pow(2).sum().backward();
    optimizer.step(step);
    reference.zero_grad();
    (theirs - goal).pow(2).sum().backward();
    reference.step();
  }
  EXPECT_TRUE(torch::allclose(ours, theirs, 1e-5, 1e-6));
}

TEST(Optimizer, MovesAParameterAtItsShareOfTheRate) {
  const torch::Tensor whole = torch::zeros({4, 6}).requires_grad_(true);
  const torch::Tensor half = torch::zeros({4, 6}).requires_grad_(true);
  Optimizer optimizer({{"whole", whole}, {"half", half, 0.5}}, {.warmup = 0});
  (whole.sum() + half.sum()).backward();
  optimizer.step(0);
  EXPECT_LT(whole.max().item<double>(), 0.0);
  EXPECT_TRUE(torch::allclose(half, whole * 0.5, 1e-5, 0));
}

TEST(Optimizer, MovesWhatIsNoHiddenMatrixSlowlyBesideMuon) {
  double step[2] = {};
  for (const auto method : {OptimizerOptions::Method::kAdamW, OptimizerOptions::Method::kMuon}) {
    const torch::Tensor norm = torch::ones({6}).requires_grad_(true);
    Optimizer optimizer({{"norm", norm}}, {.method = method, .warmup = 0});
    norm.sum().backward();
    optimizer.step(0);
    step[method == OptimizerOptions::Method::kMuon] = 1.0 - norm[0].item<double>();
  }
  EXPECT_NEAR(step[1], 0.2 * step[0], 1e-6);
}

TEST(Optimizer, OrthogonalisesMatrices) {
  torch::manual_seed(4);
  for (const auto& shape : {std::pair{12, 30}, std::pair{30, 12}}) {
    const torch::Tensor x = orthogonalize(torch::randn({shape.first, shape.second}));
    const torch::Tensor values = at::linalg_svdvals(x);
    EXPECT_GT(values.min().item<double>(), 0.6);
    EXPECT_LT(values.max().item<double>(), 1.3);
    const torch::Tensor rounded = orthogonalize(x, torch::kBFloat16);
    EXPECT_EQ(rounded.scalar_type(), torch::kFloat32);
    EXPECT_LT(at::linalg_svdvals(rounded).max().item<double>(), 1.3);
  }
}

// --- how heads begin
// ------------------------------------------------------------------------------

TEST(Beginning, OfEagleGivesTheTokenHalfTheSizeOfTheFeature) {
  const TargetModel target = tiny_target();
  const auto head = tiny_objective("eagle", target);
  const torch::Tensor& fc = head->parameters().front().value;
  const int64_t hidden = target.config().hidden;
  const Batch batch = batch_of(tiny_corpus(4, 24, target.config().vocabulary));
  const torch::Tensor token = target.embed(batch.tokens).matmul(fc.slice(1, 0, hidden).t());
  const torch::Tensor feature = target.run(batch.tokens).hidden.matmul(fc.slice(1, hidden).t());
  const double share = (token.square().mean() / feature.square().mean()).sqrt().item<double>();
  EXPECT_GT(share, 0.35);
  EXPECT_LT(share, 0.65);
}

TEST(Beginning, OfEagle3BringsLargeStatesToSizeOne) {
  const TargetModel target = tiny_target();
  const ModelConfig& config = target.config();
  const Batch batch = batch_of(tiny_corpus(4, 24, config.vocabulary));
  const std::vector<int> layers{0, 1, config.layers};
  const Eagle3Objective head(target, Eagle3Objective::make_config(config, 40, 0, layers), {}, {}, 3,
                             batch.tokens);
  const Parameter fc = head.exported().front();
  ASSERT_EQ(fc.name, "fc.weight");
  const torch::Tensor fused =
      torch::cat(target.run(batch.tokens, layers).states, -1).matmul(fc.value.t());
  const double size = fused.square().mean(-1).sqrt().median().item<double>();
  EXPECT_GT(size, 0.8);
  EXPECT_LT(size, 1.25);
  // What moves it is as small as it is.
  EXPECT_LE(fc.rate, 1.0);
  EXPECT_GT(fc.rate, 0.0);
}

TEST(CrossEntropy, IsTheLibrarys) {
  torch::manual_seed(5);
  const torch::Tensor p = torch::randn({3, 5, 17}).softmax(-1) * 0.9;
  const torch::Tensor ours = (torch::randn({3, 5, 17}) * 20).requires_grad_(true);
  const torch::Tensor theirs = ours.detach().clone().requires_grad_(true);
  const torch::Tensor weight = torch::rand({3, 5});
  const torch::Tensor a = (cross_entropy_rows(ours, p) * weight).sum();
  const torch::Tensor b = (-(p * torch::log_softmax(theirs, -1)).sum(-1) * weight).sum();
  a.backward();
  b.backward();
  EXPECT_NEAR(a.item<double>(), b.item<double>(), 1e-4 * std::abs(b.item<double>()));
  EXPECT_TRUE(torch::allclose(ours.grad(), theirs.grad(), 1e-4, 1e-6));
}

}  // namespace
}  // namespace convoke::training
