#include "kernels/noise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace convoke {
namespace {

using Words = std::array<uint32_t, 4>;

// The three philox4x32-10 lines of tests/kat_vectors in the Random123 distribution (D. E. Shaw
// Research, version 1.14).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(NoiseLog, StaysWithinTwoRoundings) {
  for (uint32_t bits = 0x00800000; bits < 0x7f800000; bits += 4999) {
    const float x = noise_core::ScalarLanes::from_bits(bits);
    const double exact = std::log(double(x));
    ASSERT_NEAR(noise_log(x), exact, 1e-7 * std::abs(exact)) << "x = " << x;
  }
  EXPECT_EQ(noise_log(1.0f), 0.0f);
}

/// The variate in double precision, from the end of (0, 1) that is nearer.
double exact_gumbel(uint32_t bits) {
  const double u = (bits + 0.5) * 0x1p-32, w = (double(~bits) + 0.5) * 0x1p-32;
  return -std::log(bits >> 31 ? -std::log1p(-w) : -std::log(u));
}

/// Both tails whole, the seams of the two logarithms, and an even sweep between.
std::vector<uint32_t> sweep() {
  std::vector<uint32_t> all;
  for (uint64_t b = 0; b < 1 << 18; ++b) all.push_back(uint32_t(b));
  for (uint64_t b = 1 << 18; b < (uint64_t(1) << 32) - (1 << 18); b += 2477) {
    all.push_back(uint32_t(b));
    all.push_back(uint32_t(b) + 1);
  }
  for (double seam : {0.5, 0.5 * std::sqrt(0.5), std::sqrt(0.5), std::exp(-1.0),
                      std::exp(-std::sqrt(0.5)), std::exp(-std::sqrt(2.0))}) {
    const auto centre = uint32_t(seam * 0x1p32);
    for (int i = -20000; i < 20000; ++i) all.push_back(centre + uint32_t(i));
  }
  for (uint64_t b = (uint64_t(1) << 32) - (1 << 18); b >> 32 == 0; ++b) {
    all.push_back(uint32_t(b));
  }
  std::sort(all.begin(), all.end());
  return all;
}

TEST(Gumbel, IsFiniteMonotonousAndAccurate) {
  float last = -std::numeric_limits<float>::infinity();
  for (uint32_t bits : sweep()) {
    const float g = gumbel_from_bits(bits);
    ASSERT_TRUE(std::isfinite(g)) << bits;
    ASSERT_GE(g, last) << bits;
    const double exact = exact_gumbel(bits);
    ASSERT_NEAR(g, exact, 2e-7 * std::max(1.0, std::abs(exact))) << bits;
    last = g;
  }
  EXPECT_LE(gumbel_from_bits(0xffffffff), kLargestGumbel);
  EXPECT_GT(gumbel_from_bits(0xffffffff), kLargestGumbel - 0.01f);
}

// What a uniform float cannot do: the largest 2^24 inputs map to different variates until the
// float's own resolution at the result runs out.
TEST(Gumbel, WinningTailKeepsItsResolution) {
  for (uint32_t i = 0; i < 4096; ++i) {
    ASSERT_GT(gumbel_from_bits(0xffffffff - i), gumbel_from_bits(0xffffffff - i - 1)) << i;
  }
}

TEST(Gumbel, HasTheMomentsOfTheDistribution) {
  const int strata = 1 << 20;
  double sum = 0, squares = 0;
  for (int i = 0; i < strata; ++i) {
    const double g = gumbel_from_bits(uint32_t(i) * 4096u + 2048u);
    sum += g;
    squares += g * g;
  }
  const double mean = sum / strata, variance = squares / strata - mean * mean;
  EXPECT_NEAR(mean, 0.57721566490153286, 2e-5);                        // Euler's gamma
  EXPECT_NEAR(variance, std::acos(-1.0) * std::acos(-1.0) / 6, 5e-4);  // pi^2 / 6
}

TEST(Gumbel, IsKeyedBySeedPositionAndToken) {
  const uint64_t seed = 0x0123456789abcdef;
  const int64_t position = 0x123456789a;
  for (int32_t token : {0, 1, 2, 3, 4, 151935}) {
    const auto words =
        philox4x32({uint32_t(token) / 4, 0x3456789a, 0x12, 0x436f6e76}, {0x89abcdef, 0x01234567});
    EXPECT_EQ(gumbel(seed, position, token), gumbel_from_bits(words[size_t(token % 4)]));
  }
  EXPECT_NE(gumbel(seed, position, 5), gumbel(seed + (uint64_t(1) << 32), position, 5));
  EXPECT_NE(gumbel(seed, position, 5), gumbel(seed, position + (int64_t(1) << 32), 5));
}

TEST(DigestMix, SeesEveryBitAndEveryExchange) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 8);
  for (int trial = 0; trial < 2000; ++trial) {
    const auto a = int32_t(random() % 300000), b = int32_t(random() % 300000);
    const float x = normal(random), y = normal(random);
    for (int bit = 0; bit < 32; ++bit) {
      const float flipped =
          noise_core::ScalarLanes::from_bits(noise_core::ScalarLanes::bits(x) ^ (1u << bit));
      ASSERT_NE(digest_mix(a, x), digest_mix(a, flipped));
    }
    if (a == b || x == y) continue;
    ASSERT_NE(digest_mix(a, x) + digest_mix(b, y), digest_mix(a, y) + digest_mix(b, x));
    ASSERT_NE(digest_mix(a, x), digest_mix(b, x));
  }
  EXPECT_NE(digest_mix(7, 0.0f), digest_mix(7, -0.0f));
}

TEST(DigestMix, NoTokenIsIgnored) {
  for (int32_t token = 0; token < 1 << 20; ++token) ASSERT_NE(digest_mix(token, 0.0f), 0u);
}

}  // namespace
}  // namespace convoke
