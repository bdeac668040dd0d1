#include "runtime/drafters/calibration.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace convoke {
namespace {

std::vector<float> estimate(const Calibration& calibration, const std::vector<float>& raw,
                            int depth = 0, bool sampled = false) {
  std::vector<float> result(raw.size());
  calibration.estimate(raw, depth, sampled, result);
  return result;
}

TEST(RawProbabilities, AreTheSoftmaxInUnitsOfLogits) {
  std::vector<float> raw;
  const std::vector<RankedToken> ranked{{2.0f, 7}, {1.0f, 3}, {0.0f, -1}};
  raw_probabilities(ranked, 0.0f, raw);
  EXPECT_NEAR(raw[0], 1 / (1 + std::exp(-1.0)), 1e-6);
  EXPECT_NEAR(raw[1], 1 / (1 + std::exp(1.0)), 1e-6);
  EXPECT_EQ(raw[2], 0.0f) << "an unused entry";
  raw_probabilities(ranked, 0.5f, raw);
  EXPECT_NEAR(raw[0], 1 / (1 + std::exp(-0.5)), 1e-6);
  raw_probabilities({}, 1.0f, raw);
  EXPECT_TRUE(raw.empty());
  raw_probabilities(std::vector<RankedToken>{{-INFINITY, 3}, {0.0f, -1}}, 1.0f, raw);
  EXPECT_EQ(raw, (std::vector<float>{0, 0}));
}

TEST(Calibration, UntaughtReturnsWhatTheDraftSays) {
  const std::vector<float> raw{0.5f, 0.25f, 0.125f, 0.001f};
  EXPECT_EQ(estimate({}, raw), raw);
  EXPECT_TRUE(estimate({}, {}).empty());
}

TEST(Calibration, ConvergesToTrueFrequencies) {
  // The draft is too sure of itself, and the more so at depth.
  const auto truth = [](double raw, int rank, int depth) {
    return raw * (rank == 0 ? 0.7 : 1.0) / (1 + 0.2 * depth);
  };
  Calibration calibration;
  std::mt19937 random(5);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int i = 0; i < 60000; ++i) {
    const int depth = int(random() % 3);
    const double first = 0.3 + 0.6 * uniform(random), second = (1 - first) * uniform(random);
    const double dice = uniform(random);
    const double p0 = truth(first, 0, depth), p1 = truth(second, 1, depth);
    calibration.learn({float(first), 0, depth, dice < p0}, true);
    calibration.learn({float(second), 1, depth, dice >= p0 && dice < p0 + p1}, true);
  }
  for (int depth = 0; depth < 3; ++depth) {
    for (float first : {0.4f, 0.6f, 0.8f}) {
      const float second = (1 - first) / 2;
      const auto p = estimate(calibration, {first, second}, depth, true);
      EXPECT_NEAR(p[0], truth(first, 0, depth), 0.07) << first << " at depth " << depth;
      EXPECT_NEAR(p[1], truth(second, 1, depth), 0.07) << second << " at depth " << depth;
    }
  }
  EXPECT_EQ(estimate(calibration, {0.8f}, 0, false), (std::vector<float>{0.8f}))
      << "T = 0 has figures of its own";
}

TEST(Calibration, FollowsAChangeOfTheText) {
  Calibration calibration;
  for (int i = 0; i < 3000; ++i) calibration.learn({0.6f, 0, 0, false}, false);
  EXPECT_LT(estimate(calibration, {0.6f})[0], 0.05f);
  for (int i = 0; i < 3000; ++i) calibration.learn({0.6f, 0, 0, true}, false);
  EXPECT_GT(estimate(calibration, {0.6f})[0], 0.95f);
}

TEST(Calibration, IsAlwaysADistributionInOrderOfRank) {
  Calibration calibration;
  std::mt19937 random(11);
  std::uniform_real_distribution<float> uniform(0, 1);
  for (int i = 0; i < 4000; ++i) {
    std::vector<float> raw(1 + random() % 12);
    for (float& r : raw) r = uniform(random) * uniform(random);
    std::ranges::sort(raw, std::greater<>());
    const float sum = std::accumulate(raw.begin(), raw.end(), 0.0f);
    if (sum > 1) {
      for (float& r : raw) r /= sum;
    }
    const int depth = int(random() % 9);
    const auto p = estimate(calibration, raw, depth, i % 2 == 1);
    float total = 0;
    for (size_t k = 0; k < p.size(); ++k) {
      EXPECT_GE(p[k], 0.0f);
      EXPECT_LE(p[k], k > 0 ? p[k - 1] : 1.0f);
      total += p[k];
    }
    EXPECT_LE(total, 1.0f + 1e-5f);
    const auto hit = size_t(random() % 3);  // wild teaching: hits have nothing to do with raw
    for (size_t k = 0; k < raw.size(); ++k) {
      calibration.learn({raw[k], int(k), depth, k == hit}, i % 2 == 1);
    }
  }
}

}  // namespace
}  // namespace convoke
