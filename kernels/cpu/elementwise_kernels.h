// What elementwise.cc asks of each instruction set: loops over contiguous elements of one row.
#pragma once

#include <cstdint>

#include "kernels/tensor.h"

namespace convoke::cpu {

struct ElementwiseKernels {
  /// y[i] = float(x[i]) + 0.0f; `dtype` is x's: float32, bfloat16 or float16.
  void (*widen)(const void* x, DType dtype, float* y, int64_t count);
  /// 1 / sqrt(mean(x^2) + epsilon); the squares are summed in an order fixed by `count` alone.
  float (*inverse_rms)(const float* x, int64_t count, float epsilon);
  /// y[i] = x[i] * factor * weight[i], into float32 or bfloat16.
  void (*scale)(const float* x, float factor, const float* weight, void* y, DType dtype,
                int64_t count);
  /// y[i] = gate[i] / (1 + exp(-gate[i])) * up[i], into float32 or bfloat16.
  void (*silu_mul)(const float* gate, const float* up, void* y, DType dtype, int64_t count);
};

/// Null where the compiler's target has no such instruction set.
namespace portable {
const ElementwiseKernels* elementwise_kernels();
}
namespace avx2 {
const ElementwiseKernels* elementwise_kernels();
}
namespace avx512 {
const ElementwiseKernels* elementwise_kernels();
}

}  // namespace convoke::cpu
