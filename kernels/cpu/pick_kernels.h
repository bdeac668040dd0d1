// The vectorised inner loops of the pick rule: one set per instruction-set path, equal in every
// bit.
//
// All loops run over whole blocks of kPickBlock columns; what does not fill a block, and blocks
// with edited logits, are brought in through a small copy (pick.cc). `floor` says, per column of a
// block and for every block alike, what a logit is raised to: -FLT_MAX for a token that may be
// picked (so NaN and -infinity count as the lowest finite score), -infinity for one that may not.
#pragma once

#include <cstdint>

#include "kernels/pick_weight.h"

namespace convoke::cpu {

using namespace pick_core;  // weights and their buckets

inline constexpr int kPickBlock = 64;

/// The best token so far. Segments of a row are visited in ascending order of token, and only a
/// greater score replaces an earlier one: ties stay with the lowest id.
struct PickBest {
  float score;
  int32_t token;  ///< -1 = none
};

struct WeightHistogram {
  uint64_t total;  ///< weights of all columns
  uint64_t mass[kWeightBuckets];
  uint32_t count[kWeightBuckets];
};

/// What the filters left: tokens above (x, token) in descending order of x, ascending of token, and
/// no further than max_distance below the maximum.
struct PickCut {
  float x;
  int32_t token;
  float maximum;
  float max_distance;
};

/// How rank scores a token that is not banned.
struct RankRule {
  float divisor;  ///< the temperature; 1 at temperature 0, which changes nothing
  bool noise;
  uint64_t seed;
  int64_t position;
};

struct PickKernels {
  /// Sum of digest_mix over the logits; a multiple of 16 columns will do.
  uint64_t (*digest)(const float* logits, int64_t columns, int32_t first_token);
  /// Largest raised logit.
  void (*greedy)(const float* logits, const float* floor, int64_t columns, int32_t first_token,
                 PickBest* best);
  /// Largest max(logit / temperature, floor) + noise. A token that cannot reach `at_least`, a score
  /// some token of the row is known to have, may be passed over.
  void (*noisy)(const float* logits, const float* floor, int64_t columns, int32_t first_token,
                float temperature, uint64_t seed, int64_t position, float at_least, PickBest* best);
  /// x = max(logit / temperature, floor); returns the largest.
  float (*scale)(const float* logits, const float* floor, int64_t columns, float temperature,
                 float* x);
  /// Adds the weights of all columns to histogram->total, and files columns nearer than `limit` in
  /// the buckets.
  void (*weigh)(const float* x, int64_t columns, float maximum, float limit,
                WeightHistogram* histogram);
  /// Appends the columns whose distance lies in `bucket`, ascending; returns how many.
  int64_t (*collect)(const float* x, int64_t columns, float maximum, int bucket,
                     int32_t first_token, int32_t* tokens);
  /// Sets x to -infinity where the cut removes a token.
  void (*apply_cut)(float* x, int64_t columns, int32_t first_token, const PickCut& cut);
  /// Enters the columns into `best`, the `count` best tokens so far by descending score, unused
  /// entries {-infinity, -1} at its end. Column i is token tokens[i], or first_token + i without
  /// `tokens`; ids ascend from call to call.
  void (*rank)(const float* logits, const float* floor, int64_t columns, const int32_t* tokens,
               int32_t first_token, const RankRule& rule, PickBest* best, int count);
  /// The first block at or after column `begin` that holds an x >= bound; its column, or `columns`.
  int64_t (*find_at_least)(const float* x, int64_t columns, int64_t begin, float bound);
};

// One path each. The last two exist on x86-64 only.
const PickKernels& pick_kernels_portable();
const PickKernels& pick_kernels_avx2();
const PickKernels& pick_kernels_avx512();

}  // namespace convoke::cpu
