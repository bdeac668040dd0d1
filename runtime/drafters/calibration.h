// From a draft's ranking to the probability that the target picks each candidate, learned from what
// was accepted. A draft's own softmax is too sure of itself, the deeper in the tree the more, and
// at T > 0 it has to say how often the target's argmax agrees *given the noise*, which no softmax
// knows.
//
// The estimate is the raw probability plus a correction interpolated between knots in its log-odds,
// one set per rank among siblings, and on top of it a finer one per depth. Untaught, it returns
// the raw probability. Decaying means make it follow the text. Pure and deterministic.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "kernels/pick.h"

namespace convoke {

/// Raw conditional probabilities of one node's ranked children: the softmax of their scores over
/// these children alone, in units of logits (scores times T at T > 0). Unused entries get 0.
void raw_probabilities(std::span<const RankedToken> ranked, float temperature,
                       std::vector<float>& raw);

class Calibration {
 public:
  /// Probability of each child, given that its parent is accepted. `raw`: of siblings in order of
  /// rank; `depth`: guesses between them and the last true token (0 for the root's children).
  /// The results never ascend and sum to at most 1. At T > 0 (`sampled`) other figures count than
  /// at T = 0. `estimates` is as long as `raw`.
  void estimate(std::span<const float> raw, int depth, bool sampled,
                std::span<float> estimates) const;

  /// A child that was verified, its parent being accepted.
  struct Outcome {
    float raw = 0.0f;
    int rank = 0;
    int depth = 0;
    bool hit = false;
  };
  void learn(const Outcome& outcome, bool sampled);

 private:
  static constexpr int kKnots = 16;
  static constexpr int kRanks = 4;
  static constexpr int kDepths = 5;
  /// Decaying sum of (hit - estimate), and its weight.
  struct Residual {
    double sum = 0, weight = 0;
    double mean() const;
    void add(double value, double share);
  };
  using Knots = std::array<Residual, kKnots>;
  struct Mode {
    std::array<Knots, kRanks> ranks;
    std::array<std::array<Knots, kDepths>, kRanks> depths;  ///< relative to `ranks`
  };
  /// Where a raw probability stands between two knots.
  struct Place {
    int knot = 0;
    double upper = 0;  ///< share of knot + 1
  };
  static Place place(float raw);
  static double correction(const Knots& knots, const Place& at);
  static void teach(Knots& knots, const Place& at, double residual);

  std::array<Mode, 2> modes_;  ///< T = 0, T > 0
};

}  // namespace convoke
