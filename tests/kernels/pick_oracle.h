// The pick rule once more, as plainly as it can be said, for the tests of kernels/cpu/pick.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/cpu/pick.h"
#include "kernels/cpu/team.h"
#include "kernels/noise.h"

namespace convoke::pick_test {

using Row = std::vector<float>;

/// The paths of this machine that differ in a pick: AMX takes the AVX-512 one.
inline std::vector<cpu::Isa> isas() {
  std::vector<cpu::Isa> all;
  for (auto isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512Bf16}) {
    if (isa <= cpu::best_isa()) all.push_back(isa);
  }
  return all;
}

/// Logits after edits and temperature; -infinity where banned.
inline Row processed(const Row& logits, const PickRow& params) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Row x = logits;
  std::vector<bool> banned(x.size(), false);
  for (const LogitEdit& edit : params.edits) {
    if (size_t(edit.token) >= x.size()) continue;
    float& l = x[size_t(edit.token)];
    l = (l > 0 ? l / edit.repetition : l * edit.repetition) + edit.add;
    banned[size_t(edit.token)] = edit.add == -kInfinity;
  }
  for (size_t v = 0; v < x.size(); ++v) {
    if (params.temperature > 0) x[v] = x[v] / params.temperature;
    if (std::isnan(x[v]) || x[v] == -kInfinity) x[v] = std::numeric_limits<float>::lowest();
    if (banned[v]) x[v] = -kInfinity;
  }
  return x;
}

/// Probability of every token after all filters, in long double and by sorting everything.
inline std::vector<long double> probabilities(const Row& logits, const PickRow& params) {
  const Row x = processed(logits, params);
  std::vector<int32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  const float top = x[order[0]];
  const auto e = [&](int32_t v) { return std::exp((long double)x[v] - top); };
  size_t kept = x.size();
  if (params.top_k > 0) kept = std::min(kept, size_t(params.top_k));
  if (params.top_p < 1) {
    long double total = 0, sum = 0;
    for (size_t i = 0; i < kept; ++i) total += e(order[i]);
    size_t n = 0;
    while (n < kept) {
      sum += e(order[n++]);
      if (sum >= params.top_p * total) break;
    }
    kept = n;
  }
  while (kept > 1 && params.min_p > 0 && e(order[kept - 1]) < params.min_p) --kept;
  std::vector<long double> p(x.size(), 0);
  long double total = 0;
  for (size_t i = 0; i < kept; ++i) total += e(order[i]);
  for (size_t i = 0; i < kept; ++i) p[order[i]] = e(order[i]) / total;
  return p;
}

/// The pick, given which tokens the filters keep (all at temperature 0).
inline Pick expected(const Row& logits, const PickRow& params) {
  const Row x = processed(logits, params);
  std::vector<long double> p(x.size(), 1);
  const bool filters = params.top_k > 0 || params.top_p < 1 || params.min_p > 0;
  if (params.temperature > 0 && filters) p = probabilities(logits, params);
  Pick best;
  for (int32_t v = 0; v < int32_t(x.size()); ++v) {
    best.digest += digest_mix(v, logits[size_t(v)]);
    if (p[v] == 0) continue;
    float score = x[v];
    if (params.temperature > 0) score += gumbel(params.seed, params.position, v);
    if (best.token >= 0 && score <= best.score) continue;
    best.score = score;
    best.token = v;
  }
  return best;
}

inline TensorView view(Row& values, int64_t rows) {
  return TensorView::matrix(values.data(), DType::kFloat32, rows, int64_t(values.size()) / rows);
}

/// Rows of one matrix, picked by pick_full.
inline std::vector<Pick> run_full(cpu::Team& team, cpu::Isa isa, Row& logits,
                                  const std::vector<PickRow>& params,
                                  std::vector<TokenLogprob>* logprobs = nullptr,
                                  int32_t max_logprobs = 0) {
  const auto rows = int64_t(params.size());
  Row scratch(2 * logits.size(), std::numeric_limits<float>::quiet_NaN());
  std::vector<Pick> picks(params.size());
  PickFullArgs args{view(logits, rows), params, view(scratch, rows), picks, {}, max_logprobs};
  if (logprobs) {
    logprobs->assign(params.size() * size_t(1 + max_logprobs), TokenLogprob{-7, 7});
    args.logprobs = *logprobs;
  }
  team.run([&](cpu::CpuStream& stream) { cpu::pick_full(stream, isa, args); });
  return picks;
}

inline std::vector<Pick> run_slice(cpu::Team& team, cpu::Isa isa, TensorView logits,
                                   int32_t first_token, const std::vector<PickRow>& params) {
  std::vector<Pick> picks(params.size());
  const PickSliceArgs args{logits, first_token, params, picks};
  team.run([&](cpu::CpuStream& stream) { cpu::pick_slice(stream, isa, args); });
  return picks;
}

inline bool same(const Pick& a, const Pick& b) {
  return a.token == b.token && a.digest == b.digest &&
         noise_core::ScalarLanes::bits(a.score) == noise_core::ScalarLanes::bits(b.score);
}

}  // namespace convoke::pick_test
