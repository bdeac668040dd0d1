#include "kernels/cpu/pick.h"

#include <algorithm>
#include <array>
#include <mutex>

#include "kernels/cpu/pick_row.h"

namespace convoke::cpu {
namespace {

LogitRow row_of(const TensorView& logits, int32_t first_token, const PickRow& params, int64_t r) {
  return {logits.row<const float>(r), logits.cols, first_token, params.edits, {}};
}

/// Adds one thread's bid for a part of a row. Neither the winner nor the sum depends on the order
/// of the bids.
void merge(Pick& into, const Pick& bid) {
  static std::array<std::mutex, 64> locks;
  const std::lock_guard lock(locks[reinterpret_cast<uintptr_t>(&into) / sizeof(Pick) % 64]);
  const uint64_t digest = into.digest + bid.digest;
  if (beats(bid, into)) into = bid;
  into.digest = digest;
}

/// Rows without filters: all their blocks in one line, cut into equal parts for the threads.
template <typename Wanted>
void pick_plain_rows(CpuStream& stream, const PickKernels& kernels, const TensorView& logits,
                     int32_t first_token, std::span<const PickRow> params, std::span<Pick> picks,
                     const Wanted& wanted) {
  const int64_t blocks = (logits.cols + kPickBlock - 1) / kPickBlock;
  int64_t rows = 0;
  for (int64_t r = 0; r < logits.rows; ++r) {
    if (!wanted(params[r])) continue;
    ++rows;
    if (stream.index() == 0) picks[r] = {kNoChance, -1, 0};
  }
  if (stream.count() > 1) stream.barrier();  // bids are merged into what was just cleared
  const int64_t mine = rows * blocks * stream.index() / stream.count();
  const int64_t mine_end = rows * blocks * (stream.index() + 1) / stream.count();
  int64_t base = 0;
  for (int64_t r = 0; r < logits.rows; ++r) {
    if (!wanted(params[r])) continue;
    const int64_t begin = std::max(mine - base, int64_t(0));
    const int64_t end = std::min(mine_end - base, blocks);
    base += blocks;
    if (begin >= end) continue;
    const Pick bid = pick_columns(kernels, row_of(logits, first_token, params[r], r), params[r],
                                  begin * kPickBlock, std::min(end * kPickBlock, logits.cols));
    if (begin == 0 && end == blocks) {
      picks[r] = bid;
    } else {
      merge(picks[r], bid);
    }
  }
}

void check_logits(const TensorView& logits, size_t params, size_t picks) {
  CONVOKE_CHECK(logits.dtype == DType::kFloat32);
  CONVOKE_CHECK_EQ(int64_t(params), logits.rows);
  CONVOKE_CHECK_EQ(int64_t(picks), logits.rows);
}

bool asks_logprobs(const PickRow& params) {
  return params.logprobs >= 0;
}

void check_full(const PickFullArgs& args) {
  const TensorView& logits = args.logits;
  check_logits(logits, args.params.size(), args.picks.size());
  CONVOKE_CHECK_GE(logits.cols, 1);
  const bool logprobs = std::any_of(args.params.begin(), args.params.end(), asks_logprobs);
  const bool filters = std::any_of(args.params.begin(), args.params.end(), [&](const PickRow& row) {
    return has_filters(row, logits.cols);
  });
  if (filters || logprobs) {
    CONVOKE_CHECK_LE(logits.cols, kMaxFilterVocabulary);
    CONVOKE_CHECK_GE(args.scratch.rows, logits.rows);
    CONVOKE_CHECK_GE(args.scratch.cols, 2 * logits.cols);
    CONVOKE_CHECK(args.scratch.dtype == DType::kFloat32);
  }
  if (logprobs || !args.logprobs.empty()) {
    CONVOKE_CHECK_GE(args.max_logprobs, 0);
    CONVOKE_CHECK_GE(int64_t(args.logprobs.size()), logits.rows * (1 + args.max_logprobs));
  }
}

/// Rows whose turn it is on this thread, of those that `wanted` names.
template <typename Wanted, typename Visit>
void for_my_rows(CpuStream& stream, std::span<const PickRow> params, const Wanted& wanted,
                 const Visit& visit) {
  int turn = 0;
  for (size_t r = 0; r < params.size(); ++r) {
    if (!wanted(params[r])) continue;
    if (turn == stream.index()) visit(int64_t(r));
    turn = (turn + 1) % stream.count();
  }
}

}  // namespace

void pick_slice(CpuStream& stream, Isa isa, const PickSliceArgs& args) {
  check_logits(args.logits, args.params.size(), args.picks.size());
  CONVOKE_CHECK_EQ(args.first_token % 16, 0);
  pick_plain_rows(stream, pick_kernels(isa), args.logits, args.first_token, args.params, args.picks,
                  [](const PickRow&) { return true; });
  stream.barrier();
}

void pick_full(CpuStream& stream, Isa isa, const PickFullArgs& args) {
  check_full(args);
  const PickKernels& kernels = pick_kernels(isa);
  const auto filtered = [&](const PickRow& row) { return has_filters(row, args.logits.cols); };
  pick_plain_rows(stream, kernels, args.logits, 0, args.params, args.picks,
                  [&](const PickRow& row) { return !filtered(row); });
  for_my_rows(stream, args.params, filtered, [&](int64_t r) {
    args.picks[r] = pick_filtered(kernels, row_of(args.logits, 0, args.params[r], r),
                                  args.params[r], args.scratch.row<float>(r));
  });
  stream.barrier();
  if (args.logprobs.empty()) return;
  const size_t width = 1 + size_t(args.max_logprobs);
  for_my_rows(
      stream, args.params, [](const PickRow&) { return true; },
      [&](int64_t r) {
        const std::span<TokenLogprob> out = args.logprobs.subspan(size_t(r) * width, width);
        std::fill(out.begin(), out.end(), TokenLogprob{});
        if (!asks_logprobs(args.params[r])) return;
        row_logprobs(kernels, row_of(args.logits, 0, args.params[r], r), args.picks[r].token,
                     args.params[r].logprobs, args.scratch.row<float>(r), out);
      });
  stream.barrier();
}

}  // namespace convoke::cpu
