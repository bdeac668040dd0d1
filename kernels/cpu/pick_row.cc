#include "kernels/cpu/pick_row.h"

#include <algorithm>
#include <array>

#include "kernels/noise.h"

namespace convoke::cpu {
namespace {

std::array<float, kPickBlock> filled(float value) {
  std::array<float, kPickBlock> block;
  block.fill(value);
  return block;
}

uint64_t digest(const PickKernels& kernels, const LogitRow& row, int64_t begin, int64_t end) {
  const int64_t whole = begin + (end - begin) / 16 * 16;
  uint64_t sum =
      kernels.digest(row.logits + begin, whole - begin, row.first_token + int32_t(begin));
  for (int64_t i = whole; i < end; ++i) {
    sum += digest_mix(row.first_token + int32_t(i), row.logits[i]);
  }
  return sum;
}

/// Edits, division by the temperature and the floor, into `out` (out.main is the scratch).
void scale_row(const PickKernels& kernels, const LogitRow& row, float temperature, ScaledRow& out) {
  BlockRuns runs(row, 0, row.columns);
  BlockRun run;
  while (runs.next(run)) {
    float* to = run.padded ? out.tail : out.main + run.begin;
    const float largest = kernels.scale(run.logits, run.floor, run.columns, temperature, to);
    out.maximum = std::max(out.maximum, largest);
  }
}

}  // namespace

const PickKernels& pick_kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512Bf16 || isa == Isa::kAmxBf16) return pick_kernels_avx512();
  if (isa == Isa::kAvx2) return pick_kernels_avx2();
#endif
  (void)isa;
  return pick_kernels_portable();
}

const float* open_floor() {
  alignas(64) static const auto block = filled(kLowestScore);
  return block.data();
}

const float* closed_floor() {
  alignas(64) static const auto block = filled(kNoChance);
  return block.data();
}

BlockRuns::BlockRuns(const LogitRow& row, int64_t begin, int64_t end)
    : row_(row), column_(begin), end_(end) {
  if (begin >= end) return;
  edit_ = std::lower_bound(row.edits.begin(), row.edits.end(), row.token(begin),
                           [](const LogitEdit& edit, int32_t token) { return edit.token < token; });
}

int64_t BlockRuns::next_edited_column() {
  for (; edit_ != row_.edits.end(); ++edit_) {
    if (row_.tokens.empty()) return std::min<int64_t>(end_, edit_->token - row_.first_token);
    const auto rest = row_.tokens.subspan(size_t(column_), size_t(end_ - column_));
    const auto at = std::lower_bound(rest.begin(), rest.end(), edit_->token);
    if (at == rest.end()) break;
    if (*at == edit_->token) return column_ + (at - rest.begin());
  }
  return end_;
}

bool BlockRuns::next(BlockRun& run) {
  if (column_ >= end_) return false;
  const int64_t whole = (next_edited_column() - column_) / kPickBlock * kPickBlock;
  if (whole > 0) {
    const int32_t* tokens = row_.tokens.empty() ? nullptr : row_.tokens.data() + column_;
    run = {row_.logits + column_, open_floor(), whole, column_, false, tokens};
    column_ += whole;
    return true;
  }
  copy_block();
  const int32_t* tokens = row_.tokens.empty() ? nullptr : tokens_;
  run = {block_, floor_, kPickBlock, column_, end_ - column_ < kPickBlock, tokens};
  column_ += kPickBlock;
  return true;
}

void BlockRuns::copy_block() {
  const int64_t count = std::min<int64_t>(kPickBlock, end_ - column_);
  std::copy_n(row_.logits + column_, count, block_);
  std::fill(block_ + count, block_ + kPickBlock, kNoChance);
  std::fill(floor_, floor_ + count, kLowestScore);
  std::fill(floor_ + count, floor_ + kPickBlock, kNoChance);
  if (!row_.tokens.empty()) {
    std::copy_n(row_.tokens.begin() + column_, count, tokens_);
    std::fill(tokens_ + count, tokens_ + kPickBlock, 0);
  }
  // Edits come in the order of columns; those of tokens that the row does not have are passed over.
  for (; next_edited_column() < column_ + count; ++edit_) {
    const int64_t i = next_edited_column() - column_;
    const float l = block_[i];
    block_[i] = (l > 0 ? l / edit_->repetition : l * edit_->repetition) + edit_->add;
    if (edit_->add == kNoChance) block_[i] = floor_[i] = kNoChance;
  }
}

Pick pick_columns(const PickKernels& kernels, const LogitRow& row, const PickRow& params,
                  int64_t begin, int64_t end) {
  if (begin >= end) return {kNoChance, -1, 0};
  PickBest best{kNoChance, -1};
  BlockRun run;
  for (BlockRuns runs(row, begin, end); runs.next(run);) {
    kernels.greedy(run.logits, run.floor, run.columns, row.first_token + int32_t(run.begin), &best);
  }
  if (params.temperature > 0 && best.token >= 0) {
    // The likeliest token's own score: what the others have to reach, so most need no noise.
    const float x = best.score == kLowestScore
                        ? kLowestScore
                        : std::max(best.score / params.temperature, kLowestScore);
    const float bar = x + gumbel(params.seed, params.position, best.token);
    best = {kNoChance, -1};
    for (BlockRuns runs(row, begin, end); runs.next(run);) {
      kernels.noisy(run.logits, run.floor, run.columns, row.first_token + int32_t(run.begin),
                    params.temperature, params.seed, params.position, bar, &best);
    }
  }
  if (best.token < 0) best = {kNoChance, row.first_token + int32_t(begin)};  // all banned
  return {best.score, best.token, digest(kernels, row, begin, end)};
}

Pick pick_filtered(const PickKernels& kernels, const LogitRow& row, const PickRow& params,
                   float* scratch) {
  ScaledRow scaled;
  scaled.main = scratch;
  scaled.main_columns = row.columns / kPickBlock * kPickBlock;
  scaled.columns = row.columns;
  scale_row(kernels, row, params.temperature, scaled);
  const uint64_t fingerprint = digest(kernels, row, 0, row.columns);
  if (scaled.maximum == kNoChance) return {kNoChance, row.first_token, fingerprint};

  auto* tokens = reinterpret_cast<int32_t*>(scratch + row.columns);
  const PickCut cut = find_cut(kernels, scaled, params, tokens);
  PickBest best{kNoChance, -1};
  const auto visit = [&](float* x, int64_t columns, int32_t first) {
    if (columns == 0) return;
    kernels.apply_cut(x, columns, first, cut);
    // x is divided already, and dividing by 1 changes nothing. Tokens cut away stay below the bar.
    kernels.noisy(x, closed_floor(), columns, row.first_token + first, 1.0f, params.seed,
                  params.position, kLowestScore, &best);
  };
  visit(scaled.main, scaled.main_columns, 0);
  visit(scaled.tail, scaled.tail_columns(), int32_t(scaled.main_columns));
  return {best.score, best.token, fingerprint};
}

}  // namespace convoke::cpu
