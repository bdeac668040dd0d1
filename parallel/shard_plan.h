// How a model is cut into tensor-parallel shards. Pure arithmetic, no models and no communication.
#pragma once

#include <cstdint>

namespace convoke {

/// [begin, end)
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

struct ModelExtents {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int64_t intermediate = 0;
  int64_t vocabulary = 0;
};

/// The slice of one rank. Rows (outputs) of q/k/v, gate/up, embedding and lm_head are cut; inputs
/// of o_proj and down_proj are cut along the reduction groups.
struct ShardPlan {
  int rank = 0;
  int tp = 1;
  int groups = 8;        ///< reduction groups of the whole model (DESIGN: 8, or the largest power
                         ///< of two that divides the heads and the MLP width)
  int local_groups = 8;  ///< groups / tp
  Range heads;           ///< query heads
  Range kv_heads;        ///< key/value heads; overlaps between ranks when tp > kv_heads
  Range intermediate;    ///< MLP columns
  Range vocabulary;      ///< embedding and lm_head rows; cut at multiples of 16, may be empty

  int64_t local_heads() const { return heads.size(); }
  int64_t local_kv_heads() const { return kv_heads.size(); }
};

/// Throws Error(kUsage) that says which extent tp does not divide and which tp values would do.
ShardPlan make_shard_plan(const ModelExtents& extents, int tp, int rank);

/// The vocabulary slice of a rank: panels of 16 ids, dealt evenly; may be empty.
Range vocabulary_range(int64_t vocabulary, int tp, int rank);

/// The reduction groups of a model, whatever its tp.
int reduction_groups(const ModelExtents& extents);

}  // namespace convoke
