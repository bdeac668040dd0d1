// Products with weights of 8 bits. The oracle for their bits is what the same path computes with
// the weights converted to bfloat16, group by group, times the scales; the oracle for their values
// is double precision.
#include <algorithm>

#include "kernels/cpu/elementwise.h"
#include "tests/kernels/matmul_fixture.h"

namespace convoke::cpu {
namespace {

class Float8Matmul : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (GetParam() > best_isa()) GTEST_SKIP() << "this machine lacks it";
  }
  Isa isa() const { return GetParam(); }
  float normal() { return std::normal_distribution<float>()(random_); }

  /// Every code but NaN, subnormals as often as all others.
  GuardedMatrix codes(int64_t outputs, int64_t inputs, int64_t gap = 0) {
    GuardedMatrix weights(DType::kFloat8E4M3, outputs, inputs, gap);
    std::uniform_int_distribution<int> code(0, 255);
    for (int64_t r = 0; r < outputs; ++r) {
      for (int64_t c = 0; c < inputs; ++c) {
        int bits = code(random_);
        if ((bits & 0x7f) == 0x7f) bits = 0x80;
        weights.view().row<uint8_t>(r)[c] = uint8_t(bits);
      }
    }
    return weights;
  }
  std::vector<float> scales(int64_t outputs) {
    std::vector<float> values;
    for (int64_t n = 0; n < outputs; ++n) values.push_back(std::abs(normal()) * 0.01f + 1e-5f);
    return values;
  }
  GuardedMatrix inputs(int64_t rows, int64_t count, int64_t gap = 0) {
    GuardedMatrix x(DType::kBFloat16, rows, count, gap);
    x.fill([&] { return normal(); });
    return x;
  }

  std::mt19937 random_{20241105};
};

std::string path_name(const testing::TestParamInfo<Isa>& path) {
  std::string name(isa_name(path.param));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Paths, Float8Matmul,
                         testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512Bf16,
                                         Isa::kAmxBf16),
                         path_name);

MatrixSource source(const GuardedMatrix& weights, const std::vector<float>& scales, int groups) {
  return {
      .parts = {weights.view()}, .dtype = DType::kFloat8E4M3, .groups = groups, .scales = scales};
}

GuardedMatrix converted(const TensorView& weights) {
  GuardedMatrix wide(DType::kBFloat16, weights.rows, weights.cols);
  for (int64_t r = 0; r < weights.rows; ++r) {
    for (int64_t c = 0; c < weights.cols; ++c) store(wide.view(), r, c, load(weights, r, c));
  }
  return wide;
}

struct Shape {
  int64_t inputs, outputs;
  int groups;
};

constexpr Shape kShapes[] = {{1, 1, 1},     {2, 16, 1},   {3, 17, 1},    {31, 15, 1},  {33, 64, 1},
                             {66, 47, 1},   {64, 80, 2},  {24, 40, 8},   {40, 33, 8},  {520, 48, 8},
                             {512, 40, 32}, {300, 70, 4}, {1234, 37, 1}, {2600, 81, 2}};

TEST_P(Float8Matmul, HasTheBitsOfBfloat16WeightsTimesTheScales) {
  Products products(isa(), 3);
  for (const Shape& shape : kShapes) {
    const GuardedMatrix weights = codes(shape.outputs, shape.inputs, 1);
    const std::vector<float> scale = scales(shape.outputs);
    const auto packed = products.pack(source(weights, scale, shape.groups));
    EXPECT_EQ(packed->outputs(), shape.outputs);
    EXPECT_EQ(packed->inputs(), shape.inputs);
    EXPECT_EQ(packed->activation_dtype(), DType::kBFloat16);
    const GuardedMatrix wide = converted(weights.view());
    std::vector<float> bias(size_t(shape.outputs), 0.0f);
    for (float& value : bias) value = normal();
    for (int64_t rows : {1, 2, 3, 5, 12, 13, 24, 25, 33, 70, 300}) {
      const GuardedMatrix x = inputs(rows, shape.inputs, rows % 2 == 0 ? 0 : 5);
      std::vector<std::vector<float>> groups;
      for (int g = 0; g < shape.groups; ++g) {
        const int64_t begin = shape.inputs / shape.groups * g;
        const int64_t end = shape.inputs / shape.groups * (g + 1);
        const auto one = products.pack({.parts = {wide.view().col_range(begin, end)}});
        groups.push_back(products.product(x.view().col_range(begin, end), *one));
        for (size_t i = 0; i < groups.back().size(); ++i) {
          groups.back()[i] *= scale[i % size_t(shape.outputs)];
        }
      }
      std::vector<float> expected = tree_sum(groups, 0, groups.size());
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += bias[i % bias.size()];
      const std::vector<float> y = products.product(x.view(), *packed, bias.data());
      ASSERT_TRUE(same_bits(y.data(), expected.data(), int64_t(y.size())))
          << shape.inputs << " inputs, " << shape.outputs << " outputs, " << shape.groups
          << " groups, " << rows << " rows";
    }
  }
}

TEST_P(Float8Matmul, IsWithinTheRoundingBoundOfDoublePrecision) {
  Products products(isa());
  for (const Shape& shape : {Shape{777, 50, 1}, Shape{2048, 35, 8}}) {
    const GuardedMatrix weights = codes(shape.outputs, shape.inputs);
    const std::vector<float> scale = scales(shape.outputs);
    const auto packed = products.pack(source(weights, scale, shape.groups));
    for (int64_t rows : {1, 40}) {
      const GuardedMatrix x = inputs(rows, shape.inputs);
      const std::vector<float> y = products.product(x.view(), *packed);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t n = 0; n < shape.outputs; ++n) {
          double sum = 0, magnitude = 0;
          for (int64_t k = 0; k < shape.inputs; ++k) {
            const double term = double(load(x.view(), r, k)) * load(weights.view(), n, k);
            sum += term * scale[size_t(n)];
            magnitude += std::abs(term) * scale[size_t(n)];
          }
          // As with bfloat16 weights (matmul_test.cc), and a rounding of the scaled sum.
          const double bound = magnitude * double(shape.inputs + 3) * 0x1p-24 * 1.01;
          ASSERT_NEAR(y[size_t(r * shape.outputs + n)], sum, bound);
        }
      }
    }
  }
}

TEST_P(Float8Matmul, ARowsBitsDependOnNeitherCompanyNorThreads) {
  for (const Shape& shape : {Shape{1024, 80, 1}, Shape{2048, 48, 8}, Shape{130, 37, 2}}) {
    constexpr int64_t kRows = 540;
    const GuardedMatrix weights = codes(shape.outputs, shape.inputs);
    const std::vector<float> scale = scales(shape.outputs);
    const GuardedMatrix x = inputs(kRows, shape.inputs);
    std::vector<float> all;
    for (int threads : {2, 1, 5}) {
      Products products(isa(), threads);
      const auto packed = products.pack(source(weights, scale, shape.groups));
      if (all.empty()) all = products.product(x.view(), *packed);
      for (int64_t rows : {1, 2, 4, 7, 12, 13, 17, 24, 25, 33, 73, 257, 513}) {
        const int64_t first = (kRows - rows) / 2;
        const std::vector<float> some =
            products.product(x.view().row_range(first, first + rows), *packed);
        ASSERT_TRUE(
            same_bits(some.data(), all.data() + first * shape.outputs, rows * shape.outputs))
            << rows << " rows, " << shape.inputs << " inputs, " << threads << " threads";
      }
    }
  }
}

TEST_P(Float8Matmul, GroupsSplitOverRanksGiveTheSameBits) {
  Products products(isa());
  constexpr int kGroups = 8;
  constexpr int64_t kOutputs = 50;
  for (int64_t count : {520, 4096}) {
    const GuardedMatrix weights = codes(kOutputs, count);
    const std::vector<float> scale = scales(kOutputs);
    const auto whole = products.pack(source(weights, scale, kGroups));
    for (int64_t rows : {1, 20, 100}) {
      const GuardedMatrix x = inputs(rows, count);
      const std::vector<float> expected = products.product(x.view(), *whole);
      for (int tp : {2, 4, 8}) {
        std::vector<std::vector<float>> partial;
        for (int rank = 0; rank < tp; ++rank) {
          const int64_t begin = count * rank / tp, end = count * (rank + 1) / tp;
          const auto slice = products.pack({.parts = {weights.view().col_range(begin, end)},
                                            .dtype = DType::kFloat8E4M3,
                                            .groups = kGroups / tp,
                                            .scales = scale});
          partial.push_back(products.product(x.view().col_range(begin, end), *slice));
        }
        const std::vector<float> sum = tree_sum(partial, 0, partial.size());
        ASSERT_TRUE(same_bits(sum.data(), expected.data(), int64_t(sum.size())))
            << "tp " << tp << ", " << rows << " rows, " << count << " inputs";
      }
    }
  }
}

TEST_P(Float8Matmul, StacksKeepTheScalesOfTheirParts) {
  Products products(isa());
  constexpr int64_t kInputs = 77;
  const GuardedMatrix q = codes(21, kInputs, 4), k = codes(1, kInputs), v = codes(30, kInputs, 9);
  const std::vector<float> scale = scales(52);
  const auto stacked = products.pack(
      {.parts = {q.view(), k.view(), v.view()}, .dtype = DType::kFloat8E4M3, .scales = scale});
  GuardedMatrix joined(DType::kFloat8E4M3, 52, kInputs);
  int64_t row = 0;
  for (const GuardedMatrix* part : {&q, &k, &v}) {
    for (int64_t r = 0; r < part->view().rows; ++r, ++row) {
      std::memcpy(joined.view().row<uint8_t>(row), part->view().row<uint8_t>(r), kInputs);
    }
  }
  const auto whole = products.pack(source(joined, scale, 1));
  ASSERT_EQ(stacked->bytes(), whole->bytes());
  EXPECT_EQ(std::memcmp(stacked->data(), whole->data(), whole->bytes()), 0);
  // A byte per weight, padding included, and a scale per output.
  EXPECT_EQ(whole->bytes(), 64u * (96 + sizeof(float)));
}

TEST_P(Float8Matmul, GatedPartsKeepTheirScales) {
  Products products(isa());
  constexpr int64_t kInputs = 130, kOutputs = 37;
  const GuardedMatrix gate = codes(kOutputs, kInputs), up = codes(kOutputs, kInputs, 3);
  const std::vector<float> scale = scales(2 * kOutputs);
  MatrixSource both{
      .parts = {gate.view(), up.view()}, .dtype = DType::kFloat8E4M3, .scales = scale};
  const auto stacked = products.pack(both);
  both.gated = true;
  const auto gated = products.pack(both);
  for (int64_t rows : {1, 30, 90}) {
    const GuardedMatrix x = inputs(rows, kInputs);
    const std::vector<float> y = products.product(x.view(), *gated);
    const std::vector<float> sums = products.product(x.view(), *stacked);
    const ElementwiseKernels& kernels = elementwise_kernels_for(isa());
    for (int64_t r = 0; r < rows; ++r) {
      std::vector<float> expected(size_t(kOutputs), 0.0f);
      const float* row = &sums[size_t(r * 2 * kOutputs)];
      kernels.silu_mul(row, row + kOutputs, reinterpret_cast<std::byte*>(expected.data()),
                       DType::kFloat32, kOutputs);
      ASSERT_TRUE(same_bits(&y[size_t(r * kOutputs)], expected.data(), kOutputs)) << r;
    }
  }
}

TEST_P(Float8Matmul, NanWeightsMakeTheirOutputsNanAndNoOthers) {
  Products products(isa());
  for (int groups : {1, 4}) {
    GuardedMatrix weights = codes(33, 64);
    const std::vector<float> scale = scales(33);
    const auto clean = products.pack(source(weights, scale, groups));
    weights.view().row<uint8_t>(7)[5] = 0x7f;
    weights.view().row<uint8_t>(32)[63] = 0xff;
    const auto packed = products.pack(source(weights, scale, groups));
    for (int64_t rows : {1, 90}) {
      GuardedMatrix x = inputs(rows, 64);
      store(x.view(), 0, 5, 0.0f);  // 0 * NaN is NaN
      const std::vector<float> expected = products.product(x.view(), *clean);
      const std::vector<float> y = products.product(x.view(), *packed);
      for (size_t i = 0; i < y.size(); ++i) {
        if (i % 33 == 7 || i % 33 == 32) {
          EXPECT_TRUE(std::isnan(y[i])) << i;
        } else {
          EXPECT_TRUE(same_bits(&y[i], &expected[i], 1)) << i;
        }
      }
    }
  }
}

TEST_P(Float8Matmul, ScalesMayBeChosenWhenWeightsArePacked) {
  Products products(isa());
  constexpr int64_t kInputs = 300, kOutputs = 40;
  for (const DType from : {DType::kBFloat16, DType::kFloat16, DType::kFloat32}) {
    GuardedMatrix weights(from, kOutputs, kInputs, 2);
    weights.fill([&] { return 0.1f * normal(); });
    for (int64_t c = 0; c < kInputs; ++c) store(weights.view(), 3, c, 0.0f);
    store(weights.view(), 5, 9, NAN);
    store(weights.view(), 6, 9, -INFINITY);
    GuardedMatrix rounded(DType::kFloat8E4M3, kOutputs, kInputs);
    std::vector<float> scale;
    for (int64_t n = 0; n < kOutputs; ++n) {
      float largest = 0;
      for (int64_t k = 0; k < kInputs; ++k) {
        largest = std::max(largest, std::abs(load(weights.view(), n, k)));
      }
      scale.push_back(n == 3 ? 1.0f : largest / 448);
      for (int64_t k = 0; k < kInputs; ++k) {
        store(rounded.view(), n, k,
              n == 5 || n == 6 ? NAN : load(weights.view(), n, k) / scale.back());
      }
      if (n == 3 || n == 5 || n == 6) continue;
      // Half a unit in the last of four places, or of the smallest subnormal.
      for (int64_t k = 0; k < kInputs; ++k) {
        const float exact = load(weights.view(), n, k);
        const float error = std::abs(load(rounded.view(), n, k) * scale.back() - exact);
        ASSERT_LE(error, std::max(std::abs(exact) * 0x1.01p-4f, scale.back() * 0x1.01p-10f));
      }
    }
    const auto chosen = products.pack({.parts = {weights.view()}, .dtype = DType::kFloat8E4M3});
    const auto given = products.pack(source(rounded, scale, 1));
    ASSERT_EQ(chosen->bytes(), given->bytes());
    EXPECT_EQ(std::memcmp(chosen->data(), given->data(), given->bytes()), 0);
  }
}

TEST_P(Float8Matmul, NoRowsAndNoOutputs) {
  Products products(isa());
  const GuardedMatrix weights = codes(5, 8);
  const auto packed = products.pack(source(weights, scales(5), 1));
  const GuardedMatrix no_rows = inputs(0, 8);
  EXPECT_TRUE(products.product(no_rows.view(), *packed).empty());
  const GuardedMatrix none = codes(0, 8);
  const auto empty = products.pack({.parts = {none.view()}, .dtype = DType::kFloat8E4M3});
  EXPECT_EQ(empty->bytes(), 0u);
  EXPECT_TRUE(products.product(inputs(3, 8).view(), *empty).empty());
}

}  // namespace
}  // namespace convoke::cpu
