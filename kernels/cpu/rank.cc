#include <algorithm>
#include <array>
#include <mutex>

#include "kernels/cpu/pick.h"
#include "kernels/cpu/pick_row.h"

namespace convoke::cpu {
namespace {

using Ranking = std::array<PickBest, kMaxRanked>;

bool better(float score, int32_t token, const RankedToken& other) {
  if (token < 0 || other.token < 0) return token >= 0;
  return score > other.score || (score == other.score && token < other.token);
}

void check(const RankArgs& args) {
  CONVOKE_CHECK(args.logits.dtype == DType::kFloat32);
  CONVOKE_CHECK_EQ(int64_t(args.params.size()), args.logits.rows);
  CONVOKE_CHECK(args.count >= 1 && args.count <= kMaxRanked);
  CONVOKE_CHECK_EQ(int64_t(args.ranked.size()), args.logits.rows * args.count);
  CONVOKE_CHECK_EQ(args.first_token % 16, 0);
  CONVOKE_CHECK(args.tokens.empty() || int64_t(args.tokens.size()) == args.logits.cols);
}

/// The best of columns [begin, end).
void rank_columns(const PickKernels& kernels, const LogitRow& row, const PickRow& params,
                  bool noise, int64_t begin, int64_t end, int count, Ranking& best) {
  std::fill_n(best.begin(), count, PickBest{kNoChance, -1});
  const RankRule rule{.divisor = params.temperature > 0 ? params.temperature : 1.0f,
                      .noise = noise && params.temperature > 0,
                      .seed = params.seed,
                      .position = params.position};
  BlockRun run;
  for (BlockRuns runs(row, begin, end); runs.next(run);) {
    kernels.rank(run.logits, run.floor, run.columns, run.tokens,
                 row.first_token + int32_t(run.begin), rule, best.data(), count);
  }
}

/// Adds one thread's ranking of a part of a row. The best of a union do not depend on the order in
/// which its parts come.
void merge(std::span<RankedToken> into, const Ranking& part) {
  static std::array<std::mutex, 64> locks;
  const uintptr_t address = reinterpret_cast<uintptr_t>(into.data());
  const std::lock_guard lock(locks[address / sizeof(RankedToken) % 64]);
  const size_t count = into.size();
  std::array<RankedToken, kMaxRanked> both;
  size_t i = 0, j = 0;
  for (size_t out = 0; out < count; ++out) {
    const PickBest& next = part[j];
    const bool take = better(next.score, next.token, into[i]);
    both[out] = take ? RankedToken{next.score, next.token} : into[i];
    ++(take ? j : i);
  }
  std::copy_n(both.begin(), count, into.begin());
}

}  // namespace

void rank(CpuStream& stream, Isa isa, const RankArgs& args) {
  check(args);
  const PickKernels& kernels = pick_kernels(isa);
  const auto count = size_t(args.count);
  if (stream.index() == 0) {
    std::fill(args.ranked.begin(), args.ranked.end(), RankedToken{kNoChance, -1});
  }
  if (stream.count() > 1) stream.barrier();  // rankings are merged into what was just cleared
  // All blocks of all rows in one line, cut into equal parts for the threads.
  const int64_t blocks = (args.logits.cols + kPickBlock - 1) / kPickBlock;
  const int64_t all = args.logits.rows * blocks;
  int64_t at = all * stream.index() / stream.count();
  const int64_t end = all * (stream.index() + 1) / stream.count();
  while (at < end) {
    const int64_t r = at / blocks, first = at % blocks;
    const int64_t last = std::min(blocks, first + end - at);
    at += last - first;
    const PickRow& params = args.params[size_t(r)];
    const LogitRow row{args.logits.row<const float>(r), args.logits.cols, args.first_token,
                       params.edits, args.tokens};
    Ranking best;
    rank_columns(kernels, row, params, args.noise, first * kPickBlock,
                 std::min(last * kPickBlock, args.logits.cols), args.count, best);
    merge(args.ranked.subspan(size_t(r) * count, count), best);
  }
  stream.barrier();
}

}  // namespace convoke::cpu
