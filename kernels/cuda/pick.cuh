// The pick rule on the device: scores of tokens with the CPU's own arithmetic (kernels/noise.h,
// kernels/pick_weight.h, nothing fused), and how a block or a cluster finds the best of them. No
// result depends on the order in which tokens are looked at.
#pragma once

#include <cfloat>

#include "kernels/cuda/device.cuh"
#include "kernels/noise.h"
#include "kernels/pick_weight.h"

namespace convoke::cuda {

using noise_core::ScalarLanes;

inline constexpr int kPickThreads = 256;
inline constexpr int kPickWarps = kPickThreads / kWarp;
inline constexpr int kFour = 4;  ///< columns that a thread takes together: one counter of noise

/// A token and its score. Higher scores are better, of equal ones the lower token; token -1 is
/// none, worse than all.
struct Best {
  float score;
  int32_t token;
};

__device__ __forceinline__ Best none() {
  return {-INFINITY, -1};
}

__device__ __forceinline__ bool better(const Best& a, const Best& b) {
  if (a.token < 0 || b.token < 0) return a.token >= 0;
  return a.score > b.score || (a.score == b.score && a.token < b.token);
}
__device__ __forceinline__ Best better_of(const Best& a, const Best& b) {
  return better(b, a) ? b : a;
}

__device__ __forceinline__ Best shuffle_xor(const Best& x, int lanes) {
  return {__shfl_xor_sync(kAllLanes, x.score, lanes), __shfl_xor_sync(kAllLanes, x.token, lanes)};
}
__device__ __forceinline__ float shuffle_xor(float x, int lanes) {
  return __shfl_xor_sync(kAllLanes, x, lanes);
}
__device__ __forceinline__ unsigned long long shuffle_xor(unsigned long long x, int lanes) {
  return __shfl_xor_sync(kAllLanes, x, lanes);
}

/// Combines the threads' values, for an operation whose order does not matter; all get the result.
template <typename T, typename Combine>
__device__ __forceinline__ T block_reduce(T value, T (&of_warp)[kPickWarps], Combine combine) {
  for (int lanes = 1; lanes < kWarp; lanes *= 2) value = combine(value, shuffle_xor(value, lanes));
  __syncthreads();  // the values before may still be read
  if (lane_index() == 0) of_warp[warp_index()] = value;
  __syncthreads();
  value = of_warp[0];
  for (int w = 1; w < kPickWarps; ++w) value = combine(value, of_warp[w]);
  return value;
}

struct BestOf {
  __device__ __forceinline__ Best operator()(const Best& a, const Best& b) const {
    return better_of(a, b);
  }
};
struct SumOf {
  __device__ __forceinline__ unsigned long long operator()(unsigned long long a,
                                                           unsigned long long b) const {
    return a + b;
  }
};
struct LargestOf {
  __device__ __forceinline__ float operator()(float a, float b) const { return b > a ? b : a; }
};

/// One row of logits.
struct LogitRow {
  const float* logits;
  int64_t columns;
  int32_t first_token;
  const int32_t* tokens;  ///< of the columns, ascending, or null: from first_token
  const LogitEdit* edits;
  int edit_count;
  float divisor;  ///< the temperature; 1 at temperature 0, which changes nothing
  uint64_t seed;
  int64_t position;

  __device__ __forceinline__ LogitRow(const float* row, int64_t row_columns, int32_t first,
                                      const int32_t* row_tokens, const PickRow& params)
      : logits(row),
        columns(row_columns),
        first_token(first),
        tokens(row_tokens),
        edits(params.edits.data()),
        edit_count(int(params.edits.size())),
        divisor(params.temperature > 0 ? params.temperature : 1.0f),
        seed(params.seed),
        position(params.position) {}

  __device__ __forceinline__ int32_t token(int64_t column) const {
    return tokens != nullptr ? tokens[column] : first_token + int32_t(column);
  }

  __device__ __forceinline__ int first_edit_from(int32_t wanted) const {
    int low = 0, high = edit_count;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (edits[middle].token < wanted) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  /// Columns [column, column + 4) after edits and temperature; -infinity for banned tokens and
  /// beyond the row. NaN and -infinity count as the lowest finite score.
  __device__ __forceinline__ void scaled(int64_t column, float (&x)[kFour]) const {
    int edit = edit_count > 0 && column < columns ? first_edit_from(token(column)) : 0;
#pragma unroll
    for (int i = 0; i < kFour; ++i) {
      x[i] = -INFINITY;
      if (column + i >= columns) continue;
      float l = logits[column + i];
      bool banned = false;
      if (edit < edit_count) {
        const int32_t here = token(column + i);
        while (edit < edit_count && edits[edit].token < here) ++edit;
        if (edit < edit_count && edits[edit].token == here) {
          const LogitEdit& e = edits[edit];
          l = (l > 0 ? __fdiv_rn(l, e.repetition) : l * e.repetition) + e.add;
          banned = e.add == -INFINITY;
        }
      }
      l = __fdiv_rn(l, divisor);
      if (!banned) x[i] = l > -FLT_MAX ? l : -FLT_MAX;
    }
  }

  /// The noise of columns [column, column + 4); column is a multiple of 4, so is first_token.
  __device__ __forceinline__ void noise(int64_t column, float (&g)[kFour]) const {
    if (tokens == nullptr) {
      uint32_t words[4];
      random_words(uint32_t(token(column)) / 4, words);
#pragma unroll
      for (int i = 0; i < kFour; ++i) {
        g[i] = noise_core::gumbel_from_bits<ScalarLanes>(words[i]);
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kFour; ++i) {
      g[i] = 0;
      if (column + i >= columns) continue;
      const auto id = uint32_t(token(column + i));
      uint32_t words[4];
      random_words(id / 4, words);
      const uint32_t low = id % 2 == 0 ? words[0] : words[1];
      const uint32_t high = id % 2 == 0 ? words[2] : words[3];
      g[i] = noise_core::gumbel_from_bits<ScalarLanes>(id % 4 < 2 ? low : high);
    }
  }

 private:
  __device__ __forceinline__ void random_words(uint32_t counter, uint32_t (&words)[4]) const {
    words[0] = counter;
    words[1] = uint32_t(uint64_t(position));
    words[2] = uint32_t(uint64_t(position) >> 32);
    words[3] = noise_core::kNoiseCounterWord;
    noise_core::philox<ScalarLanes>(words[0], words[1], words[2], words[3], uint32_t(seed),
                                    uint32_t(seed >> 32));
  }
};

/// The blocks that work on one row: a cluster along x, or one block.
struct RowTeam {
  int rank = int(cluster_rank());
  int size = int(gridDim.x);

  __device__ __forceinline__ RowTeam() {}
  /// Visits this thread's groups of four columns, visit(column).
  template <typename Visit>
  __device__ __forceinline__ void for_columns(int64_t columns, Visit visit) const {
    const int64_t step = int64_t(size) * kPickThreads * kFour;
    for (int64_t c = (int64_t(rank) * kPickThreads + threadIdx.x) * kFour; c < columns; c += step) {
      visit(c);
    }
  }
  /// Combines one value per block, that every thread of its block has: all threads get the result.
  /// `shared` is free to be written; who returns from here may write it again.
  template <typename T, typename Combine>
  __device__ __forceinline__ T reduce(T value, T& shared, Combine combine) const {
    __syncthreads();
    if (threadIdx.x == 0) shared = value;
    cluster_sync();
    T all = *in_block(&shared, 0);
    for (int i = 1; i < size; ++i) all = combine(all, *in_block(&shared, unsigned(i)));
    cluster_sync();
    return all;
  }
};

/// A cluster of blocks for a row where there are clusters, else one block.
inline int row_team_size(const CudaStream& stream) {
  return stream.clusters ? 8 : 1;
}

struct FullPickJob {
  const float* logits;
  int64_t stride, columns;
  const PickRow* params;
  float* scratch;
  int64_t scratch_stride;
  Pick* picks;
  TokenLogprob* logprobs;
  int max_logprobs;
};

/// Overwrites the picks of rows with filters: pick_filter.cu.
void pick_filtered(const CudaStream& stream, const FullPickJob& job, int rows);
/// Log-probabilities of rows that ask for them: rank.cu.
void row_logprobs(const CudaStream& stream, const FullPickJob& job, int rows);

}  // namespace convoke::cuda
