#include "kernels/cpu/elementwise.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "tests/kernels/test_team.h"

namespace convoke::cpu {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kUnit = 0x1p-24;  // largest relative error of one rounding

uint32_t bits(float value) {
  return std::bit_cast<uint32_t>(value);
}

/// Round to nearest even by comparing distances, not by the trick that the kernels use.
uint16_t to_bf16(float value) {
  if (std::isnan(value)) return 0x7fc0;
  const uint16_t below = uint16_t(bits(value) >> 16);  // towards zero
  const double low = std::bit_cast<float>(uint32_t(below) << 16);
  const uint16_t above = uint16_t(below + 1);
  double high = std::bit_cast<float>(uint32_t(above) << 16);
  if (std::isinf(low)) return below;
  if (std::isinf(high)) high = std::copysign(0x1p128, low);
  const double to_low = std::abs(value - low), to_high = std::abs(high - value);
  return to_low < to_high || (to_low == to_high && below % 2 == 0) ? below : above;
}

std::vector<float> random_floats(size_t count, uint32_t seed, float spread = 1.f) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0.f, spread);
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

/// A matrix whose rows lie further apart than they are long; what lies between is NaN.
template <typename T>
struct Padded {
  Padded(int64_t rows, int64_t cols, DType dtype, T poison)
      : stride(cols + 5), data(size_t(rows * stride), poison) {
    view = {data.data(), dtype, rows, cols, stride};
  }
  T& at(int64_t r, int64_t c) { return data[size_t(r * stride + c)]; }
  int64_t stride;
  std::vector<T> data;
  TensorView view;
};
using Floats32 = Padded<float>;

Floats32 padded_copy(const std::vector<float>& values, int64_t rows, int64_t cols) {
  Floats32 result(rows, cols, DType::kFloat32, kNan);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) result.at(r, c) = values[size_t(r * cols + c)];
  }
  return result;
}

class ElementwiseTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!machine_has(GetParam())) GTEST_SKIP() << "this machine has no " << test_name(GetParam());
  }

  /// silu(gate) * up, one row.
  std::vector<float> silu(const std::vector<float>& gate, const std::vector<float>& up) {
    std::vector<float> x(gate);
    x.insert(x.end(), up.begin(), up.end());
    std::vector<float> y(gate.size());
    const auto n = int64_t(gate.size());
    run_team(1, [&](CpuStream& stream) {
      silu_mul(stream, GetParam(),
               {TensorView::matrix(x.data(), DType::kFloat32, 1, 2 * n),
                TensorView::matrix(y.data(), DType::kFloat32, 1, n)});
    });
    return y;
  }
};

TEST_P(ElementwiseTest, SiluIsAccurateOverTheWholeRange) {
  std::vector<float> gate;
  for (double x = -150; x < 150; x += 0.00731) gate.push_back(float(x));
  for (int e = -149; e < 128; ++e) {
    gate.push_back(std::ldexp(1.37f, e));
    gate.push_back(-std::ldexp(1.37f, e));
  }
  const std::vector<float> y = silu(gate, std::vector<float>(gate.size(), 1.f));
  for (size_t i = 0; i < gate.size(); ++i) {
    const double x = gate[i];
    const double exact = x / (1 + std::exp(-x));
    // e^-x within 2 ulp (4 units), then a sum and a quotient; below e^-88 the exponential
    // overflows and the result is zero.
    const double bound = std::abs(exact) * 6.01 * kUnit + (x < -88 ? 1e-35 : 0) + 0x1p-149;
    ASSERT_NEAR(double(y[i]), exact, bound) << "x = " << x;
  }
}

TEST_P(ElementwiseTest, SiluOfSpecialValues) {
  const std::vector<float> y = silu({kInfinity, -kInfinity, kNan, 0.f, -0.f, 3.4e38f, -3.4e38f},
                                    {1.f, 1.f, 1.f, 1.f, 1.f, 1.f, 1.f});
  EXPECT_EQ(y[0], kInfinity);
  EXPECT_TRUE(std::isnan(y[1]));  // -inf / inf, as the formula has it
  EXPECT_TRUE(std::isnan(y[2]));
  EXPECT_EQ(bits(y[3]), bits(0.f));
  EXPECT_EQ(bits(y[4]), bits(-0.f));
  EXPECT_EQ(y[5], 3.4e38f);
  EXPECT_EQ(y[6], 0.f);
}

TEST_P(ElementwiseTest, SiluOfAnElementDoesNotDependOnItsPlace) {
  const std::vector<float> gate = random_floats(67, 1, 5.f), up = random_floats(67, 2);
  const std::vector<float> whole = silu(gate, up);
  for (size_t begin = 0; begin < 20; ++begin) {
    for (size_t count : {1, 2, 15, 16, 17, 31, 47}) {
      const std::vector<float> part =
          silu({gate.begin() + long(begin), gate.begin() + long(begin + count)},
               {up.begin() + long(begin), up.begin() + long(begin + count)});
      for (size_t i = 0; i < count; ++i) ASSERT_EQ(bits(part[i]), bits(whole[begin + i]));
    }
  }
}

TEST_P(ElementwiseTest, SiluRowsAreEqualForEveryShapeAndTeam) {
  for (const int64_t n : {1, 5, 16, 63, 64, 130, 1024}) {
    constexpr int64_t kRows = 5;
    const std::vector<float> values = random_floats(size_t(kRows * 2 * n), uint32_t(n), 3.f);
    Floats32 x = padded_copy(values, kRows, 2 * n);
    Floats32 alone(kRows, n, DType::kFloat32, kNan);
    for (int64_t r = 0; r < kRows; ++r) {
      run_team(1, [&](CpuStream& stream) {
        silu_mul(stream, GetParam(), {x.view.row_range(r, r + 1), alone.view.row_range(r, r + 1)});
      });
    }
    for (int threads = 1; threads <= 4; ++threads) {
      for (const int64_t rows : {int64_t(1), int64_t(2), kRows}) {
        Floats32 y(rows, n, DType::kFloat32, kNan);
        Padded<uint16_t> z(rows, n, DType::kBFloat16, 0xdead);
        run_team(threads, [&](CpuStream& stream) {
          silu_mul(stream, GetParam(), {x.view.row_range(0, rows), y.view});
          silu_mul(stream, GetParam(), {x.view.row_range(0, rows), z.view});
        });
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < n; ++c) {
            ASSERT_EQ(bits(y.at(r, c)), bits(alone.at(r, c)));
            ASSERT_EQ(z.at(r, c), to_bf16(alone.at(r, c)));
          }
          ASSERT_TRUE(std::isnan(y.at(r, n)));  // nothing written beyond the row
          ASSERT_EQ(z.at(r, n), 0xdead);
        }
      }
    }
  }
}

TEST_P(ElementwiseTest, RmsNormIsAccurateAndIndependentOfRowsAndTeam) {
  for (const int64_t n : {1, 2, 15, 16, 17, 64, 100, 512, 1000, 4096}) {
    constexpr int64_t kRows = 6;
    constexpr float kEpsilon = 1e-5f;
    Floats32 x = padded_copy(random_floats(size_t(kRows * n), uint32_t(n)), kRows, n);
    const std::vector<float> weight = random_floats(size_t(n), 7);
    const std::vector<int32_t> gather = {4, 0, 4, 5};
    for (int threads = 1; threads <= 4; ++threads) {
      Floats32 all(kRows, n, DType::kFloat32, kNan), one(1, n, DType::kFloat32, kNan);
      Padded<uint16_t> gathered(4, n, DType::kBFloat16, 0xdead);
      Floats32 in_place = x;
      in_place.view.data = in_place.data.data();
      run_team(threads, [&](CpuStream& stream) {
        rms_norm(stream, GetParam(), {x.view, weight.data(), kEpsilon, all.view, {}});
        rms_norm(stream, GetParam(),
                 {x.view.row_range(3, 4), weight.data(), kEpsilon, one.view, {}});
        rms_norm(stream, GetParam(), {x.view, weight.data(), kEpsilon, gathered.view, gather});
        rms_norm(stream, GetParam(), {in_place.view, weight.data(), kEpsilon, in_place.view, {}});
      });
      for (int64_t r = 0; r < kRows; ++r) {
        double sum = 0;
        for (int64_t c = 0; c < n; ++c) sum += double(x.at(r, c)) * x.at(r, c);
        const double factor = 1 / std::sqrt(sum / double(n) + kEpsilon);
        // All addends are positive: a chain of n / 64 + 8 roundings, halved by the root, and
        // mean, sum, root, quotient and two products.
        const double bound = (double(n) / 128 + 12) * kUnit;
        for (int64_t c = 0; c < n; ++c) {
          const double exact = x.at(r, c) * factor * weight[size_t(c)];
          ASSERT_NEAR(double(all.at(r, c)), exact, std::abs(exact) * bound + 1e-44);
          ASSERT_EQ(bits(in_place.at(r, c)), bits(all.at(r, c)));
        }
        ASSERT_TRUE(std::isnan(all.at(r, n)));
      }
      for (int64_t c = 0; c < n; ++c) {
        ASSERT_EQ(bits(one.at(0, c)), bits(all.at(3, c)));
        for (int64_t r = 0; r < 4; ++r) {
          ASSERT_EQ(gathered.at(r, c), to_bf16(all.at(gather[size_t(r)], c)));
        }
      }
      ASSERT_EQ(gathered.at(0, n), 0xdead);
    }
  }
}

TEST_P(ElementwiseTest, RmsNormOfNoRows) {
  Floats32 x = padded_copy(random_floats(64, 1), 2, 32);
  const std::vector<float> weight(32, 1.f);
  float untouched = 7.f;
  run_team(2, [&](CpuStream& stream) {
    rms_norm(
        stream, GetParam(),
        {x.view, weight.data(), 1e-5f, TensorView::matrix(&untouched, DType::kFloat32, 0, 32), {}});
  });
  EXPECT_EQ(untouched, 7.f);
}

TEST_P(ElementwiseTest, RoundingToBf16IsNearestEvenForEveryKindOfValue) {
  // x * (1 / rms) * weight with rms = 1 and weight = v leaves v: a row of ones and epsilon 0.
  std::vector<float> values = {0.f,        -0.f,          kInfinity,     -kInfinity, kNan,
                               3.4028e38f, -3.4028e38f,   1e-40f,        -1e-40f,    0x1p-149f,
                               0x1p-126f,  3.3895314e38f, 3.3961775e38f, 1.f,        -1.f};
  std::mt19937 engine(3);
  for (int i = 0; i < 20000; ++i) {
    values.push_back(std::bit_cast<float>(uint32_t(engine())));
    values.push_back(std::bit_cast<float>(uint32_t(engine()) << 15));  // ties
  }
  values.push_back(std::bit_cast<float>(0x7f800001u));  // a NaN whose upper half is infinity
  values.push_back(std::bit_cast<float>(0xffffffffu));
  const auto n = int64_t(values.size());
  std::vector<float> ones(size_t(n), 1.f);
  std::vector<uint16_t> y(size_t(n), 0);
  run_team(1, [&](CpuStream& stream) {
    rms_norm(stream, GetParam(),
             {TensorView::matrix(ones.data(), DType::kFloat32, 1, n),
              values.data(),
              0.f,
              TensorView::matrix(y.data(), DType::kBFloat16, 1, n),
              {}});
  });
  for (size_t i = 0; i < y.size(); ++i) {
    if (std::isnan(values[i])) {
      ASSERT_GT(y[i] & 0x7fff, 0x7f80) << i;
    } else {
      ASSERT_EQ(y[i], to_bf16(values[i])) << values[i];
    }
  }
}

// --- Embedding ---

double half_to_double(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int fraction = half & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

TEST_P(ElementwiseTest, EmbedWidensEveryHalfFloatExactly) {
  std::vector<uint16_t> table(65536);
  for (size_t i = 0; i < table.size(); ++i) table[i] = uint16_t(i);
  std::vector<float> x(65536);
  const std::vector<int32_t> tokens = {0};
  run_team(1, [&](CpuStream& stream) {
    embed(stream, GetParam(),
          {tokens,
           TensorView::matrix(table.data(), DType::kFloat16, 1, 65536),
           0,
           {},
           TensorView::matrix(x.data(), DType::kFloat32, 1, 65536)});
  });
  for (size_t i = 0; i < table.size(); ++i) {
    if ((i & 0x7c00) != 0x7c00) {
      ASSERT_EQ(bits(x[i]), bits(float(half_to_double(uint16_t(i))) + 0.f)) << i;
    } else if ((i & 0x3ff) == 0) {
      ASSERT_EQ(x[i], i & 0x8000 ? -kInfinity : kInfinity);
    } else {
      ASSERT_TRUE(std::isnan(x[i]));
    }
  }
}

TEST_P(ElementwiseTest, EmbedSlicesLookAheadAndTeams) {
  constexpr int32_t kVocabulary = 12;
  for (const int64_t hidden : {1, 16, 37, 512}) {
    std::vector<float> values = random_floats(size_t(kVocabulary * hidden), 5);
    values[0] = -0.f;
    Padded<uint16_t> table(kVocabulary, hidden, DType::kBFloat16, 0x7fc0);
    for (int64_t r = 0; r < kVocabulary; ++r) {
      for (int64_t c = 0; c < hidden; ++c) {
        table.at(r, c) = to_bf16(values[size_t(r * hidden + c)]);
      }
    }
    Floats32 ahead = padded_copy(random_floats(size_t(2 * hidden), 6), 2, hidden);
    ahead.at(1, 0) = -0.f;
    const std::vector<int32_t> tokens = {0, 11, -2, 5, 6, -1, 0};
    const auto rows = int64_t(tokens.size());
    for (int threads = 1; threads <= 4; ++threads) {
      for (const bool upper : {false, true}) {
        Floats32 x(rows, hidden, DType::kFloat32, kNan);
        run_team(threads, [&](CpuStream& stream) {
          embed(stream, GetParam(),
                {tokens, upper ? table.view.row_range(6, 12) : table.view.row_range(0, 6),
                 upper ? 6 : 0, ahead.view, x.view});
          // Fewer rows than threads: columns are split.
        });
        for (int64_t r = 0; r < rows; ++r) {
          const int32_t token = tokens[size_t(r)];
          for (int64_t c = 0; c < hidden; ++c) {
            float expected = 0.f;
            if (token < 0 && !upper) expected = ahead.at(-1 - token, c) + 0.f;
            if (token >= 0 && (token >= 6) == upper) {
              expected = std::bit_cast<float>(uint32_t(table.at(token, c)) << 16) + 0.f;
            }
            ASSERT_EQ(bits(x.at(r, c)), bits(expected)) << "row " << r << " column " << c;
          }
          ASSERT_TRUE(std::isnan(x.at(r, hidden)));
        }
      }
      Floats32 x(1, hidden, DType::kFloat32, kNan);
      run_team(threads, [&](CpuStream& stream) {
        embed(stream, GetParam(), {std::span(tokens).subspan(3, 1), table.view, 0, {}, x.view});
      });
      for (int64_t c = 0; c < hidden; ++c) {
        ASSERT_EQ(bits(x.at(0, c)), uint32_t(table.at(5, c)) << 16);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, ElementwiseTest,
                         testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512Bf16),
                         [](const auto& isa) { return test_name(isa.param); });

}  // namespace
}  // namespace convoke::cpu
