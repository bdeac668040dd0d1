// Weights of 8 bits (DType::kFloat8E4M3) on their way to bfloat16, which holds every value exactly.
//
// A line of 64 bytes holds four inputs of a panel's 16 outputs,
//   [4 quarters of the outputs][2 pairs of inputs][4 outputs][2 inputs]
// and becomes the two lines of 64 bytes that the bfloat16 layout has for these two pairs. That is
// the order in which the vector units interleave the upper and the lower bytes of the results. NaN
// (0x7f, 0xff) does not occur: packed_matrix.cc moves it into the output's scale.
//
// Functions are static, because files compiled for different instruction sets include this.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dtype_convert.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace convoke::cpu {

#if defined(__AVX2__)

/// The upper byte of a bfloat16 without its sign, looked up by the upper nibble of the code (sign
/// and three exponent bits), the biases being 7 and 127; of subnormals by the lower nibble, as is
/// their lower byte.
alignas(16) static constexpr uint8_t kE4m3High[16] = {60, 61, 62, 63, 64, 65, 66, 67,
                                                      60, 61, 62, 63, 64, 65, 66, 67};
alignas(16) static constexpr uint8_t kE4m3SubnormalHigh[16] = {0, 59, 59, 59, 60, 60, 60, 60};
alignas(16) static constexpr uint8_t kE4m3SubnormalLow[16] = {0, 0,    0x80, 0xc0,
                                                              0, 0x20, 0x40, 0x60};

#endif

#if defined(__AVX512BW__)

struct ExpandedLine {
  __m512i first, second;
};

[[gnu::always_inline]] static inline __m512i e4m3_table(const uint8_t* table) {
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
}

[[gnu::always_inline]] static inline ExpandedLine expand_line(__m512i codes) {
  const __m512i nibble = _mm512_set1_epi8(0x0f);
  const __m512i lower = _mm512_and_si512(codes, nibble);
  const __m512i upper = _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble);
  const __mmask64 subnormal = _mm512_testn_epi8_mask(codes, _mm512_set1_epi8(0x78));
  __m512i high = _mm512_shuffle_epi8(e4m3_table(kE4m3High), upper);
  high = _mm512_mask_shuffle_epi8(high, subnormal, e4m3_table(kE4m3SubnormalHigh), lower);
  // high | (codes & 0x80)
  high = _mm512_ternarylogic_epi64(high, codes, _mm512_set1_epi8(char(0x80)), 0xf8);
  __m512i low = _mm512_andnot_si512(nibble, _mm512_slli_epi16(codes, 4));
  low = _mm512_mask_shuffle_epi8(low, subnormal, e4m3_table(kE4m3SubnormalLow), lower);
  return {_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)};
}

static inline void expand_lines(const std::byte* from, int64_t lines, std::byte* to) {
  for (int64_t i = 0; i < lines; ++i) {
    const ExpandedLine line = expand_line(_mm512_loadu_si512(from + 64 * i));
    _mm512_storeu_si512(to + 128 * i, line.first);
    _mm512_storeu_si512(to + 128 * i + 64, line.second);
  }
}

#elif defined(__AVX2__)

static inline void expand_lines(const std::byte* from, int64_t lines, std::byte* to) {
  const auto table = [](const uint8_t* bytes) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
  };
  const __m256i high_of = table(kE4m3High), subnormal_high = table(kE4m3SubnormalHigh),
                subnormal_low = table(kE4m3SubnormalLow), nibble = _mm256_set1_epi8(0x0f);
  for (int64_t half = 0; half < 2 * lines; ++half) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32 * half));
    const __m256i lower = _mm256_and_si256(codes, nibble);
    const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(codes, 4), nibble);
    const __m256i subnormal =
        _mm256_cmpeq_epi8(_mm256_and_si256(codes, _mm256_set1_epi8(0x78)), _mm256_setzero_si256());
    const __m256i sign = _mm256_and_si256(codes, _mm256_set1_epi8(char(0x80)));
    const __m256i high = _mm256_or_si256(
        sign, _mm256_blendv_epi8(_mm256_shuffle_epi8(high_of, upper),
                                 _mm256_shuffle_epi8(subnormal_high, lower), subnormal));
    const __m256i low = _mm256_blendv_epi8(_mm256_andnot_si256(nibble, _mm256_slli_epi16(codes, 4)),
                                           _mm256_shuffle_epi8(subnormal_low, lower), subnormal);
    std::byte* const target = to + 128 * (half / 2) + 32 * (half % 2);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm256_unpacklo_epi8(low, high));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + 64), _mm256_unpackhi_epi8(low, high));
  }
}

#else

static inline void expand_lines(const std::byte* from, int64_t lines, std::byte* to) {
  for (int64_t quarter = 0; quarter < 4 * lines; ++quarter) {
    std::byte* const target = to + 128 * (quarter / 4) + 16 * (quarter % 4);
    for (int pair = 0; pair < 2; ++pair) {
      uint16_t values[8];
      for (int i = 0; i < 8; ++i) {
        values[i] = e4m3_to_bf16(uint8_t(from[16 * quarter + 8 * pair + i]));
      }
      __builtin_memcpy(target + 64 * pair, values, sizeof(values));
    }
  }
}

#endif

}  // namespace convoke::cpu
