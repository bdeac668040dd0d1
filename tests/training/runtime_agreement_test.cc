// A trained head, exported: what the runtime computes with it is what the trainer computed.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "runtime/drafters/medusa.h"
#include "runtime/lookahead_table.h"
#include "tests/support/heads_fixture.h"
#include "tests/support/model_directory.h"
#include "tests/support/test_replica.h"
#include "tests/training/torch_fixture.h"
#include "training/tensor_file.h"

namespace convoke::training {
namespace {

using namespace testing;
using convoke::testing::GoldenHead;
using convoke::testing::OpenHead;
using convoke::testing::TestReplica;

constexpr int kContext = 11, kChain = 4;

void export_head(const Objective& objective, const std::filesystem::path& directory) {
  write_tensors(directory / "model.safetensors", objective.exported());
  nlohmann::json config = objective.config();
  config["torch_dtype"] = "float32";
  std::ofstream(directory / "config.json") << config;
}

std::vector<std::vector<float>> rows_of(const torch::Tensor& matrix) {
  std::vector<std::vector<float>> rows;
  for (int64_t r = 0; r < matrix.size(0); ++r) {
    const torch::Tensor row = matrix[r].contiguous();
    rows.emplace_back(row.data_ptr<float>(), row.data_ptr<float>() + row.numel());
  }
  return rows;
}

/// `ranked` by the runtime against logits [columns] of the trainer.
void expect_ranking(std::span<const RankedToken> ranked, const torch::Tensor& logits,
                    const torch::Tensor& columns, const std::string& what) {
  ASSERT_FALSE(ranked.empty()) << what;
  const double allowed = 1e-4 * logits.abs().max().item<double>();
  const torch::Tensor best = std::get<0>(logits.topk(int64_t(ranked.size())));
  for (size_t i = 0; i < ranked.size(); ++i) {
    EXPECT_NEAR(ranked[i].score, best[int64_t(i)].item<double>(), allowed) << what << " rank " << i;
    int64_t column = ranked[i].token;
    if (columns.defined()) {
      const torch::Tensor at = (columns == column).nonzero();
      ASSERT_EQ(at.numel(), 1) << what << ": token " << column << " is not drafted";
      column = at.item<int64_t>();
    }
    EXPECT_NEAR(ranked[i].score, logits[column].item<double>(), allowed) << what << " rank " << i;
  }
}

struct Case {
  std::string method;
  int draft_vocabulary = 0;
};

class ExtrapolatorAgreement : public ::testing::TestWithParam<Case> {};

TEST_P(ExtrapolatorAgreement, PromptAndRecursionAreTheRuntimes) {
  const TargetModel target = tiny_target();
  const auto objective = tiny_objective(GetParam().method, target, 3, GetParam().draft_vocabulary);
  stir(*objective);
  auto& head = dynamic_cast<Extrapolator&>(*objective);
  const TemporaryDirectory directory;
  export_head(head, directory.path());

  // A committed text, and a chain of guesses behind it.
  const TokenCorpus corpus = tiny_corpus(1, kContext + 1 + kChain, target.config().vocabulary);
  const Batch batch = batch_of(corpus);
  const TargetModel::Pass pass = target.run(batch.tokens, {0, 1, target.config().layers});
  const torch::Tensor features =
      GetParam().method == "eagle" ? pass.hidden : torch::cat(pass.states, -1);
  const auto steps = head.unroll(batch.tokens, features, kChain + 1);

  GoldenHead golden;
  golden.method = GetParam().method;
  golden.directory = directory.path();
  golden.target = kModels / "llama-gqa-bf16";
  const auto text = corpus.sequence(0);
  golden.tokens.assign(text.begin(), text.begin() + kContext + 1);
  golden.features = rows_of(features[0]);
  GoldenHead::Step step{.feature_begin = 0, .tokens = kContext + 1};
  for (int i = 0; i < kChain; ++i) step.tree.push_back({i - 1, text[size_t(kContext + 1 + i)], {}});
  golden.steps = {step};
  OpenHead open(golden, {});
  convoke::testing::RunOptions options;
  options.count = 10;
  const auto trace = run_golden(*open.model, golden, options);
  ASSERT_EQ(trace.size(), size_t(kChain) + 1);
  for (int s = 0; s <= kChain; ++s) {
    expect_ranking(trace[size_t(s)], steps[size_t(s)].logits[0][kContext - 1], head.columns(),
                   "step " + std::to_string(s));
  }
}

INSTANTIATE_TEST_SUITE_P(Heads, ExtrapolatorAgreement,
                         ::testing::Values(Case{"eagle"}, Case{"eagle", 50}, Case{"eagle3"},
                                           Case{"eagle3", 50}),
                         [](const auto& test) {
                           return test.param.method +
                                  (test.param.draft_vocabulary > 0 ? "Reduced" : "");
                         });

TEST(RuntimeAgreement, Medusa) {
  const TargetModel target = tiny_target();
  const auto objective = tiny_objective("medusa", target);
  stir(*objective);
  const TemporaryDirectory directory;
  export_head(*objective, directory.path());
  const Batch batch = batch_of(tiny_corpus(1, 6, target.config().vocabulary));
  const torch::Tensor features = target.run(batch.tokens).hidden[0];

  const auto backend = cpu::make_cpu_backend({.threads = 1});
  const auto source = open_head(directory.path());
  MedusaHeads heads(*backend,
                    load_head_config(HeadKind::kMedusa, directory.path(), target.config()), *source,
                    {.max_rows = 6, .shared_noise = true, .dtype = "float32"});
  const auto rows = rows_of(features);
  std::vector<MedusaHeads::Row> asked;
  for (const auto& row : rows) {
    asked.push_back({.feature = {row.data(), DType::kFloat32}, .params = {}});
  }
  heads.rank(asked, 10);
  const auto& medusa = dynamic_cast<const MedusaObjective&>(*objective);
  const torch::NoGradGuard no_gradients;
  for (int h = 0; h < 3; ++h) {
    const torch::Tensor logits = medusa.logits(features, h);
    for (size_t r = 0; r < rows.size(); ++r) {
      expect_ranking(heads.ranked(int(r), h), logits[int64_t(r)], {}, "head " + std::to_string(h));
    }
  }
}

// Look-ahead embeddings that are those of tokens make rows that are those of tokens.
TEST(RuntimeAgreement, Pass) {
  const TargetModel target = tiny_target();
  const auto objective = tiny_objective("pass", target);
  const std::vector<int32_t> stand_ins{5, 77, 30};
  {
    const torch::NoGradGuard no_gradients;
    for (size_t i = 0; i < stand_ins.size(); ++i) {
      objective->parameters()[0].value[int64_t(i)].copy_(
          target.embedding()[stand_ins[i]].to(torch::kFloat32));
    }
  }
  const TokenCorpus corpus = tiny_corpus(1, 12, target.config().vocabulary);
  const Batch batch = batch_of(corpus);
  const std::vector<int64_t> ends{0, 4, 10};
  const torch::NoGradGuard no_gradients;
  const torch::Tensor logits = dynamic_cast<const PassObjective&>(*objective)
                                   .logits(target.run(batch.tokens, {}, true),
                                           torch::tensor(ends, torch::kInt64).unsqueeze(0));
  TestReplica replica(kModels / "llama-gqa-bf16", {.dtype = "float32"});
  for (size_t p = 0; p < ends.size(); ++p) {
    const auto text = corpus.sequence(0);
    std::vector<int32_t> tokens(text.begin(), text.begin() + ends[p] + 1);
    tokens.insert(tokens.end(), stand_ins.begin(), stand_ins.end());
    const auto expected = replica.logits(tokens, int(tokens.size()));
    for (size_t i = 0; i < stand_ins.size(); ++i) {
      const torch::Tensor row = torch::tensor(expected[size_t(ends[p]) + 1 + i]);
      const torch::Tensor ours = logits[0][int64_t(p)][int64_t(i)];
      EXPECT_LE((ours - row).abs().max().item<double>(), 1e-4 * row.abs().max().item<double>());
    }
  }
  const TemporaryDirectory directory;
  export_head(*objective, directory.path());
  const LookaheadTable table = load_lookahead(directory.path(), target.config());
  EXPECT_EQ(table.count, 3);
  EXPECT_TRUE(
      torch::equal(torch::tensor(table.values).view({3, -1}), objective->parameters()[0].value));
}

}  // namespace
}  // namespace convoke::training
