// How often drafts are accepted, by where they stand in their tree and by what the drafter expected
// of them: running figures that follow the text. Pure and deterministic.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/draft_tree.h"

namespace convoke {

class Acceptance {
 public:
  static constexpr int kDepths = 16;  ///< deeper nodes count as the last
  static constexpr int kRanks = 8;    ///< children of one node, in order; later ones as the last

  /// What became of a verified tree. `accepted`: its accepted nodes, the root's child first.
  void observe(const DraftTree& tree, std::span<const int32_t> accepted);

  /// Probability that the child of this rank is accepted, given that its parent at depth - 1 was
  /// (depth 0: a child of the root). Never ascends with the rank. Where little has been seen, what
  /// is known of the depth above stands in.
  double conditional(int depth, int rank) const;

  /// A drafter's gain for a candidate, corrected by what came of such gains so far.
  float corrected(float gain) const;

  /// Gains of a tree: the drafter's own, corrected, or from the running figures where it has none.
  /// A candidate never has more than its parent. Gains of probes are the drafter's.
  std::vector<float> gains(const DraftTree& tree) const;

  /// The best tree by conditional(): nodes in descending order of probability.
  struct Expected {
    int depth = 0;
    float gain = 0.0f;
  };
  std::vector<Expected> best_tree(int max_nodes, int max_depth) const;

 private:
  struct Count {
    double hits = 0, trials = 0;
  };
  struct Sum {
    double accepted = 0, reported = 0;
  };
  static constexpr int kGainClasses = 12;

  void observe_children(const DraftTree& tree, int32_t parent, int32_t hit, int depth,
                        std::span<const int> ranks);

  std::array<std::array<Count, kRanks>, kDepths> places_;
  std::array<Sum, kGainClasses> classes_;
};

/// The rank of every node among its candidate siblings, in order of their indices (0 for probes).
std::vector<int> sibling_ranks(const DraftTree& tree);

}  // namespace convoke
