// What the attention kernels have in common: the shape of the sums, and their last stages.
//
// Positions are cut into splits of 256, a split into 4 runs of 64, a run into tiles of 32: always
// at multiples of these, so a row's arithmetic depends on its positions alone. A warp goes through
// the tiles of a run with an online softmax; runs are merged in order to a split (merge_runs),
// splits in order to the row (combine_kernel). Parts of which a row sees nothing are left out, so
// neither the longest row of a pass nor the number of splits launched enters.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/kv_layout.cuh"

namespace convoke::cuda {

inline constexpr int kTileKeys = 32;
inline constexpr int kRunKeys = 64;
inline constexpr int kSplitKeys = 256;
inline constexpr int kAttentionWarps = kSplitKeys / kRunKeys;
inline constexpr int kAttentionThreads = kAttentionWarps * kWarp;
inline constexpr int kTileRows = 16;  ///< of a tensor-core tile: rows times query heads

struct AttentionJob {
  const float* qkv;
  int64_t qkv_stride;
  int heads, kv_heads, head_dim;
  const int32_t* sequence;
  const int32_t* position;
  const int32_t* context;
  const int32_t* path_begin;
  const int32_t* path_slots;
  const int32_t* const* block_tables;
  const void* cache;
  float scale;
  int window;
  const int32_t* tile_begin;
  float* values;    ///< [rows][heads][splits][head_dim] weighted sums of one split
  float2* weights;  ///< [rows][heads][splits] largest score and sum of weights of one split
  int splits;
};

/// What a row sees: positions [begin, end), of which those below `context` lie in the slot of their
/// own number, later ones in path[position - context].
struct Visible {
  int begin, end, context;
  const int32_t* path;
  const int32_t* table;

  __device__ __forceinline__ int slot(int position) const {
    return position < context ? position : path[position - context];
  }
  __device__ __forceinline__ bool any(int from, int to) const { return from < end && begin < to; }
};

__device__ __forceinline__ Visible visible_to(const AttentionJob& job, int row) {
  Visible v;
  v.context = job.context[row];
  v.path = job.path_slots + job.path_begin[row];
  v.end = v.context + job.path_begin[row + 1] - job.path_begin[row];
  v.begin = job.window > 0 ? job.position[row] - job.window + 1 : 0;
  if (v.begin < 0) v.begin = 0;
  v.table = job.block_tables[job.sequence[row]];
  return v;
}

/// Adds parts of a softmax in the order in which they come: weighted values relative to the largest
/// score of each, parts without a weight left out.
struct Merged {
  float largest, weight, value;

  template <typename Part>
  __device__ __forceinline__ static Merged of(int count, Part part) {
    Merged all = {-INFINITY, 0.0f, 0.0f};
    for (int i = 0; i < count; ++i) {
      const float score = part(i).largest;
      all.largest = score > all.largest ? score : all.largest;
    }
    for (int i = 0; i < count; ++i) {
      const Merged one = part(i);
      if (one.weight == 0.0f) continue;
      const float factor = expf(one.largest - all.largest);
      all.weight = fmaf(one.weight, factor, all.weight);
      all.value = fmaf(one.value, factor, all.value);
    }
    return all;
  }
};

/// Where the results of one split of a row and head go.
__device__ __forceinline__ int64_t part_index(const AttentionJob& job, int row, int head,
                                              int split) {
  return (int64_t(row) * job.heads + head) * job.splits + split;
}

/// The kernel for caches of 32 bits: attention_float.cu.
void attention_float(const CudaStream& stream, const AttentionJob& job, int rows);

}  // namespace convoke::cuda
