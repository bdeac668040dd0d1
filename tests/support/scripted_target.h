// A target with a known future, for tests of drafters alone: proposes, cuts, verifies and answers
// probes step by step, and checks on the way that every tree is well formed.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "runtime/drafter.h"
#include "tests/support/fake_target.h"

namespace convoke::testing {

struct ScriptedStep {
  DraftTree proposed;
  int verified = 0;
  int accepted = 0;
};

class ScriptedTarget {
 public:
  struct Options {
    int vocabulary = 100;
    int lookahead_count = 0;
    float temperature = 0.0f;
    DraftLimits limits{.max_nodes = 32, .max_depth = 8};
    /// The token after a path below the committed tokens (candidates and vocabulary probes).
    std::function<int32_t(const std::vector<int32_t>& tokens)> next;
    /// What look-ahead row `index` below `tokens` ranks; the truth is `next` applied index + 2
    /// times.
    std::function<std::vector<RankedToken>(const std::vector<int32_t>& tokens, int index)> rank;
  };

  ScriptedTarget(Drafter& drafter, Options options, std::vector<int32_t> prompt);
  ~ScriptedTarget();

  /// One step, with the first `keep` nodes of the tree (all by default) no deeper than `max_depth`.
  /// 0 nodes: the tree came late.
  ScriptedStep step(int keep = 1 << 20, int max_depth = 1 << 20);
  const std::vector<int32_t>& tokens() const { return tokens_; }
  /// `next`, `count` times.
  std::vector<int32_t> future(std::vector<int32_t> tokens, int count) const;

 private:
  ProbeResult answer(const DraftTree& tree, int32_t node, int32_t origin) const;
  void check(const DraftTree& tree) const;

  Drafter& drafter_;
  Options options_;
  std::vector<int32_t> tokens_;
};

}  // namespace convoke::testing
