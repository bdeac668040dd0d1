// The pick rule: the token after a row is
//   argmax_v( processed_logit_v / T + gumbel(seed, position, v) ),  ties to the lowest id,
// and at T = 0 argmax_v(processed_logit_v). Processing, in this order: per-token edits (repetition
// penalty, then frequency / presence penalty, logit bias and bans as one addend), division by T,
// top-k, top-p, min-p. A token that a filter removes can never be picked. Drawing by argmax over
// Gumbel-perturbed logits is sampling from the softmax of what the filters left.
//
// Odd logits: NaN and -infinity count as the lowest finite score, so they are picked only when
// nothing better is left, and then the lowest id among them. A banned token loses even to those.
// When every token is banned the pick is the lowest id, with score -infinity.
//
// The filters' arithmetic is the same on every path: p_v / max p is exp(x_v - max x), in double
// precision (for the sums of top-p in single precision below e^-12), and the sums of top-p are sums
// of these as integers of 2^-44, which do not depend on their order.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/tensor.h"

namespace convoke {

/// One token's change to a row's logits: l = (l > 0 ? l / repetition : l * repetition) + add.
/// A ban is add = -infinity. Sorted by token, no duplicates.
struct LogitEdit {
  int32_t token = 0;
  float repetition = 1.0f;
  float add = 0.0f;
};

/// How one row is to be picked.
struct PickRow {
  float temperature = 0.0f;  ///< 0 = greedy, no noise, no filters
  int32_t top_k = 0;         ///< 0 = off. Keeps the k largest; ties at the border: lowest ids stay
  float top_p = 1.0f;        ///< >= 1 = off. Smallest set, in descending order (ties: lowest id
                             ///< first), whose probability sums to >= top_p; never empty
  float min_p = 0.0f;        ///< 0 = off. Drops p_v < min_p * max p
  uint64_t seed = 0;
  int64_t position = 0;  ///< absolute position of the token being picked
  std::span<const LogitEdit> edits;
  int32_t logprobs = -1;  ///< -1 none; n: log-probability of the pick and of the n most likely
};

/// The choice, or one rank's bid for it. An empty slice bids token -1, score -infinity.
struct Pick {
  float score = 0.0f;  ///< perturbed logit of `token` (what ranks compare; ties to the lower token)
  int32_t token = -1;
  uint64_t digest = 0;  ///< sum over the slice of mix(token, bits of the raw logit), modulo 2^64:
                        ///< the fingerprint of a row, the same however the row is sliced
};

/// Which of two bids for one row stands. A bid of an empty slice (token -1) loses to every other.
inline bool beats(const Pick& a, const Pick& b) {
  if (a.token < 0 || b.token < 0) return a.token >= 0;
  return a.score > b.score || (a.score == b.score && a.token < b.token);
}

/// No filters and no log-probabilities: each rank bids for its slice, and the best bid wins.
struct PickSliceArgs {
  TensorView logits;                ///< [rows, slice] float32; not changed
  int32_t first_token = 0;          ///< vocabulary id of column 0; a multiple of 16
  std::span<const PickRow> params;  ///< [rows]; top_k, top_p, min_p and logprobs are ignored
  std::span<Pick> picks;            ///< out [rows]
};

struct TokenLogprob {
  int32_t token = -1;
  float logprob = 0.0f;  ///< natural log of the softmax of the raw logits
};

struct PickFullArgs {
  TensorView logits;                ///< [rows, vocabulary] float32; not changed
  std::span<const PickRow> params;  ///< [rows]
  TensorView scratch;               ///< [rows, >= 2 * vocabulary] float32 work space; may be empty
                                    ///< when no row filters or asks for log-probabilities
  std::span<Pick> picks;            ///< out [rows]
  /// out [rows, 1 + max_logprobs]: entry 0 is the pick's, then the most likely, descending; unused
  /// entries have token -1. May be empty when no row asks.
  std::span<TokenLogprob> logprobs;
  int32_t max_logprobs = 0;
};

/// A token as a draft ranks it: the noise of the pick rule is in the score, so where two models
/// agree, their rankings agree at any temperature.
struct RankedToken {
  float score = 0.0f;  ///< T = 0: the logit after edits; else logit / T + gumbel
  int32_t token = -1;  ///< -1: unused entry
  bool operator==(const RankedToken&) const = default;
};

/// The best tokens of each row, for drafting: what the pick rule would take first, second, ... No
/// filters: a draft's tail is not the target's. A banned token is never among them; entries for
/// which there is no token are {-infinity, -1}.
struct RankArgs {
  TensorView logits;        ///< [rows, columns] float32; not changed
  int32_t first_token = 0;  ///< vocabulary id of column 0; a multiple of 16
  /// [columns] vocabulary ids of a reduced draft vocabulary, ascending, in the backend's memory;
  /// empty: column + first_token.
  std::span<const int32_t> tokens;
  std::span<const PickRow> params;  ///< [rows]; top_k, top_p, min_p and logprobs are ignored
  bool noise = true;                ///< false leaves the noise out, for comparison only
  int count = 1;                    ///< entries per row, 1 to kMaxRanked
  std::span<RankedToken> ranked;  ///< out [rows, count]: by score descending, ties lowest id first
};
inline constexpr int kMaxRanked = 64;

}  // namespace convoke
