// Matrices of random numbers (--load-format dummy), defined such that any slice of one can be made
// by itself, anywhere, with the same bits.
//
// Element e of the matrix, counted row by row, is number e % 32 of step e / 32. Sixteen xorshift
// generators (Marsaglia, "Xorshift RNGs", 2003; shifts 13, 17, 5) stand side by side; in a step
// each gives four bytes, which are added in two pairs: numbers 2 i and 2 i + 1 of the step. A sum
// of two random bytes is near enough to normal, and has 511 values. A generator is linear over the
// bits of its state, so 2^k of its steps are one 32 x 32 matrix of bits.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/dtype_convert.h"
#include "kernels/tensor.h"

namespace convoke {

struct RandomMatrix {
  uint64_t seed = 0;
  DType dtype = DType::kBFloat16;  ///< kFloat32, kBFloat16, kFloat16 or kFloat8E4M3
  int64_t rows = 0, cols = 0;
  float mean = 0;
  float deviation = 0;  ///< the standard deviation of its elements, and 0.4 of the largest
};

/// Some rows and columns of one, from this row and column on; how many is the receiver's to say.
struct RandomSlice {
  RandomMatrix matrix;
  int64_t row = 0, col = 0;
};

/// Writes the slice that has `to`'s extents; dtype as the matrix's.
void fill_random(const RandomSlice& slice, const TensorView& to);

/// Throws unless the slice lies in its matrix and is of its type.
void check_random_slice(const RandomSlice& slice, const TensorView& to);

/// What backends share. Constexpr, so for kernels on GPUs, too.
namespace random_core {

inline constexpr int kLanes = 16;
inline constexpr int kStepNumbers = 2 * kLanes;
inline constexpr int kLargestSum = 2 * 255;

constexpr uint32_t next_state(uint32_t x) {
  x ^= x << 13;
  x ^= x >> 17;
  x ^= x << 5;
  return x;
}

/// The first output of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014) from this state; output i is that from `state` + i * kSplitMixStep.
inline constexpr uint64_t kSplitMixStep = 0x9e3779b97f4a7c15u;
constexpr uint64_t split_mix(uint64_t state) {
  uint64_t z = state + kSplitMixStep;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// The state before step 0; never zero.
constexpr uint32_t first_state(uint64_t seed, int lane) {
  return uint32_t(split_mix(seed + uint64_t(lane) * kSplitMixStep) >> 32) | 1;
}

/// The two numbers of a state: the sum for the first in the lower half, for the second above it.
constexpr uint32_t sums_of(uint32_t state) {
  return (state & 0x00ff00ff) + ((state >> 8) & 0x00ff00ff);
}

/// Bit b of a state becomes bits[k][b] in 2^k steps, and a state what its bits become, added up
/// (exclusive or).
struct Jumps {
  static constexpr int kMost = 28;  ///< below 2^28 steps: matrices of up to 2^33 elements
  uint32_t bits[kMost][32];
};

constexpr uint32_t jump_once(uint32_t state, const uint32_t (&bits)[32]) {
  uint32_t sum = 0;
  for (int b = 0; b < 32; ++b) sum ^= (state >> b & 1) != 0 ? bits[b] : 0;
  return sum;
}

constexpr Jumps make_jumps() {
  Jumps jumps = {};
  for (int b = 0; b < 32; ++b) jumps.bits[0][b] = next_state(uint32_t{1} << b);
  for (int k = 1; k < Jumps::kMost; ++k) {
    for (int b = 0; b < 32; ++b) {
      jumps.bits[k][b] = jump_once(jumps.bits[k - 1][b], jumps.bits[k - 1]);
    }
  }
  return jumps;
}

/// The state after so many steps.
constexpr uint32_t jump(uint32_t state, int64_t steps, const Jumps& jumps) {
  for (int k = 0; steps != 0; ++k, steps >>= 1) {
    if ((steps & 1) != 0) state = jump_once(state, jumps.bits[k]);
  }
  return state;
}

/// What a sum means. Two random bytes have the variance 2 (256^2 - 1) / 12.
struct Numbers {
  float mean = 0;
  float unit = 0;  ///< deviation over that of a sum
  constexpr float operator()(uint32_t sum) const {
    return mean + float(int32_t(sum) - kLargestSum / 2) * unit;
  }
};
Numbers numbers_of(const RandomMatrix& matrix);

/// Finite values only, as are the two below.
constexpr uint16_t to_bfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/// Ties go up. Below half precision's normal range the mantissa is cut, not rounded.
constexpr uint16_t to_float16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = uint16_t((bits >> 16) & 0x8000);
  const int exponent = int((bits >> 23) & 0xff) - 127 + 15;
  const uint32_t mantissa = bits & 0x7fffff;
  if (exponent >= 31) return uint16_t(sign | 0x7bff);
  if (exponent <= 0) {
    const int shift = 14 - exponent;
    return uint16_t(sign | (shift > 24 ? 0 : (mantissa | 0x800000) >> shift));
  }
  const uint32_t half = (uint32_t(exponent) << 10) | (mantissa >> 13);
  const uint32_t rounded = half + ((mantissa >> 12) & 1);
  return uint16_t(sign | (rounded < 0x7bff ? rounded : 0x7bff));
}

}  // namespace random_core
}  // namespace convoke
