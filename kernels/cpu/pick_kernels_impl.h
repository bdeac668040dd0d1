// The loops of pick_kernels.h over the registers of pick_lanes.h. Included once by each
// instruction-set path.
#include "kernels/cpu/pick_kernels.h"
#include "kernels/cpu/pick_lanes.h"

namespace convoke::cpu {
namespace {

static_assert(kPickBlock % (4 * kLanes) == 0);
inline constexpr float kLowest = -3.40282347e+38f;  // -FLT_MAX
inline constexpr float kInfinity = __builtin_inff();

uint64_t digest_loop(const float* logits, int64_t columns, int32_t first_token) {
  const VecQ low_half = VecQ{} + 0xffffffffu;
  VecQ sum{};
  VecU token = (VecU)(iota() + splat_i(first_token));
  for (int64_t i = 0; i < columns; i += kLanes) {
    const VecU factor = noise_core::digest_factor<VecLanes>(token);
    const VecU bits = load<VecU>(logits + i);
    const VecQ factor_even = (VecQ)factor & low_half, factor_odd = (VecQ)factor >> 32;
#if CONVOKE_PICK_BYTES == 64
    const VecQ even = (VecQ)_mm512_mul_epu32((__m512i)factor, (__m512i)bits);
    const VecQ odd = (VecQ)_mm512_mul_epu32((__m512i)factor_odd, (__m512i)((VecQ)bits >> 32));
#elif CONVOKE_PICK_BYTES == 32
    const VecQ even = (VecQ)_mm256_mul_epu32((__m256i)factor, (__m256i)bits);
    const VecQ odd = (VecQ)_mm256_mul_epu32((__m256i)factor_odd, (__m256i)((VecQ)bits >> 32));
#elif defined(__SSE2__)
    const VecQ even = (VecQ)_mm_mul_epu32((__m128i)factor, (__m128i)bits);
    const VecQ odd = (VecQ)_mm_mul_epu32((__m128i)factor_odd, (__m128i)((VecQ)bits >> 32));
#else
    const VecQ even = factor_even * ((VecQ)bits & low_half);
    const VecQ odd = factor_odd * ((VecQ)bits >> 32);
#endif
    sum += even + odd + factor_even + factor_odd;
    token += splat_u(kLanes);
  }
  uint64_t total = 0;
  for (int i = 0; i < kLanes / 2; ++i) total += sum[i];
  return total;
}

/// Takes the best lane, the lowest token where scores are equal.
CONVOKE_LANE_INLINE void reduce(VecF score, VecI token, PickBest* best) {
  PickBest found{score[0], token[0]};
  for (int i = 1; i < kLanes; ++i) {
    const bool wins = score[i] > found.score || (score[i] == found.score && token[i] < found.token);
    if (wins) found = {score[i], token[i]};
  }
  if (found.score > best->score) *best = found;
}

void greedy_loop(const float* logits, const float* floor, int64_t columns, int32_t first_token,
                 PickBest* best) {
  VecF score = splat_f(-kInfinity);
  VecI token = splat_i(first_token), current = iota() + splat_i(first_token);
  for (int64_t i = 0; i < columns; i += kLanes) {
    const VecF x = larger(load<VecF>(logits + i), load<VecF>(floor + i % kPickBlock));
    const VecI wins = x > score;
    score = wins ? x : score;
    token = wins ? current : token;
    current += splat_i(kLanes);
  }
  reduce(score, token, best);
}

void noisy_loop(const float* logits, const float* floor, int64_t columns, int32_t first_token,
                float temperature, uint64_t seed, int64_t position, float at_least,
                PickBest* best) {
  constexpr int kStep = 4 * kLanes;
  const VecF divisor = splat_f(temperature);
  const VecU order = counter_order();
  const VecI lanes = iota();
  VecF score = splat_f(-kInfinity);
  VecI token = splat_i(first_token);
  float bar = at_least > best->score ? at_least : best->score;
  for (int64_t i = 0; i < columns; i += kStep) {
    VecF x[4];
    for (int j = 0; j < 4; ++j) {
      x[j] = larger(load<VecF>(logits + i + j * kLanes) / divisor,
                    load<VecF>(floor + i % kPickBlock + j * kLanes));
    }
    // Rounding is monotonous: what stays below the bar with the largest noise cannot win.
    const VecF top = larger(larger(x[0], x[1]), larger(x[2], x[3]));
    if (!any_at_least(top + splat_f(kLargestGumbel), splat_f(bar))) continue;

    const int32_t here = first_token + int32_t(i);
    VecU r[4] = {order + splat_u(uint32_t(here) / 4), splat_u(uint32_t(uint64_t(position))),
                 splat_u(uint32_t(uint64_t(position) >> 32)),
                 splat_u(noise_core::kNoiseCounterWord)};
    noise_core::philox<VecLanes>(r[0], r[1], r[2], r[3], uint32_t(seed), uint32_t(seed >> 32));
    transpose_quads(r[0], r[1], r[2], r[3]);
    for (int j = 0; j < 4; ++j) {
      if (!any_at_least(x[j] + gumbel_bound(r[j]), splat_f(bar))) continue;
      const VecF s = x[j] + noise_core::gumbel_from_bits<VecLanes>(r[j]);
      if (!any_at_least(s, splat_f(bar))) continue;
      const VecI wins = s > score;
      score = wins ? s : score;
      token = wins ? lanes + splat_i(here + j * kLanes) : token;
      const float peak = largest_lane(s);
      bar = peak > bar ? peak : bar;
    }
  }
  reduce(score, token, best);
}

float scale_loop(const float* logits, const float* floor, int64_t columns, float temperature,
                 float* x) {
  const VecF divisor = splat_f(temperature);
  VecF best = splat_f(-kInfinity);
  for (int64_t i = 0; i < columns; i += kLanes) {
    const VecF scaled =
        larger(load<VecF>(logits + i) / divisor, load<VecF>(floor + i % kPickBlock));
    store(x + i, scaled);
    best = larger(scaled, best);
  }
  return largest_lane(best);
}

CONVOKE_LANE_INLINE VecF distances(VecF x, float maximum) {
  const VecF m = splat_f(maximum);
  return x == m ? VecF{} : m - x;
}

CONVOKE_LANE_INLINE VecI buckets(VecF distance) {
  const VecF scaled = distance * splat_f(kBucketsPerUnit);
  const VecF last = splat_f(float(kWeightBuckets - 1));
  return __builtin_convertvector(scaled < last ? scaled : last, VecI);
}

/// The weights of a register of distances: two registers of 64-bit integers.
CONVOKE_LANE_INLINE void weights(VecF d, VecQ& low, VecQ& high) {
  uint32_t far[kLanes];
  store(far, (VecU) __builtin_convertvector(far_weight<VecLanes>(d), VecI));
  low = __builtin_convertvector(load<HalfU>(far), VecQ);
  high = __builtin_convertvector(load<HalfU>(far + kLanes / 2), VecQ);
  if (!any_above(splat_f(kNearDistance), d)) return;
  float distance[kLanes];
  store(distance, d);
  const VecD limit = VecDouble::splat(kNearDistance);
  const VecD d_low = __builtin_convertvector(load<HalfF>(distance), VecD);
  const VecD d_high = __builtin_convertvector(load<HalfF>(distance + kLanes / 2), VecD);
  low = d_low < limit ? near_weight<VecDouble>(d_low) : low;
  high = d_high < limit ? near_weight<VecDouble>(d_high) : high;
}

void weigh_loop(const float* x, int64_t columns, float maximum, float limit,
                WeightHistogram* histogram) {
  VecQ total{};
  for (int64_t i = 0; i < columns; i += kLanes) {
    const VecF d = distances(load<VecF>(x + i), maximum);
    VecQ low, high;
    weights(d, low, high);
    total += low + high;
    if (!any_above(splat_f(limit), d)) continue;
    float distance[kLanes];
    uint64_t weight[kLanes];
    int32_t bucket[kLanes];
    store(distance, d);
    store(weight, low);
    store(weight + kLanes / 2, high);
    store(bucket, buckets(d));
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!(distance[lane] < limit)) continue;
      histogram->mass[bucket[lane]] += weight[lane];
      ++histogram->count[bucket[lane]];
    }
  }
  for (int i = 0; i < kLanes / 2; ++i) histogram->total += total[i];
}

int64_t collect_loop(const float* x, int64_t columns, float maximum, int bucket,
                     int32_t first_token, int32_t* tokens) {
  int64_t count = 0;
  for (int64_t i = 0; i < columns; i += kLanes) {
    const VecI same = buckets(distances(load<VecF>(x + i), maximum)) == splat_i(bucket);
    if (!any_at_least(same ? splat_f(1.0f) : VecF{}, splat_f(1.0f))) continue;
    for (int lane = 0; lane < kLanes; ++lane) {
      if (same[lane] != 0) tokens[count++] = first_token + int32_t(i) + lane;
    }
  }
  return count;
}

void apply_cut_loop(float* x, int64_t columns, int32_t first_token, const PickCut& cut) {
  const VecF edge = splat_f(cut.x), reach = splat_f(cut.max_distance);
  const VecI edge_token = splat_i(cut.token);
  VecI token = iota() + splat_i(first_token);
  for (int64_t i = 0; i < columns; i += kLanes) {
    const VecF v = load<VecF>(x + i);
    const VecI in_order = (v > edge) | ((v == edge) & (token <= edge_token));
    const VecI kept = in_order & (distances(v, cut.maximum) <= reach);
    store(x + i, kept ? v : splat_f(-kInfinity));
    token += splat_i(kLanes);
  }
}

/// The random bits of tokens in any order, a counter each.
CONVOKE_LANE_INLINE VecU scattered_bits(VecI token, const RankRule& rule) {
  VecU r0 = (VecU)token >> 2, r1 = splat_u(uint32_t(uint64_t(rule.position)));
  VecU r2 = splat_u(uint32_t(uint64_t(rule.position) >> 32));
  VecU r3 = splat_u(noise_core::kNoiseCounterWord);
  noise_core::philox<VecLanes>(r0, r1, r2, r3, uint32_t(rule.seed), uint32_t(rule.seed >> 32));
  const VecI word = token & 3;
  const VecU low = word == splat_i(0) ? r0 : r1, high = word == splat_i(2) ? r2 : r3;
  return word < splat_i(2) ? low : high;
}

/// The random bits of 4 * kLanes consecutive tokens.
CONVOKE_LANE_INLINE void consecutive_bits(int32_t first, const RankRule& rule, VecU* r) {
  r[0] = counter_order() + splat_u(uint32_t(first) / 4);
  r[1] = splat_u(uint32_t(uint64_t(rule.position)));
  r[2] = splat_u(uint32_t(uint64_t(rule.position) >> 32));
  r[3] = splat_u(noise_core::kNoiseCounterWord);
  noise_core::philox<VecLanes>(r[0], r[1], r[2], r[3], uint32_t(rule.seed),
                               uint32_t(rule.seed >> 32));
  transpose_quads(r[0], r[1], r[2], r[3]);
}

/// Lanes above the worst of the best take their places, behind equal scores: theirs are lower ids.
CONVOKE_LANE_INLINE void enter(VecF scores, VecI tokens, PickBest* best, int count) {
  float score[kLanes];
  int32_t token[kLanes];
  store(score, scores);
  store(token, tokens);
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(score[lane] > best[count - 1].score)) continue;
    int at = count - 1;
    for (; at > 0 && score[lane] > best[at - 1].score; --at) best[at] = best[at - 1];
    best[at] = {score[lane], token[lane]};
  }
}

void rank_loop(const float* logits, const float* floor, int64_t columns, const int32_t* tokens,
               int32_t first_token, const RankRule& rule, PickBest* best, int count) {
  constexpr int kStep = 4 * kLanes;
  const VecF divisor = splat_f(rule.divisor);
  const float reach = rule.noise ? kLargestGumbel : 0.0f;
  for (int64_t i = 0; i < columns; i += kStep) {
    VecF x[4];
    for (int j = 0; j < 4; ++j) {
      x[j] = larger(load<VecF>(logits + i + j * kLanes) / divisor,
                    load<VecF>(floor + i % kPickBlock + j * kLanes));
    }
    // As in noisy_loop: what stays at or below the bar with the largest noise changes nothing.
    const VecF top = larger(larger(x[0], x[1]), larger(x[2], x[3]));
    if (!any_above(top + splat_f(reach), splat_f(best[count - 1].score))) continue;

    VecU bits[4];
    const int32_t here = first_token + int32_t(i);
    if (rule.noise && tokens == nullptr) consecutive_bits(here, rule, bits);
    for (int j = 0; j < 4; ++j) {
      const VecF bar = splat_f(best[count - 1].score);
      if (!any_above(x[j] + splat_f(reach), bar)) continue;
      const VecI token = tokens == nullptr ? iota() + splat_i(here + j * kLanes)
                                           : load<VecI>(tokens + i + j * kLanes);
      VecF s = x[j];
      if (rule.noise) {
        if (tokens != nullptr) bits[j] = scattered_bits(token, rule);
        if (!any_above(s + gumbel_bound(bits[j]), bar)) continue;
        s = s + noise_core::gumbel_from_bits<VecLanes>(bits[j]);
      }
      if (any_above(s, bar)) enter(s, token, best, count);
    }
  }
}

int64_t find_at_least_loop(const float* x, int64_t columns, int64_t begin, float bound) {
  for (int64_t i = begin; i < columns; i += kPickBlock) {
    VecF top = load<VecF>(x + i);
    for (int j = kLanes; j < kPickBlock; j += kLanes) top = larger(load<VecF>(x + i + j), top);
    if (any_at_least(top, splat_f(bound))) return i;
  }
  return columns;
}

constexpr PickKernels kKernels = {digest_loop,    greedy_loop, noisy_loop,
                                  scale_loop,     weigh_loop,  collect_loop,
                                  apply_cut_loop, rank_loop,   find_at_least_loop};

}  // namespace
}  // namespace convoke::cpu
