// Probe rows: rankings of what the target would take after them, and look-ahead embeddings.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/noise.h"
#include "runtime/penalties.h"
#include "tests/support/test_replica.h"

namespace convoke {
namespace {

using testing::possible_tp;
using testing::TestReplica;

const std::filesystem::path kModels = CONVOKE_SOURCE_DIR "/tests/golden/models";
constexpr int kRanked = 6;

SamplingParams sampling(float temperature) {
  SamplingParams p;
  p.temperature = temperature;
  p.seed = 12345;
  p.max_tokens = 50;
  return p;
}

SamplingParams everything() {
  SamplingParams p = sampling(0.8f);
  p.top_k = 3;
  p.top_p = 0.5f;
  p.repetition_penalty = 1.4f;
  p.frequency_penalty = 0.5f;
  p.logit_bias = {{2, 5.0f}, {6, -3.0f}};
  p.stop_tokens = {9};
  p.min_tokens = 30;
  p.logprobs = 2;
  return p;
}

const std::vector<int32_t> kPrompt{1, 2, 3, 4, 5, 2};

/// One step: the prompt and a tree below it.
StepPlan prompt_with_tree(const SamplingParams& params, std::vector<DraftNode> nodes) {
  StepPlan plan;
  plan.opened.push_back({0, 1, int32_t(kPrompt.size()), params});
  SequenceRows& rows = plan.sequences.emplace_back();
  rows.new_blocks = {0, 1, 2};
  rows.chain = kPrompt;
  rows.tree.nodes = std::move(nodes);
  rows.pick = true;
  return plan;
}

/// Every token scored and sorted.
std::vector<RankedToken> naive_ranking(const std::vector<float>& logits,
                                       const SamplingParams& params,
                                       const std::vector<int32_t>& path) {
  TokenCounts counts;
  counts.reset(params, int(kPrompt.size()));
  counts.append(kPrompt);
  std::vector<LogitEdit> storage;
  const auto edits = counts.edits(path, storage);
  const auto position = int64_t(kPrompt.size() + path.size());
  std::vector<RankedToken> all;
  for (int32_t v = 0; v < int32_t(logits.size()); ++v) {
    float x = logits[size_t(v)];
    bool banned = false;
    for (const LogitEdit& e : edits) {
      if (e.token != v) continue;
      x = (x > 0 ? x / e.repetition : x * e.repetition) + e.add;
      banned = std::isinf(e.add);
    }
    if (params.temperature > 0) x = x / params.temperature + gumbel(params.seed, position, v);
    if (!banned) all.push_back({x, v});
  }
  std::ranges::stable_sort(all, std::greater(), &RankedToken::score);
  all.resize(kRanked, {-std::numeric_limits<float>::infinity(), -1});
  return all;
}

class Probes : public ::testing::TestWithParam<const char*> {
 protected:
  std::filesystem::path model = kModels / GetParam();
};

TEST_P(Probes, AreRankedAsThePickRuleScores) {
  // Candidates and probes mixed; node 4 is a probe below a probe.
  const std::vector<DraftNode> nodes{{-1, 7, false}, {-1, 3, true}, {0, 2, true},
                                     {0, 4, false},  {2, 8, true},  {3, 7, true}};
  for (const SamplingParams& params : {sampling(0), sampling(0.8f), everything()}) {
    TestReplica reference(model, {});
    std::vector<std::vector<RankedToken>> want(nodes.size());
    for (size_t n = 0; n < nodes.size(); ++n) {
      if (!nodes[n].probe) continue;
      std::vector<int32_t> path;
      for (int i = int(n); i >= 0; i = nodes[size_t(i)].parent) {
        path.insert(path.begin(), nodes[size_t(i)].token);
      }
      std::vector<int32_t> tokens = kPrompt;
      tokens.insert(tokens.end(), path.begin(), path.end());
      want[n] = naive_ranking(reference.logits(tokens, int(tokens.size())).back(), params, path);
    }
    for (int tp : possible_tp(reference.config())) {
      TestReplica replica(model,
                          {.tp = tp, .threads = tp == 1 ? 2 : 1, .probe_candidates = kRanked});
      StepResult result;
      replica.execute(prompt_with_tree(params, nodes), result);
      const SequencePicks& picks = result.sequences.at(0);
      ASSERT_EQ(picks.picks.size(), nodes.size() + 1);
      ASSERT_GE(picks.ranked.size(), nodes.size() + 1);
      EXPECT_TRUE(picks.ranked[0].empty());
      for (size_t n = 0; n < nodes.size(); ++n) {
        EXPECT_EQ(picks.ranked[n + 1], want[n]) << "node " << n << ", tp " << tp;
        if (!want[n].empty() && params.top_k <= 0) {
          EXPECT_EQ(picks.ranked[n + 1][0].token, picks.picks[n + 1].token);
        }
      }
    }
  }
}

TEST_P(Probes, NegativeTokensEnterAsLookaheadEmbeddings) {
  // With the embeddings of tokens 11 and 6 for look-ahead 0 and 1, the rows of -1 and -2 are
  // theirs.
  const std::vector<DraftNode> named{{-1, 11, true}, {-1, 4, false}, {1, 6, true}, {0, 6, true}};
  const std::vector<DraftNode> learned{
      {-1, -1, true}, {-1, 4, false}, {1, -2, true}, {0, -2, true}};
  const int tokens = TestReplica(model, {}).config().vocabulary;
  ASSERT_GT(tokens, 12);
  for (int tp : possible_tp(TestReplica(model, {}).config())) {
    TestReplica replica(model, {.tp = tp, .probe_candidates = 2, .lookahead_tokens = {11, 6}});
    StepResult by_token, by_name;
    StepPlan plan = prompt_with_tree(sampling(0.8f), named);
    replica.execute(plan, by_token);
    StepPlan again = prompt_with_tree(sampling(0.8f), learned);
    again.closed = {0};
    replica.execute(again, by_name);
    for (size_t i = 0; i <= named.size(); ++i) {
      const Pick& a = by_token.sequences[0].picks[i];
      const Pick& b = by_name.sequences[0].picks[i];
      EXPECT_EQ(a.digest, b.digest) << "row " << i << ", tp " << tp;
      EXPECT_EQ(a.token, b.token);
    }
    EXPECT_EQ(by_token.sequences[0].ranked, by_name.sequences[0].ranked);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Probes,
                         ::testing::Values("llama-gqa-bf16", "qwen2-tied-bf16", "llama-mha-fp32"),
                         [](const auto& model) {
                           std::string name = model.param;
                           std::erase(name, '-');
                           return name;
                         });

}  // namespace
}  // namespace convoke
