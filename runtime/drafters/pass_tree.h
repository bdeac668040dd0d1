// The tree of one PaSS pass: which candidates to verify, and which of them carry look-ahead rows.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/pick.h"
#include "runtime/draft_tree.h"

namespace convoke {

struct PassTreeInput {
  /// What may stand at each depth, and how likely it is, given that its parent is accepted. By
  /// descending probability; probabilities of one depth sum to at most 1.
  std::span<const std::vector<RankedToken>> rankings;
  std::span<const std::vector<float>> conditional;
  /// [i]: probability that look-ahead row i leads to an accepted draft in the next pass, if the
  /// rows before it do. Their number is the longest chain of look-ahead rows; none: no such rows.
  std::span<const double> hit_rates;
  int max_nodes = 0;
  int max_depth = 0;  ///< of candidates
};

/// A look-ahead row in a tree.
struct PassProbe {
  int32_t node = 0;
  int32_t anchor = -1;  ///< the candidate it stands below, as a node; -1 = the root
  int32_t index = 0;    ///< of its look-ahead embedding
  bool operator==(const PassProbe&) const = default;
};

struct PassTree {
  DraftTree tree;
  std::vector<PassProbe> probes;  ///< by node
};

/// The tree with the greatest expected yield: tokens accepted now (a candidate's gain is the
/// probability that it is), and tokens that the look-ahead rows bring in the next pass. A chain of
/// them pays off only if its anchor is the last accepted node.
PassTree make_pass_tree(const PassTreeInput& input);

}  // namespace convoke
