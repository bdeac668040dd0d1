// The one summation order of Convoke: a balanced binary tree, ((s0+s1)+(s2+s3))+...
#pragma once

#include <cstdint>

#include "parallel/shard_plan.h"

namespace convoke {

/// target[i] += tree(sources[0][i], ..., sources[n - 1][i]) over `range`; n a power of two up to
/// kMaxRanks. The tree is summed first and added once.
void add_tree_sum(const float* const* sources, int n, float* target, Range range);

/// The same, but stored; `target` may be one of the sources.
void store_tree_sum(const float* const* sources, int n, float* target, Range range);

/// The `part`-th of `parts` nearly equal pieces of `whole`, cut at multiples of `unit` from its
/// begin; pieces may be empty.
Range piece_of(Range whole, int part, int parts, int64_t unit);

}  // namespace convoke
