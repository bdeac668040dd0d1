// Attention over caches of 32 bits, without tensor cores: for comparison, not for speed. A block
// takes one split of one row and head; lane i of a warp holds the score of key i of a tile, and
// elements i, i + 32, ... of the sums.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/kernels.h"

namespace convoke::cuda {
namespace {

constexpr int kOwn = kMaxHeadDim / kWarp;  ///< elements of a head per lane

struct FloatRuns {
  float query[kMaxHeadDim];
  float largest[kAttentionWarps];
  float weight[kAttentionWarps];
  float sums[kAttentionWarps][kMaxHeadDim];
};

/// A warp's run of 64 positions from `first`.
__device__ __forceinline__ void add_run(const AttentionJob& job, const Visible& visible,
                                        int kv_head, int first, FloatRuns& shared) {
  const float* const cache = static_cast<const float*>(job.cache);
  const int lane = lane_index(), d = job.head_dim;
  float largest = -INFINITY, weight = 0, sums[kOwn] = {};
  for (int from = first; from < first + kRunKeys; from += kTileKeys) {
    if (!visible.any(from, from + kTileKeys)) continue;
    const int position = from + lane;
    const bool seen = visible.begin <= position && position < visible.end;
    const float* key = cache;
    float score = -INFINITY;
    if (seen) {
      key = key_at(cache, job.kv_heads, d, kv_head, visible.table, visible.slot(position));
      float sum = 0;
      for (int j = 0; j < d; ++j) sum = fmaf(shared.query[j], key[j], sum);
      score = sum * job.scale;
    }
    float top = warp_max(score);
    top = top > largest ? top : largest;
    const float base = top == -INFINITY ? 0.0f : top;
    const float own = score == -INFINITY ? 0.0f : expf(score - base);
    const float factor = largest == -INFINITY ? 0.0f : expf(largest - base);
    weight = fmaf(weight, factor, warp_sum(own));
    largest = top;
    for (int i = 0; i < kOwn; ++i) sums[i] *= factor;
    const uint32_t seen_keys = __ballot_sync(kAllLanes, seen);
    const int64_t offset = key - cache + kKvBlockSize * d;
    for (int i = 0; i < kTileKeys; ++i) {
      const float w = __shfl_sync(kAllLanes, own, i);
      const int64_t at = __shfl_sync(kAllLanes, offset, i);
      if ((seen_keys >> i & 1) == 0) continue;
#pragma unroll
      for (int e = 0; e < kOwn; ++e) {
        const int j = e * kWarp + lane;
        if (j < d) sums[e] = fmaf(w, cache[at + j], sums[e]);
      }
    }
  }
  if (lane == 0) shared.largest[warp_index()] = largest, shared.weight[warp_index()] = weight;
  for (int e = 0; e < kOwn; ++e) shared.sums[warp_index()][e * kWarp + lane] = sums[e];
}

/// Splits x rows x heads.
__global__ void __launch_bounds__(kAttentionThreads) attention_float_kernel(AttentionJob job) {
  CONVOKE_SHARED(FloatRuns, shared);
  const int split = int(blockIdx.x), row = int(blockIdx.y), head = int(blockIdx.z);
  const int kv_head = head / (job.heads / job.kv_heads), d = job.head_dim;
  const Visible visible = visible_to(job, row);
  if (!visible.any(split * kSplitKeys, (split + 1) * kSplitKeys)) return;
  for (int j = int(threadIdx.x); j < d; j += kAttentionThreads) {
    shared.query[j] = job.qkv[row * job.qkv_stride + head * d + j];
  }
  __syncthreads();
  add_run(job, visible, kv_head, split * kSplitKeys + warp_index() * kRunKeys, shared);
  __syncthreads();
  const int64_t at = part_index(job, row, head, split);
  for (int j = int(threadIdx.x); j < d; j += kAttentionThreads) {
    const Merged merged = Merged::of(kAttentionWarps, [&](int w) -> Merged {
      return {shared.largest[w], shared.weight[w], shared.sums[w][j]};
    });
    job.values[at * d + j] = merged.value;
    if (j == 0) job.weights[at] = {merged.largest, merged.weight};
  }
}

}  // namespace

void attention_float(const CudaStream& stream, const AttentionJob& job, int rows) {
  launch(stream,
         {dim3(unsigned(job.splits), unsigned(rows), unsigned(job.heads)), kAttentionThreads},
         attention_float_kernel, job);
}

}  // namespace convoke::cuda
