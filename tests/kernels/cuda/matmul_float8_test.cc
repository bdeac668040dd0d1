// Products with weights of 8 bits: their bits are those of bfloat16 weights of the same values,
// group by group, times the scales.
#include "kernels/cpu/elementwise.h"
#include "tests/kernels/cuda/matmul_fixture.h"

namespace convoke::cuda {
namespace {

using cpu::GuardedMatrix;

/// Every code but NaN.
GuardedMatrix codes(int64_t outputs, int64_t inputs, Normal& random, int64_t gap = 0) {
  GuardedMatrix weights(DType::kFloat8E4M3, outputs, inputs, gap);
  for (int64_t r = 0; r < outputs; ++r) {
    for (int64_t c = 0; c < inputs; ++c) {
      const auto bits = uint8_t(random.below(256));
      weights.view().row<uint8_t>(r)[c] = (bits & 0x7f) == 0x7f ? 0x80 : bits;
    }
  }
  return weights;
}

std::vector<float> scales(int64_t outputs, Normal& random) {
  std::vector<float> values;
  for (int64_t n = 0; n < outputs; ++n) values.push_back(0.01f * std::abs(random()) + 1e-5f);
  return values;
}

GuardedMatrix converted(const TensorView& weights) {
  GuardedMatrix wide(DType::kBFloat16, weights.rows, weights.cols);
  for (int64_t r = 0; r < weights.rows; ++r) {
    for (int64_t c = 0; c < weights.cols; ++c) {
      cpu::store(wide.view(), r, c, cpu::load(weights, r, c));
    }
  }
  return wide;
}

struct Case {
  int64_t outputs, inputs;
  int groups;
};
const std::vector<Case> kCases = {{1, 32, 1},  {16, 64, 1},  {37, 96, 1},
                                  {70, 40, 1}, {33, 256, 8}, {48, 520, 4},
                                  {5, 5, 1},   {18, 264, 8}, {40, 1000, 2}};

GuardedMatrix run(const PackedMatrix& weights, const TensorView& x, bool clusters) {
  GuardedMatrix y(DType::kFloat32, x.rows, weights.outputs(), 1);
  on_device::matmul({.x = x, .weights = &weights, .y = y.view()}, clusters);
  return y;
}

/// The groups' products with bfloat16 weights, times the scales, as a tree.
GuardedMatrix oracle(const Case& c, const TensorView& codes, const std::vector<float>& scale,
                     const TensorView& x, cpu::Products& products) {
  const GuardedMatrix wide = converted(codes);
  std::vector<GuardedMatrix> sums;
  for (int g = 0; g < c.groups; ++g) {
    const int64_t begin = c.inputs / c.groups * g, end = c.inputs / c.groups * (g + 1);
    const Weights one({.parts = {wide.view().col_range(begin, end)}}, products);
    GuardedMatrix& sum = sums.emplace_back(run(*one.packed, x.col_range(begin, end), true));
    for (int64_t r = 0; r < x.rows; ++r) {
      for (int64_t n = 0; n < c.outputs; ++n) sum.view().row<float>(r)[n] *= scale[size_t(n)];
    }
  }
  for (int step = 1; step < c.groups; step *= 2) {
    for (int g = 0; g + step < c.groups; g += 2 * step) {
      for (int64_t r = 0; r < x.rows; ++r) {
        for (int64_t n = 0; n < c.outputs; ++n) {
          sums[size_t(g)].view().row<float>(r)[n] += sums[size_t(g + step)].view().row<float>(r)[n];
        }
      }
    }
  }
  return std::move(sums[0]);
}

TEST(CudaFloat8, HasTheBitsOfBfloat16WeightsTimesTheScales) {
  cpu::Products products(cpu::Isa::kPortable, 1);
  for (const Case& c : kCases) {
    Normal random(uint32_t(c.outputs + c.inputs));
    const GuardedMatrix w = codes(c.outputs, c.inputs, random, 3);
    const std::vector<float> scale = scales(c.outputs, random);
    const Weights weights(
        {.parts = {w.view()}, .dtype = DType::kFloat8E4M3, .groups = c.groups, .scales = scale},
        products);
    EXPECT_EQ(weights.packed->activation_dtype(), DType::kBFloat16);
    for (const int64_t rows : {1, 9, 20, 64}) {
      if (kSanitized && rows != 9) continue;
      GuardedMatrix x(DType::kBFloat16, rows, c.inputs, 8);
      x.fill(random);
      const GuardedMatrix want = oracle(c, w.view(), scale, x.view(), products);
      for (const bool clusters : {false, true}) {
        const GuardedMatrix got = run(*weights.packed, x.view(), clusters);
        ASSERT_TRUE(same_bits(got.view(), want.view()))
            << c.outputs << " x " << c.inputs << " in " << c.groups << " groups, " << rows
            << " rows";
      }
    }
  }
}

TEST(CudaFloat8, IsNearTheCpuWithScalesGivenAndChosen) {
  cpu::Products products(cpu::Isa::kPortable, 1);
  for (const Case& c : kCases) {
    for (const bool gated : {false, true}) {
      Normal random(uint32_t(c.outputs * 2 + c.inputs));
      const GuardedMatrix first = codes(c.outputs, c.inputs, random, 3);
      const GuardedMatrix second = codes(c.outputs, c.inputs, random);
      GuardedMatrix plain(DType::kBFloat16, c.outputs, c.inputs);
      GuardedMatrix wide(DType::kFloat32, c.outputs, c.inputs, 1);
      plain.fill(random), wide.fill(random);
      const std::vector<float> scale = scales(2 * c.outputs, random);
      for (const bool given : {false, true}) {
        MatrixSource source{{plain.view(), wide.view()}, DType::kFloat8E4M3, c.groups, gated};
        if (given) source.parts = {first.view(), second.view()}, source.scales = scale;
        const Weights weights(source, products);
        const int64_t outputs = weights.packed->outputs();
        GuardedMatrix x(DType::kBFloat16, 5, c.inputs), want(DType::kFloat32, 5, outputs);
        x.fill(random);
        products.run({.x = x.view(), .weights = weights.oracle.get(), .y = want.view()});
        const GuardedMatrix got = run(*weights.packed, x.view(), true);
        const double size = std::sqrt(double(c.inputs)) * (gated ? 40 : 4);
        ASSERT_TRUE(near(got.view(), want.view(), 1e-5, 3e-6 * size)) << c.inputs << gated << given;
      }
    }
  }
}

TEST(CudaFloat8, ChosenScalesAreThoseOfTheCpu) {
  cpu::Products products(cpu::Isa::kPortable, 1);
  Normal random(5);
  GuardedMatrix w(DType::kFloat32, 40, 70);
  w.fill(random);
  for (int64_t k = 0; k < 70; ++k) cpu::store(w.view(), 3, k, 0.0f);
  cpu::store(w.view(), 4, 69, INFINITY);
  cpu::store(w.view(), 5, 0, kNan);
  const Weights weights({.parts = {w.view()}, .dtype = DType::kFloat8E4M3}, products);
  const std::vector<float> scales = read_back(weights.packed->scales(), 40);
  for (int64_t n = 0; n < 40; ++n) {
    const float scale = scales[size_t(n)], want = weights.oracle->scales()[n];
    EXPECT_EQ(std::isnan(scale), n == 4 || n == 5) << n;
    EXPECT_TRUE(std::isnan(scale) || scale == want) << n;
  }
  EXPECT_EQ(scales[3], 1.0f);
}

TEST(CudaFloat8, NanWeightsMakeTheirOutputsNanAndNoOthers) {
  cpu::Products products(cpu::Isa::kPortable, 1);
  Normal random(6);
  GuardedMatrix w = codes(33, 64, random);
  const std::vector<float> scale = scales(33, random);
  const MatrixSource source{
      .parts = {w.view()}, .dtype = DType::kFloat8E4M3, .groups = 2, .scales = scale};
  const Weights clean(source, products);
  w.view().row<uint8_t>(7)[5] = 0x7f;
  w.view().row<uint8_t>(32)[63] = 0xff;
  const Weights weights(source, products);
  GuardedMatrix x(DType::kBFloat16, 9, 64);
  x.fill(random);
  const GuardedMatrix got = run(*weights.packed, x.view(), true);
  const GuardedMatrix want = run(*clean.packed, x.view(), true);
  for (int64_t r = 0; r < 9; ++r) {
    for (int64_t n = 0; n < 33; ++n) {
      const float value = cpu::load(got.view(), r, n);
      if (n == 7 || n == 32) {
        EXPECT_TRUE(std::isnan(value));
      } else {
        EXPECT_EQ(value, cpu::load(want.view(), r, n));
      }
    }
  }
}

TEST(CudaFloat8, BitsDependOnNeitherCompanyNorSchedules) {
  cpu::Products products(cpu::Isa::kPortable, 1);
  for (const Case& c : {Case{40, 320, 1}, Case{33, 512, 8}}) {
    Normal random(7);
    const GuardedMatrix w = codes(c.outputs, c.inputs, random);
    const std::vector<float> scale = scales(c.outputs, random);
    const Weights weights(
        {.parts = {w.view()}, .dtype = DType::kFloat8E4M3, .groups = c.groups, .scales = scale},
        products);
    GuardedMatrix x(DType::kBFloat16, 100, c.inputs, 8);
    x.fill(random);
    const GuardedMatrix all = run(*weights.packed, x.view(), true);
    for (const int64_t rows : {1, 8, 17, 33, 64}) {
      if (kSanitized && rows != 17) continue;
      const GuardedMatrix some = run(*weights.packed, x.view().row_range(30, 30 + rows), true);
      ASSERT_TRUE(same_bits(some.view(), all.view().row_range(30, 30 + rows))) << rows;
    }
    const TensorView few = x.view().row_range(0, 12);
    under_every_schedule([&] {
      EXPECT_TRUE(same_bits(run(*weights.packed, few, true).view(), all.view().row_range(0, 12)));
      EXPECT_TRUE(same_bits(run(*weights.packed, few, false).view(), all.view().row_range(0, 12)));
    });
  }
}

TEST(CudaFloat8, NormalisesAccumulatesAndGates) {
  cpu::Products products(cpu::Isa::kPortable, 1);
  Normal random(9);
  const GuardedMatrix w = codes(30, 200, random), u = codes(30, 200, random);
  const std::vector<float> scale = scales(60, random);
  MatrixSource source{.parts = {w.view(), u.view()}, .dtype = DType::kFloat8E4M3, .scales = scale};
  const Weights stacked(source, products);
  source.gated = true;
  const Weights gated(source, products);
  GuardedMatrix x(DType::kFloat32, 9, 200, 1), weight(DType::kFloat32, 1, 200);
  GuardedMatrix bias(DType::kFloat32, 1, 60), normed(DType::kBFloat16, 9, 200);
  GuardedMatrix y(DType::kFloat32, 9, 60), before(DType::kFloat32, 9, 60);
  x.fill(random), weight.fill(random), y.fill(random), bias.fill(random);
  const float* const norm = weight.view().row<float>(0);
  on_device::rms_norm({x.view(), norm, 1e-5f, normed.view(), {}});
  on_device::convert(y.view(), before.view());
  on_device::matmul({.x = x.view(),
                     .weights = stacked.packed.get(),
                     .bias = bias.view().row<float>(0),
                     .y = y.view(),
                     .norm_weight = norm,
                     .norm_epsilon = 1e-5f,
                     .accumulate = true},
                    true);
  const GuardedMatrix sum = run(*stacked.packed, normed.view(), true);
  for (int64_t r = 0; r < 9; ++r) {
    for (int64_t n = 0; n < 60; ++n) {
      const float a = cpu::load(before.view(), r, n) + cpu::load(sum.view(), r, n);
      ASSERT_EQ(cpu::load(y.view(), r, n), a + cpu::load(bias.view(), 0, n));
    }
  }
  GuardedMatrix want(DType::kBFloat16, 9, 30), got(DType::kBFloat16, 9, 30);
  on_device::silu_mul({sum.view(), want.view()});
  on_device::matmul({.x = normed.view(), .weights = gated.packed.get(), .y = got.view()}, true);
  EXPECT_TRUE(same_bits(got.view(), want.view()));
}

}  // namespace
}  // namespace convoke::cuda
