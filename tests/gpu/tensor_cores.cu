// One tensor-core product as the kernels use it, for tests of what they take for granted.
#include "kernels/cuda/device.cuh"
#include "tests/gpu/tensor_cores.h"

namespace convoke::cuda {
namespace {

/// A [16][16], B [16][8] and C [16][8] in memory, one warp (layout: kernels/cuda/device.cuh).
template <typename T>
__global__ void product_kernel(const uint16_t* a, const uint16_t* b, float* c) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  const auto pair = [](uint16_t low, uint16_t high) {
    return uint32_t(low) | uint32_t(high) << 16;
  };
  uint32_t left[4], right[2];
  float sums[4];
  for (int part = 0; part < 4; ++part) {
    const uint16_t* const from = a + (g + part % 2 * 8) * 16 + 2 * t + part / 2 * 8;
    left[part] = pair(from[0], from[1]);
    sums[part] = c[(g + part / 2 * 8) * 8 + 2 * t + part % 2];
  }
  for (int part = 0; part < 2; ++part) {
    const uint16_t* const from = b + (2 * t + part * 8) * 8 + g;
    right[part] = pair(from[0], from[8]);
  }
  mma_16x8x16<T>(sums, left, right);
  for (int part = 0; part < 4; ++part) {
    c[(g + part / 2 * 8) * 8 + 2 * t + part % 2] = sums[part];
  }
}

}  // namespace

void tensor_core_product(const CudaStream& stream, DType dtype, const uint16_t* a,
                         const uint16_t* b, float* c) {
  if (dtype == DType::kFloat16) {
    launch(stream, {1, kWarp}, product_kernel<Float16>, a, b, c);
  } else {
    launch(stream, {1, kWarp}, product_kernel<BFloat16>, a, b, c);
  }
}

}  // namespace convoke::cuda
