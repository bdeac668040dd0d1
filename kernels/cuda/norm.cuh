// 1 / sqrt(mean(x^2) + epsilon), in orders that depend on the count alone.
#pragma once

#include "kernels/cuda/device.cuh"

namespace convoke::cuda {

inline constexpr int kNormThreads = 256;
inline constexpr int kNormWarps = kNormThreads / kWarp;

/// Of `count` values at x(i), by a block of kNormThreads: thread t sums elements t, t + 256, ... in
/// that order, a tree adds the lanes, and the warps follow in order. All threads get the result.
template <typename At>
__device__ __forceinline__ float block_inverse_rms(int64_t count, float epsilon, At x) {
  struct Sums {
    float of_warp[kNormWarps];
  };
  CONVOKE_SHARED(Sums, sums);
  float sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kNormThreads) {
    const float value = x(i);
    sum = fmaf(value, value, sum);
  }
  sum = warp_sum(sum);
  if (lane_index() == 0) sums.of_warp[warp_index()] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < kNormWarps; ++w) sum += sums.of_warp[w];
  return __fdiv_rn(1.0f, sqrtf(__fdiv_rn(sum, float(count)) + epsilon));
}

/// Of `count` values by one warp; lane l sums elements l, l + 32, ...
__device__ __forceinline__ float warp_inverse_rms(const float* x, int count, float epsilon) {
  float sum = 0;
  for (int i = lane_index(); i < count; i += kWarp) sum = fmaf(x[i], x[i], sum);
  sum = warp_sum(sum);
  return __fdiv_rn(1.0f, sqrtf(__fdiv_rn(sum, float(count)) + epsilon));
}

}  // namespace convoke::cuda
