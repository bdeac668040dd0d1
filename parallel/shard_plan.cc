#include "parallel/shard_plan.h"

#include <algorithm>
#include <string>

#include "kernels/check.h"

namespace convoke {

int reduction_groups(const ModelExtents& extents) {
  int groups = 8;
  while (groups > 1 && (extents.heads % groups != 0 || extents.intermediate % groups != 0)) {
    groups /= 2;
  }
  return groups;
}

// Vocabulary rows are dealt in panels of 16 (the column tile of the CPU kernels), so that a shard's
// tile never straddles ranks; the last rank takes what is left.
Range vocabulary_range(int64_t vocabulary, int tp, int rank) {
  const int64_t panels = (vocabulary + 15) / 16;
  const int64_t begin = panels * rank / tp * 16;
  const int64_t end = panels * (rank + 1) / tp * 16;
  return {std::min(begin, vocabulary), std::min(end, vocabulary)};
}

namespace {

std::string possible_sizes(int groups, const ModelExtents& e) {
  std::string list;
  for (int tp = 1; tp <= groups; tp *= 2) {
    if (tp <= e.kv_heads ? e.kv_heads % tp != 0 : tp % e.kv_heads != 0) continue;
    list += (list.empty() ? "" : ", ") + std::to_string(tp);
  }
  return list;
}

}  // namespace

ShardPlan make_shard_plan(const ModelExtents& e, int tp, int rank) {
  CONVOKE_CHECK(e.heads > 0 && e.kv_heads > 0 && e.heads % e.kv_heads == 0);
  const int groups = reduction_groups(e);
  const bool kv_fits = tp >= 1 && (tp <= e.kv_heads ? e.kv_heads % tp == 0 : tp % e.kv_heads == 0);
  if (tp < 1 || groups % tp != 0 || !kv_fits) {
    throw_error(ErrorKind::kUsage,
                "tensor-parallel size {} does not divide this model ({} attention heads, {} "
                "key/value heads, MLP width {}); possible sizes: {}",
                tp, e.heads, e.kv_heads, e.intermediate, possible_sizes(groups, e));
  }
  CONVOKE_CHECK(0 <= rank && rank < tp);
  ShardPlan plan;
  plan.rank = rank;
  plan.tp = tp;
  plan.groups = groups;
  plan.local_groups = groups / tp;
  plan.heads = {int64_t(e.heads) * rank / tp, int64_t(e.heads) * (rank + 1) / tp};
  const int64_t queries_per_kv = e.heads / e.kv_heads;
  plan.kv_heads = {plan.heads.begin / queries_per_kv,
                   (plan.heads.end + queries_per_kv - 1) / queries_per_kv};
  plan.intermediate = {e.intermediate * rank / tp, e.intermediate * (rank + 1) / tp};
  plan.vocabulary = vocabulary_range(e.vocabulary, tp, rank);
  return plan;
}

}  // namespace convoke
