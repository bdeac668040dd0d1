// Scalar conversions between the float formats of checkpoints, activations and caches.
//
// Every function is always inlined: this header may be included from files that are compiled for
// one instruction set, whose out-of-line copies of shared functions would otherwise be linked into
// code that must run everywhere.
#pragma once

#include <bit>
#include <cstdint>

namespace convoke {

/// bfloat16 is the upper half of a float; exact.
[[gnu::always_inline]] inline float bf16_to_float(uint16_t bits) {
  return std::bit_cast<float>(uint32_t(bits) << 16);
}

/// Rounds to nearest, ties to even; overflow gives infinity, NaN stays a (quiet) NaN.
[[gnu::always_inline]] inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40u;
  return uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

/// IEEE binary16, subnormals included; exact.
[[gnu::always_inline]] inline float fp16_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000u) << 16;
  const uint32_t rest = uint32_t(bits & 0x7fffu) << 13;  // exponent and mantissa at float's places
  // Normal: the exponent bias differs by 112. Infinity and NaN: 112 more. Subnormal: the value is
  // an integer multiple of 2^-24, made exact by a subtraction of equal exponents.
  const uint32_t normal = rest + (112u << 23);
  const uint32_t special = rest + (224u << 23);
  const float subnormal = std::bit_cast<float>(rest + (113u << 23)) - 0x1p-14f;
  const uint32_t magnitude = rest >= (0x7c00u << 13)  ? special
                             : rest < (0x0400u << 13) ? std::bit_cast<uint32_t>(subnormal)
                                                      : normal;
  return std::bit_cast<float>(sign | magnitude);
}

/// Rounds to nearest, ties to even; overflow gives infinity, NaN stays a (quiet) NaN.
[[gnu::always_inline]] inline uint16_t float_to_fp16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // rounds to 2^16 or more
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 puts units of 2^-24 into the last mantissa place, and the addition
    // rounds to nearest even by itself.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return uint16_t(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return uint16_t(sign | ((rounded - (112u << 23)) >> 13));
}

}  // namespace convoke
