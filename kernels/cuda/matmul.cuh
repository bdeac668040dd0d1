// What the products of matmul.cu and matmul_float.cu have in common: the tree over the reduction
// groups, and what happens to a sum before it is stored.
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/packed_matrix.h"

namespace convoke::cuda {

/// ((v0 + v1) + (v2 + v3)) + ... over the first `count` of N values; both powers of two.
template <int N>
__device__ __forceinline__ float tree_sum(float (&v)[N], int count) {
#pragma unroll
  for (int step = 1; step < N; step *= 2) {
    if (step >= count) break;
#pragma unroll
    for (int i = 0; i + step < N; i += 2 * step) v[i] += v[i + step];
  }
  return v[0];
}

/// Where sums go.
struct MatmulOutput {
  void* y = nullptr;
  int64_t stride = 0;
  int64_t outputs = 0;
  const float* bias = nullptr;
  bool accumulate = false;
  bool gated = false;
};

__device__ __forceinline__ void store_sum(const MatmulOutput& out, int64_t row, int64_t output,
                                          float sum) {
  float* const y = static_cast<float*>(out.y) + row * out.stride + output;
  if (out.accumulate) sum = *y + sum;
  if (out.bias != nullptr) sum = sum + out.bias[output];
  *y = sum;
}

/// silu(gate) * up, as silu_mul of elementwise.cu. Y is the type of the output.
template <typename Y>
__device__ __forceinline__ void store_gated(const MatmulOutput& out, int64_t row, int64_t output,
                                            float gate, float up) {
  if (out.bias != nullptr) {
    gate = gate + out.bias[output];
    up = up + out.bias[out.outputs + output];
  }
  assign(static_cast<Y*>(out.y)[row * out.stride + output], silu(gate) * up);
}

/// Products with weights of 32 bits, without tensor cores: matmul_float.cu.
void matmul_float(const CudaStream& stream, const TensorView& x, const CudaPackedMatrix& weights,
                  const MatmulOutput& out);

}  // namespace convoke::cuda
