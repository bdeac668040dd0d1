// The arithmetic of top-k, top-p and min-p, defined once for every backend: exp(-d) as a
// fixed-point integer, in the same order of operations for one lane and for many. As in noise.h
// nothing is fused. Included by the CPU's instruction-set paths: everything must stay inlined into
// its caller.
#pragma once

#include <limits>

#include "kernels/noise.h"
#include "kernels/pick.h"

namespace convoke::pick_core {

/// Fixed-point weights: exp(-d) * 2^44 as an integer. Integer sums do not depend on their order, so
/// totals and cut-offs are the same for every split of the work. 2^19 tokens fit.
inline constexpr int kWeightBits = 44;
inline constexpr int64_t kMaxFilterVocabulary = int64_t(1) << 19;

/// Distances from the maximum fall into buckets 1/32 wide; the last one holds all from 32 on, whose
/// weights are zero.
inline constexpr int kWeightBuckets = 1024;
inline constexpr float kBucketsPerUnit = 32.0f;
inline constexpr float kWeightless = kWeightBuckets / kBucketsPerUnit;

/// Most rows have the borders of their filters nearer than this to the maximum; what lies beyond
/// weighs little and need not be filed. A multiple of the bucket width.
inline constexpr float kNearDistance = 12.0f;

/// One double lane; the vector paths have their own.
struct ScalarDouble {
  using D = double;
  using Q = uint64_t;
  static CONVOKE_LANE_INLINE D splat(double x) { return x; }
  static CONVOKE_LANE_INLINE Q splat_bits(uint64_t x) { return x; }
  static CONVOKE_LANE_INLINE Q bits(D x) {
    Q q;
    std::memcpy(&q, &x, sizeof q);
    return q;
  }
  static CONVOKE_LANE_INLINE D from_bits(Q q) {
    D x;
    std::memcpy(&x, &q, sizeof x);
    return x;
  }
};

/// exp(-d) * 2^exponent for d >= 0 (infinity too), relative error below 1e-14 up to d = 45, where
/// it stays. Cody-Waite reduction by ln 2 in two parts, Taylor polynomial of degree 11 on |r| <= ln
/// 2 / 2; separate multiplications and additions.
template <typename V>
CONVOKE_LANE_INLINE typename V::D scaled_exp(typename V::D d, int exponent) {
  using D = typename V::D;
  using Q = typename V::Q;
  const D capped = d < V::splat(45.0) ? d : V::splat(45.0);
  const D magic = V::splat(0x1.8p52);
  const D rounded = magic - capped * V::splat(0x1.71547652b82fep+0);  // -d / ln 2
  const D n = rounded - magic;
  // ln 2 = high + low; high has 21 trailing zero bits, so n * high is exact.
  const D r = (V::splat(0.0) - capped - n * V::splat(0x1.62e42feep-1)) -
              n * V::splat(0x1.a39ef35793c76p-33);
  D p = V::splat(1.0 / 39916800);
  p = p * r + V::splat(1.0 / 3628800);
  p = p * r + V::splat(1.0 / 362880);
  p = p * r + V::splat(1.0 / 40320);
  p = p * r + V::splat(1.0 / 5040);
  p = p * r + V::splat(1.0 / 720);
  p = p * r + V::splat(1.0 / 120);
  p = p * r + V::splat(1.0 / 24);
  p = p * r + V::splat(1.0 / 6);
  p = p * r + V::splat(0.5);
  p = p * r + V::splat(1.0);
  p = p * r + V::splat(1.0);
  const Q shift = (V::bits(rounded) + V::splat_bits(uint64_t(exponent))) << 52;
  return V::from_bits(V::bits(p) + shift);
}

/// The weight of a distance nearer than kNearDistance: round(exp(-d) * 2^kWeightBits).
template <typename V>
CONVOKE_LANE_INLINE typename V::Q near_weight(typename V::D d) {
  const auto shifted = scaled_exp<V>(d, kWeightBits) + V::splat(0x1p52);
  return V::bits(shifted) - V::splat_bits(uint64_t(0x433) << 52);
}

/// The weight of any other distance, to be truncated to an integer (below 2^27): the same in single
/// precision, which is plenty for tokens of so little weight, and they are most of a row.
template <typename V>
CONVOKE_LANE_INLINE typename V::F far_weight(typename V::F d) {
  using F = typename V::F;
  const F capped = d < V::splat(kWeightless) ? d : V::splat(kWeightless);
  const F magic = V::splat(0x1.8p23f);
  const F rounded = magic - capped * V::splat(0x1.715476p+0f);
  const F n = rounded - magic;
  const F r = (V::splat(0.0f) - capped - n * V::splat(0x1.63p-1f)) - n * V::splat(-0x1.bd0106p-13f);
  F p = V::splat(1.0f / 720);
  p = p * r + V::splat(1.0f / 120);
  p = p * r + V::splat(1.0f / 24);
  p = p * r + V::splat(1.0f / 6);
  p = p * r + V::splat(0.5f);
  p = p * r + V::splat(1.0f);
  p = p * r + V::splat(1.0f);
  return V::from_bits(V::bits(p) + ((V::bits(rounded) + V::splat_bits(kWeightBits)) << 23));
}

CONVOKE_LANE_INLINE uint64_t weight(float d) {
  if (d < kNearDistance) return near_weight<ScalarDouble>(double(d));
  return uint64_t(far_weight<noise_core::ScalarLanes>(d));
}

/// The distance of x below the maximum; zero at the maximum even where both are infinite.
CONVOKE_LANE_INLINE float weight_distance(float x, float maximum) {
  return x == maximum ? 0.0f : maximum - x;
}

/// The largest distance whose exp(-d) is at least min_p. Beyond 44 no noise can lift a token to the
/// top, so it does not matter what is kept.
CONVOKE_LANE_INLINE float min_p_reach(float min_p) {
  using noise_core::ScalarLanes;
  const auto kept = [min_p](float d) {
    return scaled_exp<ScalarDouble>(double(d), 0) >= double(min_p);
  };
  if (kept(44.0f)) return std::numeric_limits<float>::infinity();
  uint32_t low = 0, high = ScalarLanes::bits(44.0f);  // floats order as their bits
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    if (kept(ScalarLanes::from_bits(middle))) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return ScalarLanes::from_bits(low);
}

/// Whether some filter may remove a token of such a vocabulary.
CONVOKE_LANE_INLINE bool has_filters(const PickRow& params, int64_t vocabulary) {
  return params.temperature > 0 && ((params.top_k > 0 && params.top_k < vocabulary) ||
                                    params.top_p < 1.0f || params.min_p > 0);
}

}  // namespace convoke::pick_core
