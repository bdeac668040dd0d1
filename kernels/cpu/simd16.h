// Sixteen float lanes with one meaning on every instruction set, for the kernels that are written
// once and compiled once per instruction set (elementwise_*.cc, attention_*.cc).
//
// A .cc file defines CONVOKE_SIMD_AVX512 or CONVOKE_SIMD_AVX2 (or neither: portable) and includes
// this. Everything lands in a namespace named after the instruction set, so several copies live in
// one program and the path is chosen per call.
//
// Exactness: every operation is a fixed sequence of IEEE operations per lane. A lane's bits depend
// on that lane alone: not on which lane it is, not on whether the vector is a tail. The portable
// path has no fused operation, so its fma() rounds the product; a path's bits are its own anyway.
//
// These files are compiled with wider instruction sets than the machine may have. To keep such code
// out of functions that the linker merges across files, they define nothing outside the namespace
// and use no inline library function that computes on floats or copies arrays.
#pragma once

#include <cstdint>

#if defined(CONVOKE_SIMD_AVX512) || defined(CONVOKE_SIMD_AVX2)
#include <immintrin.h>
#endif

#if defined(CONVOKE_SIMD_AVX512)
#define CONVOKE_SIMD_NAMESPACE avx512
#define CONVOKE_SIMD_BYTES 64
#elif defined(CONVOKE_SIMD_AVX2)
#define CONVOKE_SIMD_NAMESPACE avx2
#define CONVOKE_SIMD_BYTES 32
#else
#define CONVOKE_SIMD_NAMESPACE portable
#define CONVOKE_SIMD_BYTES 16
#endif
#define CONVOKE_SIMD_INLINE inline __attribute__((always_inline))

namespace convoke::cpu::CONVOKE_SIMD_NAMESPACE {

inline constexpr int kLanes = 16;
inline constexpr int kNativeLanes = CONVOKE_SIMD_BYTES / 4;
inline constexpr int kParts = kLanes / kNativeLanes;

typedef float NativeFloats __attribute__((vector_size(CONVOKE_SIMD_BYTES)));
typedef int32_t NativeInts __attribute__((vector_size(CONVOKE_SIMD_BYTES)));
typedef uint32_t NativeWords __attribute__((vector_size(CONVOKE_SIMD_BYTES)));
typedef uint16_t NativeHalves __attribute__((vector_size(CONVOKE_SIMD_BYTES / 2)));

// --- One native vector ---

CONVOKE_SIMD_INLINE NativeFloats native_broadcast(float value) {
#if defined(CONVOKE_SIMD_AVX512)
  return _mm512_set1_ps(value);
#elif defined(CONVOKE_SIMD_AVX2)
  return _mm256_set1_ps(value);
#else
  return NativeFloats{value, value, value, value};
#endif
}

CONVOKE_SIMD_INLINE NativeFloats native_fma(NativeFloats a, NativeFloats b, NativeFloats c) {
#if defined(CONVOKE_SIMD_AVX512)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(CONVOKE_SIMD_AVX2)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

/// a > b ? a : b, so b when either is NaN.
CONVOKE_SIMD_INLINE NativeFloats native_max(NativeFloats a, NativeFloats b) {
#if defined(CONVOKE_SIMD_AVX512)
  return _mm512_max_ps(a, b);
#elif defined(CONVOKE_SIMD_AVX2)
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

/// a < b ? a : b, so b when either is NaN.
CONVOKE_SIMD_INLINE NativeFloats native_min(NativeFloats a, NativeFloats b) {
#if defined(CONVOKE_SIMD_AVX512)
  return _mm512_min_ps(a, b);
#elif defined(CONVOKE_SIMD_AVX2)
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

CONVOKE_SIMD_INLINE NativeWords widen(NativeHalves halves) {
#if defined(CONVOKE_SIMD_AVX512)
  return (NativeWords)_mm512_cvtepu16_epi32((__m256i)halves);
#elif defined(CONVOKE_SIMD_AVX2)
  return (NativeWords)_mm256_cvtepu16_epi32((__m128i)halves);
#else
  return __builtin_convertvector(halves, NativeWords);
#endif
}

/// The low halves of the words.
CONVOKE_SIMD_INLINE NativeHalves narrow(NativeWords words) {
#if defined(CONVOKE_SIMD_AVX512)
  return (NativeHalves)_mm512_cvtepi32_epi16((__m512i)words);
#else
  return __builtin_convertvector(words, NativeHalves);
#endif
}

/// binary16 to binary32, exact; a signalling NaN may come out quiet.
CONVOKE_SIMD_INLINE NativeFloats widen_half_floats(NativeHalves halves) {
#if defined(CONVOKE_SIMD_AVX512)
  return _mm512_cvtph_ps((__m256i)halves);
#elif defined(CONVOKE_SIMD_AVX2)
  return _mm256_cvtph_ps((__m128i)halves);
#else
  // Exponent and fraction move to their places and the bias is mended by a multiplication by 2^112,
  // which is exact and also normalises subnormals. Infinity and NaN get the full exponent.
  const NativeWords words = widen(halves);
  const NativeWords magnitude = (words & 0x7fffu) << 13;
  const NativeWords special = NativeWords(magnitude >= 0x0f800000u) & 0x7f800000u;
  const NativeFloats finite = (NativeFloats)magnitude * 0x1p112f;
  return (NativeFloats)((NativeWords)finite | special | ((words & 0x8000u) << 16));
#endif
}

// --- Sixteen lanes ---

struct Floats {
  NativeFloats part[kParts];
};

// NOLINTBEGIN(bugprone-macro-parentheses)
#define CONVOKE_SIMD_PARTWISE(expression)                                               \
  Floats result;                                                                        \
  _Pragma("GCC unroll 4") for (int i = 0; i < kParts; ++i) result.part[i] = expression; \
  return result
// NOLINTEND(bugprone-macro-parentheses)

CONVOKE_SIMD_INLINE Floats operator+(Floats a, Floats b) {
  CONVOKE_SIMD_PARTWISE(a.part[i] + b.part[i]);
}
CONVOKE_SIMD_INLINE Floats operator-(Floats a, Floats b) {
  CONVOKE_SIMD_PARTWISE(a.part[i] - b.part[i]);
}
CONVOKE_SIMD_INLINE Floats operator*(Floats a, Floats b) {
  CONVOKE_SIMD_PARTWISE(a.part[i] * b.part[i]);
}
CONVOKE_SIMD_INLINE Floats operator/(Floats a, Floats b) {
  CONVOKE_SIMD_PARTWISE(a.part[i] / b.part[i]);
}
CONVOKE_SIMD_INLINE Floats operator-(Floats a) {
  CONVOKE_SIMD_PARTWISE(-a.part[i]);
}
/// a * b + c, rounded once where the instruction set can.
CONVOKE_SIMD_INLINE Floats fma(Floats a, Floats b, Floats c) {
  CONVOKE_SIMD_PARTWISE(native_fma(a.part[i], b.part[i], c.part[i]));
}
CONVOKE_SIMD_INLINE Floats max(Floats a, Floats b) {
  CONVOKE_SIMD_PARTWISE(native_max(a.part[i], b.part[i]));
}
CONVOKE_SIMD_INLINE Floats min(Floats a, Floats b) {
  CONVOKE_SIMD_PARTWISE(native_min(a.part[i], b.part[i]));
}
CONVOKE_SIMD_INLINE Floats broadcast(float value) {
  CONVOKE_SIMD_PARTWISE(native_broadcast(value));
}
CONVOKE_SIMD_INLINE Floats zero() {
  CONVOKE_SIMD_PARTWISE(NativeFloats{});
}

template <typename Native, typename T>
CONVOKE_SIMD_INLINE Native load_native(const T* source) {
  Native native;
  __builtin_memcpy(&native, source, sizeof(native));
  return native;
}

CONVOKE_SIMD_INLINE Floats load(const float* source) {
  CONVOKE_SIMD_PARTWISE(load_native<NativeFloats>(source + i * kNativeLanes));
}
CONVOKE_SIMD_INLINE Floats load_bf16(const uint16_t* source) {
  CONVOKE_SIMD_PARTWISE(
      (NativeFloats)(widen(load_native<NativeHalves>(source + i * kNativeLanes)) << 16));
}
CONVOKE_SIMD_INLINE Floats load_f16(const uint16_t* source) {
  CONVOKE_SIMD_PARTWISE(widen_half_floats(load_native<NativeHalves>(source + i * kNativeLanes)));
}
/// Of 16 pairs of bf16, the first ones.
CONVOKE_SIMD_INLINE Floats load_bf16_firsts(const uint16_t* source) {
  CONVOKE_SIMD_PARTWISE(
      (NativeFloats)(load_native<NativeWords>(source + 2 * i * kNativeLanes) << 16));
}
/// Of 16 pairs of bf16, the second ones.
CONVOKE_SIMD_INLINE Floats load_bf16_seconds(const uint16_t* source) {
  CONVOKE_SIMD_PARTWISE(
      (NativeFloats)(load_native<NativeWords>(source + 2 * i * kNativeLanes) & 0xffff0000u));
}

/// A copy of fewer than 16 elements.
template <typename T>
CONVOKE_SIMD_INLINE void copy_some(T* target, const T* source, int count) {
  for (int i = 0; i < count; ++i) target[i] = source[i];
}

/// The first `count` (0..16) lanes from memory, the others zero; reads nothing past them.
CONVOKE_SIMD_INLINE Floats load_some(const float* source, int count) {
#if defined(CONVOKE_SIMD_AVX512)
  return {{_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), source)}};
#else
  float lanes[kLanes] = {};
  copy_some(lanes, source, count);
  return load(lanes);
#endif
}
/// load or load_some: `lanes` is 16 except at the end of a row.
CONVOKE_SIMD_INLINE Floats load_lanes(const float* source, int lanes) {
  return lanes == kLanes ? load(source) : load_some(source, lanes);
}
template <typename Load>
CONVOKE_SIMD_INLINE Floats load_some_halves(const uint16_t* source, int count, Load load_all) {
  uint16_t lanes[kLanes] = {};
  copy_some(lanes, source, count);
  return load_all(lanes);
}

CONVOKE_SIMD_INLINE void store(float* target, Floats value) {
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    __builtin_memcpy(target + i * kNativeLanes, &value.part[i], sizeof(NativeFloats));
  }
}
CONVOKE_SIMD_INLINE void store_some(float* target, Floats value, int count) {
#if defined(CONVOKE_SIMD_AVX512)
  _mm512_mask_storeu_ps(target, __mmask16((1u << count) - 1), value.part[0]);
#else
  float lanes[kLanes];
  store(lanes, value);
  copy_some(target, lanes, count);
#endif
}

/// Round to nearest even, done on the bits: subnormals are kept (the conversion instructions flush
/// them) and NaN stays NaN.
CONVOKE_SIMD_INLINE NativeHalves round_to_bf16(NativeFloats value) {
  const NativeWords bits = (NativeWords)value;
  const NativeWords rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const NativeWords quiet = (bits >> 16) | 0x40u;
  return narrow((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}
CONVOKE_SIMD_INLINE void store_bf16(uint16_t* target, Floats value) {
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    const NativeHalves halves = round_to_bf16(value.part[i]);
    __builtin_memcpy(target + i * kNativeLanes, &halves, sizeof(halves));
  }
}
CONVOKE_SIMD_INLINE void store_bf16_some(uint16_t* target, Floats value, int count) {
  uint16_t lanes[kLanes];
  store_bf16(lanes, value);
  copy_some(target, lanes, count);
}

/// Lanes whose index is in [begin, end) from `value`, the others from `other`.
CONVOKE_SIMD_INLINE Floats select_range(Floats value, Floats other, int begin, int end) {
#if defined(CONVOKE_SIMD_AVX512)
  const auto upto = [](int n) { return n <= 0 ? 0u : n >= kLanes ? 0xffffu : (1u << n) - 1; };
  const __mmask16 mask = __mmask16(upto(end) & ~upto(begin));
  return {{_mm512_mask_mov_ps(other.part[0], mask, value.part[0])}};
#else
  float lanes[kLanes], others[kLanes];
  store(lanes, value);
  store(others, other);
  for (int i = 0; i < kLanes; ++i) lanes[i] = begin <= i && i < end ? lanes[i] : others[i];
  return load(lanes);
#endif
}

/// Folds the lanes as a fixed tree: i with i + 8, then + 4, + 2, + 1.
template <typename Combine>
CONVOKE_SIMD_INLINE float fold(Floats value, Combine combine) {
#if defined(CONVOKE_SIMD_AVX512)
  __m512 v = value.part[0];
  v = combine(v, _mm512_shuffle_f32x4(v, v, 0x4e));
  v = combine(v, _mm512_shuffle_f32x4(v, v, 0xb1));
  v = combine(v, _mm512_permute_ps(v, 0x4e));
  v = combine(v, _mm512_permute_ps(v, 0xb1));
  return _mm512_cvtss_f32(v);
#else
  float lanes[kLanes];
  store(lanes, value);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      const NativeFloats a = native_broadcast(lanes[i]), b = native_broadcast(lanes[i + half]);
      lanes[i] = combine(a, b)[0];
    }
  }
  return lanes[0];
#endif
}
CONVOKE_SIMD_INLINE float sum_lanes(Floats value) {
  return fold(value, [](NativeFloats a, NativeFloats b) { return a + b; });
}
CONVOKE_SIMD_INLINE float max_lanes(Floats value) {
  return fold(value, [](NativeFloats a, NativeFloats b) { return native_max(a, b); });
}

// --- Exponential ---

/// e^x = 2^n * e^r with n = round(x / ln 2), |r| <= ln 2 / 2: e^r by its Taylor series up to r^7
/// (what is left out is below 0.1 ulp). ln 2 is taken off in two parts of which the first has 9
/// bits, so n times it is exact. `power` is 1.5 * 2^23 + n: its low bits are n.
CONVOKE_SIMD_INLINE NativeFloats exp_fraction(NativeFloats x, NativeFloats& power) {
  const NativeFloats magic = native_broadcast(0x1.8p23f);
  power = native_fma(x, native_broadcast(0x1.715476p0f), magic);
  const NativeFloats n = power - magic;
  NativeFloats r = native_fma(n, native_broadcast(-0x1.63p-1f), x);
  r = native_fma(n, native_broadcast(0x1.bd0106p-13f), r);
  constexpr float kTaylor[] = {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f};
  NativeFloats sum = native_broadcast(1.f / 5040);
#pragma GCC unroll 8
  for (float coefficient : kTaylor) sum = native_fma(sum, r, native_broadcast(coefficient));
  return sum;
}

CONVOKE_SIMD_INLINE NativeInts exponent_of(NativeFloats power) {
  return (NativeInts)power - 0x4b400000;  // the bits of 1.5 * 2^23
}
/// 2^n for n in [-126, 127].
CONVOKE_SIMD_INLINE NativeFloats power_of_two(NativeInts n) {
  return (NativeFloats)((n + 127) << 23);
}

/// e^x over the whole range, within 2 ulp: infinity above, subnormals and zero below, NaN stays.
CONVOKE_SIMD_INLINE Floats exp(Floats x) {
  Floats result;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    const NativeFloats limited =
        native_max(native_broadcast(-104.f), native_min(native_broadcast(89.f), x.part[i]));
    NativeFloats power;
    const NativeFloats fraction = exp_fraction(limited, power);
    const NativeInts n = exponent_of(power);
    const NativeInts half = n >> 1;  // 2^n itself may be out of range, its halves are not
    result.part[i] = fraction * power_of_two(half) * power_of_two(n - half);
  }
  return result;
}

/// e^x for x <= 0, with results below the normal range (x < -87.3) cut to zero: they cannot matter
/// in a softmax and subnormals are slow. NaN stays.
CONVOKE_SIMD_INLINE Floats exp_of_nonpositive(Floats x) {
  Floats result;
#pragma GCC unroll 4
  for (int i = 0; i < kParts; ++i) {
    NativeFloats power;
    const NativeFloats fraction = exp_fraction(x.part[i], power);
    const NativeFloats value = fraction * power_of_two(exponent_of(power));
    result.part[i] = x.part[i] < -87.3f ? NativeFloats{} : value;
  }
  return result;
}

#undef CONVOKE_SIMD_PARTWISE

// --- Norm ---

/// 1 / sqrt(mean(x^2) + epsilon); the squares are summed in an order fixed by `count` alone.
CONVOKE_SIMD_INLINE float inverse_rms(const float* x, int64_t count, float epsilon) {
  // Four running sums of sixteen lanes, so that additions need not wait for each other.
  Floats sums[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const Floats value = load(x + i + k * kLanes);
      sums[k] = fma(value, value, sums[k]);
    }
  }
  for (; i < count; i += kLanes) {
    const Floats value = load_lanes(x + i, count - i < kLanes ? int(count - i) : kLanes);
    sums[0] = fma(value, value, sums[0]);
  }
  const float sum = sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
  return 1.f / __builtin_sqrtf(sum / float(count) + epsilon);
}

}  // namespace convoke::cpu::CONVOKE_SIMD_NAMESPACE
