// The best tokens of a row in order: for drafting, with the noise of the pick rule, and for reports
// of the most likely tokens. A cluster of blocks per row (or one block): every block keeps a list
// of its best, and the lists of all are put in order at the end.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/pick.cuh"

namespace convoke::cuda {
namespace {

using namespace pick_core;
using Mass = unsigned long long;

constexpr int kMostTeam = 8;
constexpr int kGroups = 2;                  ///< groups of four columns per thread and turn
constexpr int kOwn = kGroups * kFour;       ///< candidates per thread
constexpr int kTurn = kPickThreads * kOwn;  ///< columns per block and turn

struct Lists {
  Best list[2][kMaxRanked];  ///< this block's best, descending, and the next such list
  Best of_warp[kPickWarps];
  Best all[kMostTeam * kMaxRanked];
};

/// Enters the threads' candidates into lists.list[which]; returns which list holds the result. The
/// candidates are used up.
__device__ int enter(Lists& lists, int which, int count, Best (&own)[kOwn]) {
  const Best* const old = lists.list[which];
  Best* const next = lists.list[1 - which];
  int taken = 0;  // of the old list; the same on every thread
  for (int out = 0; out < count; ++out) {
    Best mine = none();
#pragma unroll
    for (int i = 0; i < kOwn; ++i) mine = better_of(mine, own[i]);
    const Best top = block_reduce(mine, lists.of_warp, BestOf());
    if (out == 0 && !better(top, old[count - 1])) return which;  // nothing new among the best
    const bool from_old = !better(top, old[taken]);
    if (threadIdx.x == 0) next[out] = from_old ? old[taken] : top;
    if (from_old) {
      ++taken;
      continue;
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (own[i].token == top.token) own[i] = none();
    }
  }
  __syncthreads();
  return 1 - which;
}

/// The best `count` tokens of the row, from all blocks of the team. score(column, s, token) gives
/// four columns; token -1 leaves one out. emit(i, best) is called by block 0 for every place, an
/// unused one with token -1.
template <typename Score, typename Emit>
__device__ void best_of_row(const RowTeam& team, Lists& lists, int64_t columns, int count,
                            Score score, Emit emit) {
  for (int i = int(threadIdx.x); i < count; i += kPickThreads) lists.list[0][i] = none();
  __syncthreads();
  int which = 0;
  for (int64_t begin = int64_t(team.rank) * kTurn; begin < columns;
       begin += int64_t(team.size) * kTurn) {
    Best own[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) own[i] = none();
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      const int64_t c = begin + (group * kPickThreads + int(threadIdx.x)) * kFour;
      if (c >= columns) continue;
      float s[kFour];
      int32_t token[kFour];
      score(c, s, token);
#pragma unroll
      for (int i = 0; i < kFour; ++i) own[group * kFour + i] = {s[i], token[i]};
    }
    which = enter(lists, which, count, own);
  }
  // The last list of every block lies where the others look for it.
  for (int i = int(threadIdx.x); which == 1 && i < count; i += kPickThreads) {
    lists.list[0][i] = lists.list[1][i];
  }
  cluster_sync();
  if (team.rank == 0) {
    const int all = team.size * count;
    for (int i = int(threadIdx.x); i < all; i += kPickThreads) {
      lists.all[i] = *in_block(&lists.list[0][i % count], unsigned(i / count));
    }
    __syncthreads();
    int used = 0;
    for (int j = 0; j < all; ++j) used += lists.all[j].token >= 0;
    for (int i = int(threadIdx.x); i < all; i += kPickThreads) {
      const Best mine = lists.all[i];
      if (mine.token < 0) continue;
      int place = 0;
      for (int j = 0; j < all; ++j) place += better(lists.all[j], mine);
      if (place < count) emit(place, mine);
    }
    for (int i = used + int(threadIdx.x); i < count; i += kPickThreads) emit(i, none());
  }
  cluster_sync();
}

struct RankJob {
  const float* logits;
  int64_t stride, columns;
  int32_t first_token;
  const int32_t* tokens;
  const PickRow* params;
  bool noise;
  int count;
  RankedToken* ranked;
};

__global__ void __launch_bounds__(kPickThreads) rank_kernel(RankJob job) {
  CONVOKE_SHARED(Lists, lists);
  const RowTeam team;
  const int r = int(blockIdx.y);
  const LogitRow row(job.logits + r * job.stride, job.columns, job.first_token, job.tokens,
                     job.params[r]);
  const bool noisy = job.noise && job.params[r].temperature > 0;
  RankedToken* const out = job.ranked + int64_t(r) * job.count;
  best_of_row(
      team, lists, job.columns, job.count,
      [&](int64_t c, float(&s)[kFour], int32_t(&token)[kFour]) {
        float g[kFour] = {};
        row.scaled(c, s);
        if (noisy) row.noise(c, g);
#pragma unroll
        for (int i = 0; i < kFour; ++i) {
          token[i] = s[i] == -INFINITY ? -1 : row.token(c + i);
          if (noisy) s[i] = s[i] + g[i];
        }
      },
      [&](int i, const Best& best) {
        out[i] = {best.score, best.token};
      });
}

struct LogprobShared {
  float largest[kPickWarps];
  Mass sums[kPickWarps];
  float block_largest;
  Mass block_sum;
};

/// The raw logits of a row as probabilities. NaN counts as -infinity.
__global__ void __launch_bounds__(kPickThreads) logprob_kernel(FullPickJob job) {
  const int r = int(blockIdx.y), width = 1 + job.max_logprobs;
  const RowTeam team;
  TokenLogprob* const out = job.logprobs + int64_t(r) * width;
  if (team.rank == 0) {
    for (int i = int(threadIdx.x); i < width; i += kPickThreads) out[i] = TokenLogprob();
  }
  const int wanted = job.params[r].logprobs;
  if (wanted < 0) return;
  CONVOKE_SHARED(Lists, lists);
  CONVOKE_SHARED(LogprobShared, shared);
  const float* const logits = job.logits + r * job.stride;
  const auto raw = [&](int64_t c) { return logits[c] > -INFINITY ? logits[c] : -INFINITY; };
  float largest = -INFINITY;
  team.for_columns(job.columns, [&](int64_t c) {
    for (int64_t i = c; i < c + kFour && i < job.columns; ++i) {
      largest = LargestOf()(largest, raw(i));
    }
  });
  largest = block_reduce(largest, shared.largest, LargestOf());
  largest = team.reduce(largest, shared.block_largest, LargestOf());
  Mass total = 0;
  team.for_columns(job.columns, [&](int64_t c) {
    for (int64_t i = c; i < c + kFour && i < job.columns; ++i) {
      total += weight(weight_distance(raw(i), largest));
    }
  });
  total = block_reduce(total, shared.sums, SumOf());
  total = team.reduce(total, shared.block_sum, SumOf());
  const double log_total = log(double(total) * 0x1p-44);
  static_assert(kWeightBits == 44);
  const auto logprob = [&](float x) {
    if (x == -INFINITY) return x;
    const double below = x == largest ? 0.0 : double(x) - double(largest);
    return float(below - log_total);
  };
  if (team.rank == 0 && threadIdx.x == 0) {
    const int32_t pick = job.picks[r].token;
    out[0] = {pick, logprob(raw(pick))};
  }
  int count = wanted < job.max_logprobs ? wanted : job.max_logprobs;
  if (job.columns < count) count = int(job.columns);
  if (count == 0) return;
  best_of_row(
      team, lists, job.columns, count,
      [&](int64_t c, float(&s)[kFour], int32_t(&token)[kFour]) {
#pragma unroll
        for (int i = 0; i < kFour; ++i) {
          token[i] = c + i < job.columns ? int32_t(c + i) : -1;
          s[i] = c + i < job.columns ? raw(c + i) : -INFINITY;
        }
      },
      [&](int i, const Best& best) {
        out[1 + i] = {best.token, logprob(best.score)};
      });
}

}  // namespace

void rank(const CudaStream& stream, const RankArgs& args) {
  CONVOKE_CHECK(args.logits.dtype == DType::kFloat32);
  CONVOKE_CHECK_EQ(int64_t(args.params.size()), args.logits.rows);
  CONVOKE_CHECK(args.count >= 1 && args.count <= kMaxRanked);
  CONVOKE_CHECK_EQ(int64_t(args.ranked.size()), args.logits.rows * args.count);
  CONVOKE_CHECK_EQ(args.first_token % 16, 0);
  CONVOKE_CHECK(args.tokens.empty() || int64_t(args.tokens.size()) == args.logits.cols);
  if (args.logits.rows == 0) return;
  const RankJob job = {static_cast<const float*>(args.logits.data),
                       args.logits.row_stride,
                       args.logits.cols,
                       args.first_token,
                       args.tokens.empty() ? nullptr : args.tokens.data(),
                       args.params.data(),
                       args.noise,
                       args.count,
                       args.ranked.data()};
  const int team = row_team_size(stream);
  launch(stream, {dim3(unsigned(team), unsigned(args.logits.rows)), kPickThreads, 0, team},
         rank_kernel, job);
}

void row_logprobs(const CudaStream& stream, const FullPickJob& job, int rows) {
  const int team = row_team_size(stream);
  launch(stream, {dim3(unsigned(team), unsigned(rows)), kPickThreads, 0, team}, logprob_kernel,
         job);
}

}  // namespace convoke::cuda
