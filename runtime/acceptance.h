// How often drafts are accepted, by where they stand in their tree, by what the drafter expected of
// them, and by how deep the trees were: running figures that follow the text. Pure and
// deterministic.
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

  Acceptance();

  /// What became of a verified tree. `accepted`: its accepted nodes, the root's child first.
  void observe(const DraftTree& tree, std::span<const int32_t> accepted);
  /// A round for which trees of so many levels had been asked. `reached[k]`: that it gained more
  /// than k drafts, as 0 or 1 or as a probability; missing levels were not reached, for whatever
  /// reason.
  void observe_round(int asked_depth, std::span<const double> reached);

  /// From now on, rounds before this one count together as one: what comes next decides.
  void doubt_rounds();

  /// Probability that the child of this rank is accepted, given that its parent at depth - 1 was
  /// (depth 0: a child of the root). Never ascends with the rank. Where little has been seen, what
  /// is known of the depth above stands in.
  double conditional(int depth, int rank) const;

  /// Drafts that a round with trees of so many levels gains, as rounds go these days.
  double drafts_gained(int depth) const;

  /// Gains of a tree: the drafter's own, corrected by what came of such gains so far, or from the
  /// running figures where it has none. A candidate never has more than its parent. Gains of probes
  /// are the drafter's.
  std::vector<float> gains(const DraftTree& tree) const;

 private:
  /// A decaying mean; `doubt` is the weight of what is expected beside it.
  struct Mean {
    double sum = 0, weight = 0;
    double seen = 0;  ///< weight of all values, without decay
    void add(double value, double weight_of_value, double memory);
    double value(double expected, double doubt) const;
    void keep(double most_weight);
  };
  static constexpr int kGainClasses = 12;
  static int gain_class(float gain);

  float corrected(float gain) const;
  void observe_children(const DraftTree& tree, std::span<const int> ranks, int32_t parent,
                        int depth, int32_t hit);
  void refresh();

  std::array<std::array<Mean, kRanks>, kDepths> places_;
  std::array<std::array<double, kRanks>, kDepths> conditional_{};  ///< from `places_`
  std::array<Mean, kDepths> reached_;       ///< rounds that gained more than this many drafts
  std::array<Mean, kGainClasses> classes_;  ///< accepted per token of reported gain
};

/// The rank of every candidate among its candidate siblings, in order of their indices (0 for
/// probes).
std::vector<int> sibling_ranks(const DraftTree& tree);

}  // namespace convoke
