// The heart of the tree policy: which nodes of several trees to verify in one pass.
#pragma once

#include <span>
#include <vector>

#include "runtime/pass_cost.h"

namespace convoke {

/// How many nodes of each tree, its first so many, make
///   (trees + sum of their gains) / (draft_seconds + cost(trees + nodes))
/// the largest: tokens per second, a tree's root yielding one token. At most `row_budget` nodes.
///
/// Gains that descend are taken in descending order over all trees, which meets the best choice of
/// every size; a tree with a better node behind a worse one is taken in blocks of equal merit (the
/// concave hull of its sums). With `other_rows` (prompts in the same pass) each node has to earn
/// what it costs on top of them, at the rate that the trees would reach alone.
std::vector<int> choose_nodes(std::span<const std::vector<float>> gains, int other_rows,
                              int row_budget, double draft_seconds, const PassCost& cost);

}  // namespace convoke
