// How much to draft and how much of it to verify, so that the batch gains the most tokens per
// second. Pure logic: times are passed in, and the same calls give the same answers.
//
// One cycle of a step:
//   round = next_round(decoding)        which sequences to ask for trees, and how large ones
//   verify = choose(offers, ...)        how many nodes of each tree that came take part
//   observe_pass / observe_outcome      what that took, and what was accepted
//
// A step with S sequences and trees of N nodes in all yields S + sum of gains tokens and takes
// draft_seconds + cost(S + N). Gains descend within a tree, so taking nodes in descending order of
// gain over all sequences visits the best choice of every size, and the best of these wins.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/acceptance.h"
#include "runtime/draft_tree.h"
#include "runtime/drafter.h"
#include "runtime/pass_cost.h"
#include "runtime/step_plan.h"

namespace convoke {

struct TreePolicyOptions {
  /// --draft-tokens N: every sequence is asked in every step, and N nodes are verified whatever
  /// they cost. Empty (`auto`): chosen each step.
  std::optional<int> fixed_nodes;
  int max_nodes = 64;  ///< per sequence, in `auto`
  int max_depth = 8;   ///< levels per tree, in both modes
  int top_k = 0;       ///< continuations per node; 0: by the size of trees (fixed: the drafter's)
};

class TreePolicy {
 public:
  TreePolicy(const TreePolicyOptions& options, PassCost cost);

  /// What to ask the drafter for while the next pass is prepared. Sequences for which drafting does
  /// not pay are left out; now and then they are tried again, after pauses that double.
  struct Round {
    std::vector<SequenceId> wanted;
    DraftLimits limits;  ///< of each tree; more nodes than will be verified, to choose from
  };
  Round next_round(std::span<const SequenceId> decoding);

  /// A sequence that decodes in the next pass and the tree that came for it (null: none).
  struct Offer {
    SequenceId id = 0;
    const DraftTree* tree = nullptr;
  };
  /// Nodes of each offer's tree to verify: its first so many. At most `row_budget` in all.
  /// `other_rows`: prompt rows that share the pass; `draft_seconds`: what the step waited for the
  /// trees.
  std::vector<int> choose(std::span<const Offer> offers, int other_rows, int row_budget,
                          double draft_seconds);

  /// A pass of `rows` rows, prompt rows included.
  void observe_pass(int rows, double seconds) { cost_.observe(rows, seconds); }
  /// The step's wait for trees that were asked for within `limits`; not for a round nobody waited
  /// for.
  void observe_draft(const DraftLimits& limits, double seconds);
  /// `tree`: what was verified, as it was in the plan; `accepted`: its accepted nodes, the root's
  /// child first. Call it for sequences without a tree as well (empty tree).
  void observe_outcome(SequenceId id, const DraftTree& tree, std::span<const int32_t> accepted);
  void forget(SequenceId id) { sequences_.erase(id); }

  const PassCost& cost() const { return cost_; }
  const Acceptance& acceptance() const { return acceptance_; }
  /// The wait for a round of so many levels, as far as known.
  double draft_seconds(int depth) const;

 private:
  /// When drafting does not pay it is tried again, after pauses that double, for a few rounds.
  struct PauseRule {
    int first = 0, longest = 0;  ///< in rounds
    int trial_rounds = 0;
  };
  struct Pause {
    int length = 0;  ///< of the last one; 0 = none for long
    int left = 0;    ///< rounds until it is tried again
    int trial = 0;   ///< rounds of a trial that are left
    int paid = 0;    ///< rounds in a row for which drafting paid
  };
  enum class Ask : uint8_t { kNo, kFirstTrial, kTrial, kYes };
  struct SequenceState {
    double accepted = 0, expected = 0;  ///< decaying sums: what came of the gains of its nodes
    double gained = 0, nodes = 0;       ///< running means per round that it was asked for
    int rounds = 0;                     ///< that it was asked for since it was last in doubt
    Pause pause;
    int asked_depth = 0;  ///< of the round that is not yet answered; 0 = not asked
    bool trial = false;   ///< and it was asked to see whether drafting pays again

    void doubt();  ///< from now on, what was seen before counts little
  };
  /// A round for so many sequences.
  struct Plan {
    int depth = 0;       ///< 0: no drafts
    double nodes = 0.0;  ///< verified per sequence
    double rate = 0.0;   ///< tokens per second
  };

  Round fixed_round(std::span<const SequenceId> decoding) const;
  double leaning(const SequenceState& state) const;
  std::vector<double> reached(const SequenceState& state, const DraftTree& tree,
                              std::span<const float> gains,
                              std::span<const int32_t> accepted) const;
  Plan best_plan(int sequences) const;
  double rate(int sequences, int depth, double drafts, double nodes) const;
  double expected_nodes(int depth) const;
  void observe_nodes(int asked_depth, int nodes);
  int width() const;
  bool could_pay(int sequences) const;
  bool pays(const Plan& plan, int sequences, const SequenceState& state) const;
  PauseRule pauses(int sequences) const;
  static Ask ask(Pause& pause, bool pays, const PauseRule& rule);
  std::vector<int> share_fixed(std::span<const Offer> offers, int row_budget) const;

  TreePolicyOptions options_;
  PassCost cost_;
  Acceptance acceptance_;
  std::unordered_map<SequenceId, SequenceState> sequences_;
  Pause batch_pause_;
  uint64_t rounds_ = 0;
  double nodes_ = 0.0;  ///< running mean of nodes verified per tree
  /// The same of trees that were asked for with so many levels; 0 = none yet.
  std::array<double, Acceptance::kDepths + 1> nodes_at_depth_{};
  /// Decaying sums of the line seconds = a + b * depth, in seconds of a machine as fast as when
  /// passes were measured: what slows passes slows drafts, also while none are asked for.
  struct {
    double n = 0, x = 0, y = 0, xx = 0, xy = 0;
  } draft_fit_;
};

}  // namespace convoke
