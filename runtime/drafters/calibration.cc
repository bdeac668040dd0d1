#include "runtime/drafters/calibration.h"

#include <algorithm>
#include <cmath>

#include "kernels/check.h"

namespace convoke {
namespace {

// Knots stand at log-odds -10, -9, ... 5: raw probabilities from 0.00005 to 0.993.
constexpr double kFirstKnot = -10.0;
// So many outcomes make a correction count half; so many are remembered.
constexpr double kDoubt = 12.0;
constexpr double kMemory = 600.0;
// A candidate that was never hit keeps a little of what its draft gave it, so that order stays.
constexpr double kLeast = 0.02;

int rank_class(int rank) {
  return rank < 2 ? rank : rank < 4 ? 2 : 3;
}

int depth_class(int depth) {
  return depth < 3 ? depth : depth < 5 ? 3 : 4;
}

}  // namespace

void raw_probabilities(std::span<const RankedToken> ranked, float temperature,
                       std::vector<float>& raw) {
  raw.assign(ranked.size(), 0.0f);
  const double scale = temperature > 0.0f ? double(temperature) : 1.0;
  double best = -INFINITY;
  for (const RankedToken& r : ranked) {
    if (r.token >= 0) best = std::max(best, scale * double(r.score));
  }
  if (!std::isfinite(best)) return;  // nothing but banned or unusable tokens
  double sum = 0.0;
  const auto weight = [&](const RankedToken& r) {
    return r.token >= 0 ? std::exp(scale * double(r.score) - best) : 0.0;
  };
  for (const RankedToken& r : ranked) sum += weight(r);
  for (size_t i = 0; i < ranked.size(); ++i) raw[i] = float(weight(ranked[i]) / sum);
}

double Calibration::Residual::mean() const {
  return sum / (weight + kDoubt);
}

void Calibration::Residual::add(double value, double share) {
  const double kept = 1.0 - share / kMemory;
  sum = sum * kept + share * value;
  weight = weight * kept + share;
}

Calibration::Place Calibration::place(float raw) {
  const double p = std::clamp(double(raw), 1e-9, 1.0 - 1e-9);
  const double at =
      std::clamp(std::log(p / (1.0 - p)) - kFirstKnot, 0.0, double(kKnots - 1) - 1e-9);
  return {int(at), at - double(int(at))};
}

double Calibration::correction(const Knots& knots, const Place& at) {
  return (1.0 - at.upper) * knots[size_t(at.knot)].mean() +
         at.upper * knots[size_t(at.knot) + 1].mean();
}

void Calibration::teach(Knots& knots, const Place& at, double residual) {
  knots[size_t(at.knot)].add(residual, 1.0 - at.upper);
  knots[size_t(at.knot) + 1].add(residual, at.upper);
}

void Calibration::estimate(std::span<const float> raw, int depth, bool sampled,
                           std::span<float> estimates) const {
  CONVOKE_CHECK_EQ(raw.size(), estimates.size());
  const Mode& mode = modes_[sampled ? 1 : 0];
  double ceiling = 1.0, sum = 0.0;
  for (size_t i = 0; i < raw.size(); ++i) {
    const Place at = place(raw[i]);
    const auto rank = size_t(rank_class(int(i)));
    const double p = double(raw[i]) + correction(mode.ranks[rank], at) +
                     correction(mode.depths[rank][size_t(depth_class(depth))], at);
    ceiling = std::min(ceiling, std::max(p, kLeast * double(raw[i])));
    estimates[i] = float(ceiling);
    sum += ceiling;
  }
  if (sum <= 1.0) return;
  for (float& p : estimates) p = float(double(p) / sum);
}

void Calibration::learn(const Outcome& outcome, bool sampled) {
  Mode& mode = modes_[sampled ? 1 : 0];
  const Place at = place(outcome.raw);
  const auto rank = size_t(rank_class(outcome.rank));
  Knots& coarse = mode.ranks[rank];
  const double residual = (outcome.hit ? 1.0 : 0.0) - double(outcome.raw);
  const double rest = residual - correction(coarse, at);
  teach(coarse, at, residual);
  teach(mode.depths[rank][size_t(depth_class(outcome.depth))], at, rest);
}

}  // namespace convoke
