// The noise of the pick rule, defined once for every backend, drafter and test.
//
//   gumbel(seed, position, token) = -log(-log(u)),  u = (bits + 1/2) / 2^32
//
// bits come from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC'11) with key = {seed low, seed high} and counter = {token / 4, position low, position high,
// 0x436f6e76}; word token % 4 is used. Keyed by token id, never by rank or slice, so every shard
// and the drafter see the same noise.
//
// Order of operations. namespace noise_core holds the arithmetic once, as templates over a lane
// policy V: one float and one uint32 for the scalar functions below, a register of them for the
// vector kernels, a thread's registers on a GPU. Every float operation is one V::add, V::sub or
// V::mul, rounded to nearest on its own. Nothing is fused, on purpose: a fused multiply-add is a
// slow library call where the instruction is missing (the portable path, the drafter), and the
// polynomial does not need one. So the bits agree everywhere, provided that no compiler contracts
// a product and a sum (-ffp-contract=off; __fmul_rn and __fadd_rn in a CUDA policy).
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define CONVOKE_LANE_INLINE __host__ __device__ __forceinline__
#else
#define CONVOKE_LANE_INLINE inline __attribute__((always_inline))
#endif

namespace convoke {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// Natural logarithm of a positive normal float, within 1 unit in the last place or 1e-7 absolute.
float noise_log(float x);

/// Maps 32 random bits to a Gumbel variate. Finite for every input, never decreasing in `bits`; the
/// upper (winning) tail keeps the full resolution of the 32 bits.
float gumbel_from_bits(uint32_t bits);

/// The noise of one token at one absolute position.
float gumbel(uint64_t seed, int64_t position, int32_t token);

/// The largest value gumbel() can take: gumbel_from_bits(0xffffffff) = -log(-log(1 - 2^-33)),
/// rounded up. What bounds a token's chance before its noise is known.
inline constexpr float kLargestGumbel = 22.875f;

/// The mixing function of Pick::digest: h(token) * (bits(logit) + 1) as a 64-bit product, h a
/// bijection of 32 bits that is zero for no token of a real vocabulary. In a sum over tokens any
/// change of one logit, and any exchange of two different logits, changes the sum: the differences
/// h * d and (h1 - h2) * d are not zero and shorter than 64 bits.
uint64_t digest_mix(int32_t token, float logit);

namespace noise_core {

inline constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53;
inline constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57;
inline constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9;
inline constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85;
inline constexpr uint32_t kNoiseCounterWord = 0x436f6e76;

/// What the templates need of a lane policy V: types F (float lanes) and U (uint32 lanes, with the
/// operators + - * ^ & | ~ << >>), and the functions below. One lane:
struct ScalarLanes {
  using F = float;
  using U = uint32_t;
  static CONVOKE_LANE_INLINE F splat(float x) { return x; }
  static CONVOKE_LANE_INLINE U splat_bits(uint32_t x) { return x; }
  static CONVOKE_LANE_INLINE F add(F a, F b) { return a + b; }
  static CONVOKE_LANE_INLINE F sub(F a, F b) { return a - b; }
  static CONVOKE_LANE_INLINE F mul(F a, F b) { return a * b; }
  static CONVOKE_LANE_INLINE U bits(F x) {
    U u;
    std::memcpy(&u, &x, sizeof u);
    return u;
  }
  static CONVOKE_LANE_INLINE F from_bits(U u) {
    F x;
    std::memcpy(&x, &u, sizeof x);
    return x;
  }
  /// Rounded to nearest; lanes must be below 2^31.
  static CONVOKE_LANE_INLINE F to_float(U u) { return float(int32_t(u)); }
  /// a < b ? x : y, lane by lane. Lanes of a and b must be below 2^31.
  static CONVOKE_LANE_INLINE F select_less(U a, U b, F x, F y) {
    return int32_t(a) < int32_t(b) ? x : y;
  }
  /// The high and low halves of a * multiplier.
  static CONVOKE_LANE_INLINE void multiply_wide(U a, uint32_t multiplier, U& high, U& low) {
    const uint64_t product = uint64_t(a) * multiplier;
    high = U(product >> 32);
    low = U(product);
  }
};

/// Ten rounds, in place: c is a counter before and four random words after.
template <typename V>
CONVOKE_LANE_INLINE void philox(typename V::U& c0, typename V::U& c1, typename V::U& c2,
                                typename V::U& c3, uint32_t key0, uint32_t key1) {
  using U = typename V::U;
  for (int round = 0; round < 10; ++round) {
    U high0, low0, high1, low1;
    V::multiply_wide(c0, kPhiloxMultiplier0, high0, low0);
    V::multiply_wide(c2, kPhiloxMultiplier1, high1, low1);
    c0 = high1 ^ c1 ^ V::splat_bits(key0);
    c1 = low1;
    c2 = high0 ^ c3 ^ V::splat_bits(key1);
    c3 = low0;
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
}

/// e * ln 2 + log(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1] and an integer |e| < 2^14. The
/// polynomial is a minimax fit of (log(1 + f) - f + f^2 / 2) / f^3, relative error of the logarithm
/// 9e-10; ln 2 is split so that its product with e is exact.
template <typename V>
CONVOKE_LANE_INLINE typename V::F log_reduced(typename V::F f, typename V::F e) {
  using F = typename V::F;
  F p = V::splat(0x1.10352cp-4f);
  p = V::add(V::mul(p, f), V::splat(-0x1.db78cep-4f));
  p = V::add(V::mul(p, f), V::splat(0x1.e74c98p-4f));
  p = V::add(V::mul(p, f), V::splat(-0x1.fca04cp-4f));
  p = V::add(V::mul(p, f), V::splat(0x1.2339d8p-3f));
  p = V::add(V::mul(p, f), V::splat(-0x1.5558c8p-3f));
  p = V::add(V::mul(p, f), V::splat(0x1.99a470p-3f));
  p = V::add(V::mul(p, f), V::splat(-0x1.00000ep-2f));
  p = V::add(V::mul(p, f), V::splat(0x1.555548p-2f));
  const F f2 = V::mul(f, f);
  F tail = V::mul(V::mul(f2, f), p);
  tail = V::add(tail, V::mul(e, V::splat(-0x1.bd0106p-13f)));  // ln 2 - 355/512
  tail = V::sub(tail, V::mul(V::splat(0.5f), f2));
  return V::add(V::add(f, tail), V::mul(e, V::splat(0x1.63p-1f)));  // 355/512
}

template <typename V>
CONVOKE_LANE_INLINE typename V::F log(typename V::F x) {
  using U = typename V::U;
  constexpr uint32_t kSqrtHalf = 0x3f3504f3;
  // Moves the seam between exponents from 1 to sqrt(1/2), so that log(1 + f) needs no cancelling.
  const U shifted = V::bits(x) + V::splat_bits(0x3f800000 - kSqrtHalf);
  const typename V::F e = V::sub(V::to_float(shifted >> 23), V::splat(127.0f));
  const U mantissa = (shifted & V::splat_bits(0x007fffff)) + V::splat_bits(kSqrtHalf);
  return log_reduced<V>(V::sub(V::from_bits(mantissa), V::splat(1.0f)), e);
}

/// (z + 1/2) / 2^32 for z below 2^31, rounded once.
template <typename V>
CONVOKE_LANE_INLINE typename V::F unit_interval(typename V::U z) {
  const typename V::F high = V::mul(V::to_float(z >> 16), V::splat(65536.0f));
  const typename V::F low = V::add(V::to_float(z & V::splat_bits(0xffff)), V::splat(0.5f));
  return V::mul(V::add(high, low), V::splat(0x1p-32f));
}

/// -log(-log(u)). Above 1/2 the inner logarithm is taken of 1 - w with w = 1 - u exact in the
/// float's own resolution near 0, which is what separates the largest variates from each other.
template <typename V>
CONVOKE_LANE_INLINE typename V::F gumbel_from_bits(typename V::U bits) {
  using F = typename V::F;
  using U = typename V::U;
  const U sign = V::splat_bits(0) - (bits >> 31);  // all ones in the upper half
  const U z = bits ^ sign;                         // distance from the nearer end, below 2^31
  const F w = unit_interval<V>(z);                 // u, or 1 - u in the upper half
  // Lower half: log(w) as it is. Upper half: log(1 - w) = log(1 + f) + e ln 2 with
  // f = -w, e = 0 while 1 - w >= sqrt(1/2), else f = 1 - 2 w (exact), e = -1.
  constexpr uint32_t kSqrtHalf = 0x3f3504f3;
  const U shifted = V::bits(w) + V::splat_bits(0x3f800000 - kSqrtHalf);
  const F lower_e = V::sub(V::to_float(shifted >> 23), V::splat(127.0f));
  const U mantissa = (shifted & V::splat_bits(0x007fffff)) + V::splat_bits(kSqrtHalf);
  const F lower_f = V::sub(V::from_bits(mantissa), V::splat(1.0f));
  const U edge = V::splat_bits(0x3e95f61a);  // 1 - sqrt(1/2)
  const U w_bits = V::bits(w);
  const F upper_f =
      V::select_less(w_bits, edge, V::sub(V::splat(0.0f), w), V::sub(V::splat(1.0f), V::add(w, w)));
  const F upper_e = V::select_less(w_bits, edge, V::splat(0.0f), V::splat(-1.0f));
  const U half = bits >> 31;
  const U one = V::splat_bits(1);
  const F inner = log_reduced<V>(V::select_less(half, one, lower_f, upper_f),
                                 V::select_less(half, one, lower_e, upper_e));
  return V::sub(V::splat(0.0f), log<V>(V::sub(V::splat(0.0f), inner)));
}

/// The token's 32-bit factor in the digest.
template <typename V>
CONVOKE_LANE_INLINE typename V::U digest_factor(typename V::U token) {
  using U = typename V::U;
  U h = (token + V::splat_bits(0x9E3779B9)) * 0x85EBCA6Bu;
  h = (h ^ (h >> 15)) * 0xC2B2AE35u;
  return h ^ (h >> 16);
}

}  // namespace noise_core
}  // namespace convoke
