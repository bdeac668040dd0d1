// Registers of CONVOKE_PICK_BYTES bytes for the pick kernels, on the compiler's vector types. To be
// included once by each instruction-set path, which is compiled with that path's flags. Everything
// is in an anonymous namespace and inlined: no function compiled for one path can be linked into
// another.
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "kernels/noise.h"

namespace convoke::cpu {
namespace {

inline constexpr int kBytes = CONVOKE_PICK_BYTES;
inline constexpr int kLanes = kBytes / 4;

typedef float VecF __attribute__((vector_size(CONVOKE_PICK_BYTES)));
typedef uint32_t VecU __attribute__((vector_size(CONVOKE_PICK_BYTES)));
typedef int32_t VecI __attribute__((vector_size(CONVOKE_PICK_BYTES)));
typedef float HalfF __attribute__((vector_size(CONVOKE_PICK_BYTES / 2)));
typedef uint32_t HalfU __attribute__((vector_size(CONVOKE_PICK_BYTES / 2)));
typedef double VecD __attribute__((vector_size(CONVOKE_PICK_BYTES)));
typedef uint64_t VecQ __attribute__((vector_size(CONVOKE_PICK_BYTES)));

template <typename T>
CONVOKE_LANE_INLINE T load(const void* from) {
  T t;
  std::memcpy(&t, from, sizeof t);
  return t;
}

template <typename T>
CONVOKE_LANE_INLINE void store(void* to, T t) {
  std::memcpy(to, &t, sizeof t);
}

CONVOKE_LANE_INLINE VecF splat_f(float x) {
  return VecF{} + x;
}
CONVOKE_LANE_INLINE VecU splat_u(uint32_t x) {
  return VecU{} + x;
}
CONVOKE_LANE_INLINE VecI splat_i(int32_t x) {
  return VecI{} + x;
}

CONVOKE_LANE_INLINE VecI iota() {
  VecI v;
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

/// Some lane of a >= that of b (false where either is NaN).
CONVOKE_LANE_INLINE bool any_at_least(VecF a, VecF b) {
#if CONVOKE_PICK_BYTES == 64
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ) != 0;
#elif CONVOKE_PICK_BYTES == 32
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GE_OQ)) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps(_mm_cmpge_ps((__m128)a, (__m128)b)) != 0;
#else
  bool any = false;
  for (int i = 0; i < kLanes; ++i) any |= a[i] >= b[i];
  return any;
#endif
}

/// Some lane of a > that of b.
CONVOKE_LANE_INLINE bool any_above(VecF a, VecF b) {
#if CONVOKE_PICK_BYTES == 64
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0;
#elif CONVOKE_PICK_BYTES == 32
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ)) != 0;
#elif defined(__SSE2__)
  return _mm_movemask_ps(_mm_cmpgt_ps((__m128)a, (__m128)b)) != 0;
#else
  bool any = false;
  for (int i = 0; i < kLanes; ++i) any |= a[i] > b[i];
  return any;
#endif
}

CONVOKE_LANE_INLINE VecF larger(VecF a, VecF b) {
  return a > b ? a : b;
}

CONVOKE_LANE_INLINE float largest_lane(VecF v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

/// The lane policy of kernels/noise.h.
struct VecLanes {
  using F = VecF;
  using U = VecU;
  static CONVOKE_LANE_INLINE F splat(float x) { return splat_f(x); }
  static CONVOKE_LANE_INLINE U splat_bits(uint32_t x) { return splat_u(x); }
  static CONVOKE_LANE_INLINE F add(F a, F b) { return a + b; }
  static CONVOKE_LANE_INLINE F sub(F a, F b) { return a - b; }
  static CONVOKE_LANE_INLINE F mul(F a, F b) { return a * b; }
  static CONVOKE_LANE_INLINE U bits(F x) { return (U)x; }
  static CONVOKE_LANE_INLINE F from_bits(U u) { return (F)u; }
  static CONVOKE_LANE_INLINE F to_float(U u) { return __builtin_convertvector((VecI)u, VecF); }
  static CONVOKE_LANE_INLINE F select_less(U a, U b, F x, F y) { return (VecI)a < (VecI)b ? x : y; }
  static CONVOKE_LANE_INLINE void multiply_wide(U a, uint32_t multiplier, U& high, U& low) {
#if CONVOKE_PICK_BYTES == 64
    const __m512i m = _mm512_set1_epi32(int(multiplier));
    const __m512i even = _mm512_mul_epu32((__m512i)a, m);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), m);
    low = (U)_mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CDAB);
    high = (U)_mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_CDAB);
#elif CONVOKE_PICK_BYTES == 32
    const __m256i m = _mm256_set1_epi32(int(multiplier));
    const __m256i even = _mm256_mul_epu32((__m256i)a, m);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), m);
    low = (U)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
    high = (U)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
#else
    const VecQ mask = VecQ{} + 0xffffffffu;
#if defined(__SSE2__)
    const __m128i m = _mm_set1_epi32(int(multiplier));
    const VecQ even = (VecQ)_mm_mul_epu32((__m128i)a, m);
    const VecQ odd = (VecQ)_mm_mul_epu32(_mm_srli_epi64((__m128i)a, 32), m);
#else
    const VecQ even = ((VecQ)a & mask) * multiplier;
    const VecQ odd = ((VecQ)a >> 32) * multiplier;
#endif
    low = (U)((even & mask) | (odd << 32));
    high = (U)((even >> 32) | (odd & ~mask));
#endif
  }
};

/// The lane policy of kernels/pick_weight.h.
struct VecDouble {
  using D = VecD;
  using Q = VecQ;
  static CONVOKE_LANE_INLINE D splat(double x) { return D{} + x; }
  static CONVOKE_LANE_INLINE Q splat_bits(uint64_t x) { return Q{} + x; }
  static CONVOKE_LANE_INLINE Q bits(D x) { return (Q)x; }
  static CONVOKE_LANE_INLINE D from_bits(Q q) { return (D)q; }
};

/// Interleaves within every 128 bits: (a0 b0 a1 b1) and (a2 b2 a3 b3), and pairs of them likewise.
CONVOKE_LANE_INLINE void transpose_quads(VecU& r0, VecU& r1, VecU& r2, VecU& r3) {
#if CONVOKE_PICK_BYTES == 64
  const __m512i a = _mm512_unpacklo_epi32((__m512i)r0, (__m512i)r1);
  const __m512i b = _mm512_unpacklo_epi32((__m512i)r2, (__m512i)r3);
  const __m512i c = _mm512_unpackhi_epi32((__m512i)r0, (__m512i)r1);
  const __m512i d = _mm512_unpackhi_epi32((__m512i)r2, (__m512i)r3);
  r0 = (VecU)_mm512_unpacklo_epi64(a, b);
  r1 = (VecU)_mm512_unpackhi_epi64(a, b);
  r2 = (VecU)_mm512_unpacklo_epi64(c, d);
  r3 = (VecU)_mm512_unpackhi_epi64(c, d);
#elif CONVOKE_PICK_BYTES == 32
  const __m256i a = _mm256_unpacklo_epi32((__m256i)r0, (__m256i)r1);
  const __m256i b = _mm256_unpacklo_epi32((__m256i)r2, (__m256i)r3);
  const __m256i c = _mm256_unpackhi_epi32((__m256i)r0, (__m256i)r1);
  const __m256i d = _mm256_unpackhi_epi32((__m256i)r2, (__m256i)r3);
  r0 = (VecU)_mm256_unpacklo_epi64(a, b);
  r1 = (VecU)_mm256_unpackhi_epi64(a, b);
  r2 = (VecU)_mm256_unpacklo_epi64(c, d);
  r3 = (VecU)_mm256_unpackhi_epi64(c, d);
#else
  const VecU a = __builtin_shufflevector(r0, r1, 0, 4, 1, 5);
  const VecU b = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
  const VecU c = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
  const VecU d = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
  r0 = __builtin_shufflevector(a, b, 0, 1, 4, 5);
  r1 = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  r2 = __builtin_shufflevector(c, d, 0, 1, 4, 5);
  r3 = __builtin_shufflevector(c, d, 2, 3, 6, 7);
#endif
}

/// The counters of 4 * kLanes consecutive tokens, so placed that after the rounds and a transpose
/// within 128 bits register i holds tokens [i * kLanes, (i + 1) * kLanes): lane 4 q + i starts as
/// counter i * kLanes / 4 + q.
CONVOKE_LANE_INLINE VecU counter_order() {
  VecU v;
  for (int lane = 0; lane < kLanes; ++lane) {
    v[lane] = uint32_t((lane % 4) * (kLanes / 4) + lane / 4);
  }
  return v;
}

/// At least the Gumbel variate of these bits: -log(-log u) <= -log(1 - u), taken from the exponent
/// of 1 - u alone.
CONVOKE_LANE_INLINE VecF gumbel_bound(VecU bits) {
  const VecU halved = ~bits >> 1;  // 2^31 (1 - u), rounded down; 0 gives a huge bound
  const VecU exponent = (VecU)VecLanes::to_float(halved) >> 23;
  // log2(1 - u) >= exponent - 127 - 31; the slack covers roundings here and in the variate.
  return (splat_f(158.0f) - VecLanes::to_float(exponent)) * splat_f(0.6931473f) + splat_f(1e-4f);
}

}  // namespace
}  // namespace convoke::cpu
