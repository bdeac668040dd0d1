#include "tests/support/scripted_target.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/verifier.h"

namespace convoke::testing {
namespace {

constexpr SequenceId kId = 7;

std::vector<int32_t> path_to(const DraftTree& tree, int32_t node) {
  std::vector<int32_t> path;
  for (; node >= 0; node = tree.nodes[size_t(node)].parent) {
    path.insert(path.begin(), tree.nodes[size_t(node)].token);
  }
  return path;
}

}  // namespace

ScriptedTarget::ScriptedTarget(Drafter& drafter, Options options, std::vector<int32_t> prompt)
    : drafter_(drafter), options_(std::move(options)), tokens_(std::move(prompt)) {
  DraftSequence opened{.id = kId, .tokens = tokens_, .prompt_tokens = int32_t(tokens_.size())};
  opened.sampling.temperature = options_.temperature;
  drafter_.open(opened);
}

ScriptedTarget::~ScriptedTarget() {
  drafter_.close(kId);
}

std::vector<int32_t> ScriptedTarget::future(std::vector<int32_t> tokens, int count) const {
  std::vector<int32_t> out;
  for (int i = 0; i < count; ++i) {
    out.push_back(options_.next(tokens));
    tokens.push_back(out.back());
  }
  return out;
}

void ScriptedTarget::check(const DraftTree& tree) const {
  EXPECT_EQ(find_defect(tree, options_.vocabulary, options_.lookahead_count), "");
  EXPECT_LE(tree.size(), options_.limits.max_nodes);
  const std::vector<int> depth = tree.depths();
  ASSERT_EQ(tree.gains.size(), tree.nodes.size());
  for (size_t n = 0; n < tree.nodes.size(); ++n) {
    EXPECT_GE(tree.gains[n], 0.0f);
    if (!tree.nodes[n].probe) {
      EXPECT_LE(tree.gains[n], 1.0f);
      EXPECT_LT(depth[n], options_.limits.max_depth);
    }
    if (n > 0) {
      EXPECT_LE(tree.gains[n], tree.gains[n - 1]) << "node " << n;
    }
    for (size_t m = 0; m < n; ++m) {
      const bool equal = !tree.nodes[n].probe && tree.nodes[m] == tree.nodes[n];
      EXPECT_FALSE(equal) << "candidates " << m << " and " << n << " are the same";
    }
  }
}

ProbeResult ScriptedTarget::answer(const DraftTree& tree, int32_t node, int32_t origin) const {
  std::vector<int32_t> tokens = tokens_;
  int lookahead = -1;
  for (int32_t token : path_to(tree, node)) {
    if (token >= 0) {
      EXPECT_LT(lookahead, 0) << "a token below a look-ahead row";
      tokens.push_back(token);
    } else {
      EXPECT_EQ(token, -1 - ++lookahead) << "look-ahead rows come in order";
    }
  }
  ProbeResult result{.node = origin};
  if (lookahead >= 0) {
    result.ranked = options_.rank(tokens, lookahead);
    result.pick = result.ranked.front().token;
  } else {
    result.pick = options_.next(tokens);
  }
  return result;
}

ScriptedStep ScriptedTarget::step(int keep, int max_depth) {
  const std::vector<SequenceId> ids{kId};
  ScriptedStep step;
  step.proposed = drafter_.propose(ids, options_.limits).at(0);
  check(step.proposed);
  DraftTree tree = step.proposed;
  const std::vector<int32_t> origin = truncate(tree, keep, max_depth);
  step.verified = tree.size();

  DraftVerdict verdict{.id = kId, .base_length = int32_t(tokens_.size())};
  verdict.verified = tree.size();
  std::vector<int32_t> picks;
  for (int32_t n = -1; n < tree.size(); ++n) {
    std::vector<int32_t> whole = tokens_;
    const std::vector<int32_t> path = path_to(tree, n);
    whole.insert(whole.end(), path.begin(), path.end());
    if (n < 0 || !tree.nodes[size_t(n)].probe) {
      picks.push_back(options_.next(whole));
      continue;
    }
    verdict.probes.push_back(answer(tree, n, origin[size_t(n)]));
    picks.push_back(verdict.probes.back().pick);
  }
  const Verification verification = verify(tree, picks);
  step.accepted = int(verification.accepted.size());
  for (int32_t node : verification.accepted) {
    verdict.tokens.push_back(tree.nodes[size_t(node)].token);
  }
  verdict.tokens.push_back(verification.next_token);
  EXPECT_EQ(verdict.tokens, future(tokens_, int(verdict.tokens.size()))) << "drafts change tokens";
  drafter_.advance(verdict);
  tokens_.insert(tokens_.end(), verdict.tokens.begin(), verdict.tokens.end());
  return step;
}

}  // namespace convoke::testing
