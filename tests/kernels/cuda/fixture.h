// What the tests of CUDA kernels by themselves share. They run on an emulated device, or, with
// CONVOKE_TEST_ON_GPU, on a real one (tests/gpu). Where the two may differ, the bounds are those of
// the real one, unless it is said.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "tests/kernels/matmul_fixture.h"
#include "tests/kernels/test_team.h"
#include "tests/support/cuda_device/device_call.h"
#if !defined(CONVOKE_TEST_ON_GPU)
#include "tests/support/cuda_emulation/emulation.h"
#endif

namespace convoke::cuda {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Sanitizers make everything many times slower; they get fewer combinations of the same kinds.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

#if defined(CONVOKE_TEST_ON_GPU)
inline constexpr bool kOnGpu = true;
#else
inline constexpr bool kOnGpu = false;
#endif

/// Runs what it is given under every order of threads and blocks. A result that depends on the
/// order lacks a barrier. A real device has no order to choose: there it runs a few times.
template <typename Run>
void under_every_schedule(Run run) {
#if defined(CONVOKE_TEST_ON_GPU)
  for (int i = 0; i < 5; ++i) run();
#else
  using emulation::Schedule;
  for (const Schedule schedule : emulation::kSchedules) {
    SCOPED_TRACE(testing::Message() << "schedule " << int(schedule));
    emulation::set_schedule(schedule, 17);
    run();
    emulation::set_schedule(Schedule::kInOrder);
  }
#endif
}

class Normal {
 public:
  explicit Normal(uint32_t seed, float scale = 1) : engine_(seed), scale_(scale) {}
  float operator()() { return scale_ * normal_(engine_); }
  int below(int end) { return int(engine_() % uint32_t(end)); }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
  float scale_;
};

/// Whether the two views hold the same bits.
inline testing::AssertionResult same_bits(const TensorView& a, const TensorView& b) {
  if (a.rows != b.rows || a.cols != b.cols || a.dtype != b.dtype) {
    return testing::AssertionFailure() << "shapes differ";
  }
  const size_t size = dtype_size(a.dtype);
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.cols; ++c) {
      if (std::memcmp(a.row<std::byte>(r) + size_t(c) * size,
                      b.row<std::byte>(r) + size_t(c) * size, size) != 0) {
        return testing::AssertionFailure() << "row " << r << " column " << c << ": "
                                           << cpu::load(a, r, c) << " and " << cpu::load(b, r, c);
      }
    }
  }
  return testing::AssertionSuccess();
}

/// Whether every |a - b| <= relative * |b| + absolute, and none is NaN.
inline testing::AssertionResult near(const TensorView& a, const TensorView& b, double relative,
                                     double absolute) {
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.cols; ++c) {
      const double x = cpu::load(a, r, c), y = cpu::load(b, r, c);
      if (!(std::abs(x - y) <= relative * std::abs(y) + absolute)) {
        return testing::AssertionFailure()
               << "row " << r << " column " << c << ": " << x << " and " << y;
      }
    }
  }
  return testing::AssertionSuccess();
}

/// The relative error of one rounding to a type.
inline double rounding(DType dtype) {
  return dtype == DType::kBFloat16 ? 0x1p-8 : dtype == DType::kFloat16 ? 0x1p-11 : 0x1p-24;
}

}  // namespace convoke::cuda
