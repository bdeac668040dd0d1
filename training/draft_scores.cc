#include "training/draft_scores.h"

#include <torch/types.h>

#include "training/objective.h"

namespace convoke::training {
namespace {

/// Where the target's pick stands among the draft's best: counts of first and within `wide`.
void count_hits(const torch::Tensor& draft, const torch::Tensor& target,
                const torch::Tensor& columns, int wide, int64_t (&hits)[2]) {
  const torch::Tensor pick = target.argmax(-1, true);
  torch::Tensor best = std::get<1>(draft.topk(std::min<int64_t>(wide, draft.size(-1)), -1));
  if (columns.defined()) best = columns.index_select(0, best.flatten()).view(best.sizes());
  const torch::Tensor equal = best == pick;
  hits[0] += equal.slice(-1, 0, 1).sum().item<int64_t>();
  hits[1] += equal.sum().item<int64_t>();
}

torch::Tensor gumbel(const torch::Tensor& like, uint64_t seed) {
  torch::Generator generator = seeded_generator(seed, like.device());
  const torch::Tensor exponential = torch::empty_like(like).exponential_(1.0, generator);
  return -torch::log(exponential);
}

}  // namespace

void DraftScores::add(int depth, const torch::Tensor& draft, const torch::Tensor& target,
                      const torch::Tensor& columns, uint64_t seed) {
  if (size_t(depth) >= counts_.size()) counts_.resize(size_t(depth) + 1);
  if (draft.size(0) == 0) return;
  Counts& counts = counts_[size_t(depth)];
  counts.rows += draft.size(0);
  count_hits(draft, target, columns, kWide, counts.hits[0]);
  const torch::Tensor noise = gumbel(target, seed);
  const torch::Tensor own = columns.defined() ? noise.index_select(-1, columns) : noise;
  count_hits(draft + own, target + noise, columns, kWide, counts.hits[1]);
}

DraftScores::Rates DraftScores::rates(int depth, bool sampled) const {
  const Counts& counts = counts_.at(size_t(depth));
  if (counts.rows == 0) return {};
  const int64_t(&hits)[2] = counts.hits[sampled ? 1 : 0];
  return {double(hits[0]) / double(counts.rows), double(hits[1]) / double(counts.rows)};
}

double DraftScores::length(bool sampled, double Rates::*met) const {
  double length = 1.0, reached = 1.0;
  for (int d = 0; d < depths(); ++d) length += reached *= rates(d, sampled).*met;
  return length;
}

double DraftScores::chain_length(bool sampled) const {
  return length(sampled, &Rates::first);
}
double DraftScores::tree_length(bool sampled) const {
  return length(sampled, &Rates::wide);
}

}  // namespace convoke::training
