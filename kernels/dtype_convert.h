// Scalar conversions between the float formats of checkpoints, activations and caches.
//
// Every function is always inlined: this header may be included from files that are compiled for
// one instruction set, whose out-of-line copies of shared functions would otherwise be linked into
// code that must run everywhere. What is constexpr is there for kernels on GPUs, too.
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

/// float8 e4m3 (DType::kFloat8E4M3), subnormals included; exact. NaN gives a quiet NaN.
[[gnu::always_inline]] constexpr float e4m3_to_float(uint8_t bits) {
  const uint32_t sign = uint32_t(bits & 0x80u) << 24;
  const uint32_t rest = uint32_t(bits & 0x7fu) << 20;  // exponent and mantissa at float's places
  // Normal: the exponent bias differs by 120. Subnormal: an integer multiple of 2^-9, made exact by
  // a subtraction of equal exponents.
  const uint32_t normal = rest + (120u << 23);
  const float subnormal = std::bit_cast<float>(rest + (121u << 23)) - 0x1p-6f;
  const uint32_t magnitude = rest == (0x7fu << 20)  ? 0x7fc00000u
                             : rest < (0x08u << 20) ? std::bit_cast<uint32_t>(subnormal)
                                                    : normal;
  return std::bit_cast<float>(sign | magnitude);
}

/// Every e4m3 value is a bfloat16.
[[gnu::always_inline]] constexpr uint16_t e4m3_to_bf16(uint8_t bits) {
  return uint16_t(std::bit_cast<uint32_t>(e4m3_to_float(bits)) >> 16);
}

/// Rounds to nearest, ties to even. There is no infinity: what rounds beyond 448 gives 448 with its
/// sign (PyTorch's cast gives NaN there). NaN stays NaN.
[[gnu::always_inline]] constexpr uint8_t float_to_e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return uint8_t(sign | 0x7fu);
  if (magnitude >= 0x43e00000u) return uint8_t(sign | 0x7eu);  // 448 and more
  if (magnitude < 0x3c800000u) {
    // Below 2^-6: adding 2^14 puts units of 2^-9 into the last mantissa place, and the addition
    // rounds to nearest even by itself.
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
    return uint8_t(sign | (std::bit_cast<uint32_t>(shifted) - 0x46800000u));
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return uint8_t(sign | ((rounded - (120u << 23)) >> 20));
}

}  // namespace convoke
