#include <algorithm>
#include <cmath>

#include "kernels/cpu/pick_row.h"

namespace convoke::cpu {
namespace {

/// While the row is searched `logprob` holds the logit.
bool likelier(const TokenLogprob& a, const TokenLogprob& b) {
  return a.logprob > b.logprob || (a.logprob == b.logprob && a.token < b.token);
}

/// Keeps the best of `heap`, whose first element is the least likely kept so far.
void offer(std::span<TokenLogprob> heap, int64_t& used, TokenLogprob candidate) {
  if (used == int64_t(heap.size())) {
    if (!likelier(candidate, heap[0])) return;
    std::pop_heap(heap.begin(), heap.end(), likelier);
    heap.back() = candidate;
    std::push_heap(heap.begin(), heap.end(), likelier);
  } else {
    heap[size_t(used++)] = candidate;
    std::push_heap(heap.begin(), heap.begin() + used, likelier);
  }
}

void search(const PickKernels& kernels, const ScaledRow& row, std::span<TokenLogprob> heap) {
  if (heap.empty()) return;
  int64_t used = 0;
  const auto visit = [&](const float* x, int64_t columns, int64_t first, int64_t end) {
    for (int64_t i = 0;; i += kPickBlock) {
      const float bound = used == int64_t(heap.size()) ? heap[0].logprob : kNoChance;
      i = kernels.find_at_least(x, columns, i, bound);
      if (i >= columns) return;
      for (int64_t j = i; j < i + kPickBlock && first + j < end; ++j) {
        offer(heap, used, {int32_t(first + j), x[j]});
      }
    }
  };
  visit(row.main, row.main_columns, 0, row.columns);
  visit(row.tail, row.tail_columns(), row.main_columns, row.columns);
  std::sort_heap(heap.begin(), heap.end(), likelier);
}

}  // namespace

void row_logprobs(const PickKernels& kernels, const LogitRow& row, int32_t pick,
                  int32_t most_likely, float* scratch, std::span<TokenLogprob> out) {
  ScaledRow raw;
  raw.main = scratch;
  raw.main_columns = row.columns / kPickBlock * kPickBlock;
  raw.columns = row.columns;
  LogitRow unedited = row;
  unedited.edits = {};
  BlockRun run;
  for (BlockRuns runs(unedited, 0, row.columns); runs.next(run);) {
    float* to = run.padded ? raw.tail : raw.main + run.begin;
    // NaN becomes -infinity: a probability of zero.
    const float largest = kernels.scale(run.logits, closed_floor(), run.columns, 1.0f, to);
    raw.maximum = std::max(raw.maximum, largest);
  }
  WeightHistogram histogram;
  histogram.total = 0;
  kernels.weigh(raw.main, raw.main_columns, raw.maximum, -1.0f, &histogram);
  kernels.weigh(raw.tail, raw.tail_columns(), raw.maximum, -1.0f, &histogram);
  const double log_total = std::log(std::ldexp(double(histogram.total), -kWeightBits));
  const auto logprob = [&](float x) {
    if (x == kNoChance) return kNoChance;
    const double below = x == raw.maximum ? 0.0 : double(x) - double(raw.maximum);
    return float(below - log_total);
  };

  std::fill(out.begin(), out.end(), TokenLogprob{});
  out[0] = {pick, logprob(raw[pick - row.first_token])};
  const int64_t count =
      std::min<int64_t>({int64_t(most_likely), row.columns, int64_t(out.size()) - 1});
  search(kernels, raw, out.subspan(1, size_t(count)));
  for (TokenLogprob& entry : out.subspan(1, size_t(count))) {
    entry.token += row.first_token;
    entry.logprob = logprob(entry.logprob);
  }
}

}  // namespace convoke::cpu
