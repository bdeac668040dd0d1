// The loops of elementwise_kernels.h, written once for sixteen lanes; included by one .cc file per
// instruction set, which defines the macro that simd16.h asks for.
#include "kernels/cpu/elementwise_kernels.h"
#include "kernels/cpu/simd16.h"

namespace convoke::cpu::CONVOKE_SIMD_NAMESPACE {
namespace {

/// Calls step(offset, lanes) for each group of 16 elements; the last may have fewer.
template <typename Step>
CONVOKE_SIMD_INLINE void for_each_group(int64_t count, Step step) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) step(i, kLanes);
  if (i < count) step(i, int(count - i));
}

CONVOKE_SIMD_INLINE void store_lanes(void* target, DType dtype, int64_t offset, Floats value,
                                     int lanes) {
  if (dtype == DType::kBFloat16) {
    uint16_t* const halves = static_cast<uint16_t*>(target) + offset;
    lanes == kLanes ? store_bf16(halves, value) : store_bf16_some(halves, value, lanes);
  } else {
    float* const floats = static_cast<float*>(target) + offset;
    lanes == kLanes ? store(floats, value) : store_some(floats, value, lanes);
  }
}

template <typename Load>
CONVOKE_SIMD_INLINE void widen_halves(const uint16_t* x, float* y, int64_t count, Load load_all) {
  for_each_group(count, [&](int64_t i, int lanes) {
    const Floats value =
        lanes == kLanes ? load_all(x + i) : load_some_halves(x + i, lanes, load_all);
    store_lanes(y, DType::kFloat32, i, value + zero(), lanes);
  });
}

void widen_row(const void* x, DType dtype, float* y, int64_t count) {
  const auto* const halves = static_cast<const uint16_t*>(x);
  if (dtype == DType::kBFloat16) {
    widen_halves(halves, y, count, [](const uint16_t* p) { return load_bf16(p); });
  } else if (dtype == DType::kFloat16) {
    widen_halves(halves, y, count, [](const uint16_t* p) { return load_f16(p); });
  } else {
    const auto* const floats = static_cast<const float*>(x);
    for_each_group(count, [&](int64_t i, int lanes) {
      store_lanes(y, DType::kFloat32, i, load_lanes(floats + i, lanes) + zero(), lanes);
    });
  }
}

float inverse_rms_of_row(const float* x, int64_t count, float epsilon) {
  return inverse_rms(x, count, epsilon);
}

void scale_row(const float* x, float factor, const float* weight, void* y, DType dtype,
               int64_t count) {
  const Floats factors = broadcast(factor);
  for_each_group(count, [&](int64_t i, int lanes) {
    const Floats value = load_lanes(x + i, lanes) * factors * load_lanes(weight + i, lanes);
    store_lanes(y, dtype, i, value, lanes);
  });
}

void silu_mul_row(const float* gate, const float* up, void* y, DType dtype, int64_t count) {
  for_each_group(count, [&](int64_t i, int lanes) {
    const Floats x = load_lanes(gate + i, lanes);
    const Floats silu = x / (broadcast(1.f) + exp(-x));
    store_lanes(y, dtype, i, silu * load_lanes(up + i, lanes), lanes);
  });
}

constexpr ElementwiseKernels kKernels = {widen_row, inverse_rms_of_row, scale_row, silu_mul_row};

}  // namespace

const ElementwiseKernels* elementwise_kernels() {
  return &kKernels;
}

}  // namespace convoke::cpu::CONVOKE_SIMD_NAMESPACE
