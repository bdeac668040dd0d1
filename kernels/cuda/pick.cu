// Picks without filters, and the digests of all rows: a block per 4096 columns, then one warp per
// row over the blocks' bids.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/pick.cuh"

namespace convoke::cuda {
namespace {

constexpr int kBlockColumns = 4096;

__global__ void __launch_bounds__(kPickThreads)
    bid_kernel(const float* logits, int64_t stride, int64_t columns, int32_t first_token,
               const PickRow* params, Pick* bids) {
  struct Shared {
    Best best[kPickWarps];
    unsigned long long digest[kPickWarps];
  };
  CONVOKE_SHARED(Shared, shared);
  const int64_t r = blockIdx.y, begin = int64_t(blockIdx.x) * kBlockColumns;
  const LogitRow row(logits + r * stride, columns, first_token, nullptr, params[r]);
  const bool noisy = params[r].temperature > 0;
  Best best = none();
  unsigned long long digest = 0;
  for (int64_t c = begin + threadIdx.x * kFour; c < begin + kBlockColumns && c < columns;
       c += kPickThreads * kFour) {
    float x[kFour], g[kFour] = {};
    row.scaled(c, x);
    if (noisy) row.noise(c, g);
#pragma unroll
    for (int i = 0; i < kFour; ++i) {
      if (c + i >= columns) continue;
      const int32_t token = row.token(c + i);
      const uint32_t factor = noise_core::digest_factor<ScalarLanes>(uint32_t(token));
      digest += (unsigned long long)factor * ScalarLanes::bits(row.logits[c + i]) + factor;
      if (x[i] == -INFINITY) continue;
      best = better_of(best, {noisy ? x[i] + g[i] : x[i], token});
    }
  }
  best = block_reduce(best, shared.best, BestOf());
  digest = block_reduce(digest, shared.digest, SumOf());
  if (threadIdx.x == 0) {
    bids[r * gridDim.x + blockIdx.x] = {best.score, best.token, uint64_t(digest)};
  }
}

__global__ void __launch_bounds__(kWarp)
    choose_kernel(const Pick* bids, int count, int32_t first_token, Pick* picks) {
  const int r = int(blockIdx.x);
  Best best = none();
  unsigned long long digest = 0;
  for (int i = lane_index(); i < count; i += kWarp) {
    const Pick& bid = bids[int64_t(r) * count + i];
    best = better_of(best, {bid.score, bid.token});
    digest += bid.digest;
  }
  for (int lanes = 1; lanes < kWarp; lanes *= 2) {
    best = better_of(best, shuffle_xor(best, lanes));
    digest += shuffle_xor(digest, lanes);
  }
  if (lane_index() != 0) return;
  if (best.token < 0 && count > 0) best.token = first_token;  // every token is banned
  picks[r] = {best.score, best.token, uint64_t(digest)};
}

int64_t blocks_of(int64_t columns) {
  return ceil_div<int64_t>(columns, kBlockColumns);
}

void pick_plain(const CudaStream& stream, const TensorView& logits, int32_t first_token,
                std::span<const PickRow> params, std::span<Pick> picks,
                const Workspace& workspace) {
  CONVOKE_CHECK(logits.dtype == DType::kFloat32);
  CONVOKE_CHECK_EQ(int64_t(params.size()), logits.rows);
  CONVOKE_CHECK_EQ(int64_t(picks.size()), logits.rows);
  CONVOKE_CHECK_GE(workspace.bytes, pick_workspace_bytes(logits.rows, logits.cols));
  const int64_t blocks = blocks_of(logits.cols);
  auto* const bids = static_cast<Pick*>(workspace.data);
  if (blocks > 0) {
    launch(stream, {dim3(unsigned(blocks), unsigned(logits.rows)), kPickThreads}, bid_kernel,
           static_cast<const float*>(logits.data), logits.row_stride, logits.cols, first_token,
           params.data(), bids);
  }
  launch(stream, {dim3(unsigned(logits.rows)), kWarp}, choose_kernel, bids, int(blocks),
         first_token, picks.data());
}

}  // namespace

size_t pick_workspace_bytes(int64_t rows, int64_t columns) {
  return size_t(rows * blocks_of(columns)) * sizeof(Pick);
}

void pick_slice(const CudaStream& stream, const PickSliceArgs& args, const Workspace& workspace) {
  CONVOKE_CHECK_EQ(args.first_token % 16, 0);
  if (args.logits.rows == 0) return;
  pick_plain(stream, args.logits, args.first_token, args.params, args.picks, workspace);
}

void pick_full(const CudaStream& stream, const PickFullArgs& args, const PickFullWants& wants,
               const Workspace& workspace) {
  const TensorView& logits = args.logits;
  if (logits.rows == 0) return;
  CONVOKE_CHECK_GE(logits.cols, 1);
  pick_plain(stream, logits, 0, args.params, args.picks, workspace);
  const FullPickJob job = {static_cast<const float*>(logits.data),
                           logits.row_stride,
                           logits.cols,
                           args.params.data(),
                           static_cast<float*>(args.scratch.data),
                           args.scratch.row_stride,
                           args.picks.data(),
                           args.logprobs.data(),
                           args.max_logprobs};
  if (wants.filters || wants.logprobs)
    CONVOKE_CHECK_LE(logits.cols, pick_core::kMaxFilterVocabulary);
  if (wants.filters) {
    CONVOKE_CHECK(args.scratch.dtype == DType::kFloat32);
    CONVOKE_CHECK_GE(args.scratch.rows, logits.rows);
    CONVOKE_CHECK_GE(args.scratch.cols, logits.cols);
    pick_filtered(stream, job, int(logits.rows));
  }
  if (wants.logprobs) {
    CONVOKE_CHECK(args.max_logprobs >= 0 && args.max_logprobs <= kMaxRanked);
    CONVOKE_CHECK_GE(int64_t(args.logprobs.size()), logits.rows * (1 + args.max_logprobs));
    row_logprobs(stream, job, int(logits.rows));
  }
}

}  // namespace convoke::cuda
