#include "kernels/cpu/matmul.h"

#include <algorithm>

#include "tests/kernels/matmul_fixture.h"

namespace convoke::cpu {
namespace {

struct Path {
  Isa isa;
  DType dtype;
};

std::string path_name(const testing::TestParamInfo<Path>& info) {
  std::string name(isa_name(info.param.isa));
  std::replace(name.begin(), name.end(), '-', '_');
  return name + "_" + std::string(dtype_name(info.param.dtype));
}

class Matmul : public testing::TestWithParam<Path> {
 protected:
  void SetUp() override {
    if (GetParam().isa > best_isa()) GTEST_SKIP() << "this machine lacks it";
  }
  Isa isa() const { return GetParam().isa; }
  DType dtype() const { return GetParam().dtype; }

  float normal() { return std::normal_distribution<float>()(random_); }
  float integer(int limit) {
    return float(std::uniform_int_distribution<int>(-limit, limit)(random_));
  }

  MatrixSource source(const GuardedMatrix& weights, int groups = 1) const {
    return {.parts = {weights.view()}, .dtype = dtype(), .groups = groups};
  }

  std::mt19937 random_{20240607};
};

INSTANTIATE_TEST_SUITE_P(
    Paths, Matmul,
    testing::Values(Path{Isa::kPortable, DType::kBFloat16}, Path{Isa::kPortable, DType::kFloat32},
                    Path{Isa::kAvx2, DType::kBFloat16}, Path{Isa::kAvx2, DType::kFloat32},
                    Path{Isa::kAvx512Bf16, DType::kBFloat16},
                    Path{Isa::kAvx512Bf16, DType::kFloat32}, Path{Isa::kAmxBf16, DType::kBFloat16},
                    Path{Isa::kAmxBf16, DType::kFloat32}),
    path_name);

struct Shape {
  int64_t inputs, outputs;
  int groups;
};

const Shape kOddShapes[] = {{1, 1, 1},    {2, 16, 1},   {3, 17, 1},    {31, 15, 1},  {32, 32, 1},
                            {33, 64, 1},  {95, 47, 1},  {64, 80, 2},   {24, 40, 8},  {40, 33, 8},
                            {520, 48, 8}, {512, 96, 8}, {512, 40, 32}, {300, 70, 4}, {2048, 21, 1}};

TEST_P(Matmul, SmallIntegersAreExact) {
  Products products(isa(), 3);
  for (const Shape& shape : kOddShapes) {
    GuardedMatrix weights(dtype(), shape.outputs, shape.inputs, 1);
    weights.fill([&] { return integer(3); });
    const auto packed = products.pack(source(weights, shape.groups));
    EXPECT_EQ(packed->outputs(), shape.outputs);
    EXPECT_EQ(packed->inputs(), shape.inputs);
    EXPECT_EQ(packed->activation_dtype(), dtype());
    for (int64_t rows : {1, 2, 5, 16, 17, 33, 70}) {
      GuardedMatrix x(dtype(), rows, shape.inputs, rows % 2 == 0 ? 0 : 5);
      x.fill([&] { return integer(4); });
      const std::vector<float> y = products.product(x.view(), *packed);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t n = 0; n < shape.outputs; ++n) {
          int64_t sum = 0;
          for (int64_t k = 0; k < shape.inputs; ++k) {
            sum += int64_t(load(x.view(), r, k)) * int64_t(load(weights.view(), n, k));
          }
          ASSERT_EQ(y[size_t(r * shape.outputs + n)], float(sum))
              << shape.inputs << " inputs, " << shape.outputs << " outputs, " << shape.groups
              << " groups, " << rows << " rows, at " << r << ", " << n;
        }
      }
    }
  }
}

TEST_P(Matmul, IsWithinTheRoundingBoundOfDoublePrecision) {
  Products products(isa());
  for (const Shape& shape : {Shape{777, 50, 1}, Shape{1024, 64, 8}, Shape{4096, 35, 8}}) {
    GuardedMatrix weights(dtype(), shape.outputs, shape.inputs);
    weights.fill([&] { return normal(); });
    const auto packed = products.pack(source(weights, shape.groups));
    for (int64_t rows : {1, 40}) {
      GuardedMatrix x(dtype(), rows, shape.inputs);
      x.fill([&] { return normal(); });
      std::vector<float> bias(size_t(shape.outputs), 0.0f);
      for (float& value : bias) value = normal();
      const std::vector<float> y = products.product(x.view(), *packed, bias.data());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t n = 0; n < shape.outputs; ++n) {
          double sum = bias[size_t(n)], magnitude = std::abs(sum);
          for (int64_t k = 0; k < shape.inputs; ++k) {
            const double term = double(load(x.view(), r, k)) * load(weights.view(), n, k);
            sum += term;
            magnitude += std::abs(term);
          }
          // Every term passes at most inputs + 2 roundings (a product, its additions, the bias),
          // each of relative error 2^-24; AMX and VDPBF16PS round to nearest as well.
          const double bound = magnitude * double(shape.inputs + 2) * 0x1p-24 * 1.01;
          ASSERT_NEAR(y[size_t(r * shape.outputs + n)], sum, bound);
        }
      }
    }
  }
}

TEST_P(Matmul, ARowsBitsDoNotDependOnItsCompany) {
  for (const Shape& shape : {Shape{1024, 80, 1}, Shape{2048, 48, 8}, Shape{130, 37, 2}}) {
    Products products(isa());
    constexpr int64_t kRows = 600;
    GuardedMatrix weights(dtype(), shape.outputs, shape.inputs);
    weights.fill([&] { return normal(); });
    const auto packed = products.pack(source(weights, shape.groups));
    GuardedMatrix x(dtype(), kRows, shape.inputs);
    x.fill([&] { return normal(); });
    const std::vector<float> all = products.product(x.view(), *packed);
    for (int64_t rows : {1,  2,  3,  4,  5,  7,  8,   12,  13,  16,  17, 24,
                         25, 31, 32, 33, 48, 64, 100, 257, 511, 512, 513}) {
      for (int64_t first : {int64_t(0), (kRows - rows) / 2, kRows - rows}) {
        const std::vector<float> some =
            products.product(x.view().row_range(first, first + rows), *packed);
        ASSERT_TRUE(
            same_bits(some.data(), all.data() + first * shape.outputs, rows * shape.outputs))
            << rows << " rows from " << first << ", " << shape.inputs << " inputs";
      }
    }
  }
}

TEST_P(Matmul, BitsDoNotDependOnTheThreads) {
  const Shape shape{512, 200, 8};
  GuardedMatrix weights(dtype(), shape.outputs, shape.inputs);
  weights.fill([&] { return normal(); });
  GuardedMatrix x(dtype(), 150, shape.inputs);
  x.fill([&] { return normal(); });
  for (int64_t rows : {1, 6, 40, 150}) {
    std::vector<float> expected;
    for (int threads : {1, 2, 3, 4, 16}) {
      Products products(isa(), threads);
      const auto packed = products.pack(source(weights, shape.groups));
      const std::vector<float> y = products.product(x.view().row_range(0, rows), *packed);
      if (expected.empty()) expected = y;
      ASSERT_TRUE(same_bits(y.data(), expected.data(), int64_t(y.size())))
          << threads << " threads, " << rows << " rows";
    }
  }
}

TEST_P(Matmul, GroupsSplitOverRanksGiveTheSameBits) {
  Products products(isa());
  for (int64_t inputs : {256, 520, 4096, 8192}) {
    constexpr int kGroups = 8;
    constexpr int64_t kOutputs = 50;
    GuardedMatrix weights(dtype(), kOutputs, inputs);
    weights.fill([&] { return normal(); });
    for (int64_t rows : {1, 9, 20, 65, 300}) {
      GuardedMatrix x(dtype(), rows, inputs);
      x.fill([&] { return normal(); });
      const auto whole = products.pack(source(weights, kGroups));
      const std::vector<float> expected = products.product(x.view(), *whole);
      for (int tp : {2, 4, 8}) {
        std::vector<std::vector<float>> partial;
        for (int rank = 0; rank < tp; ++rank) {
          const int64_t begin = inputs * rank / tp, end = inputs * (rank + 1) / tp;
          const auto slice = products.pack({.parts = {weights.view().col_range(begin, end)},
                                            .dtype = dtype(),
                                            .groups = kGroups / tp});
          partial.push_back(products.product(x.view().col_range(begin, end), *slice));
        }
        const std::vector<float> sum = tree_sum(partial, 0, partial.size());
        ASSERT_TRUE(same_bits(sum.data(), expected.data(), int64_t(sum.size())))
            << "tp " << tp << ", " << rows << " rows, " << inputs << " inputs";
      }
      // The tree is not the plain sum: with one group some bits must differ.
      const auto one = products.pack(source(weights, 1));
      const std::vector<float> plain = products.product(x.view(), *one);
      EXPECT_FALSE(same_bits(plain.data(), expected.data(), int64_t(plain.size())));
    }
  }
}

TEST_P(Matmul, StackedPartsOfAnyDtypeEqualOneMatrix) {
  Products products(isa(), 2);
  constexpr int64_t kInputs = 77;
  GuardedMatrix q(DType::kBFloat16, 21, kInputs, 4), k(DType::kFloat16, 1, kInputs),
      none(DType::kFloat32, 0, kInputs), v(DType::kFloat32, 30, kInputs, 9);
  for (GuardedMatrix* part : {&q, &k, &v}) part->fill([&] { return integer(60) / 32; });
  GuardedMatrix joined(dtype(), 52, kInputs);
  int64_t row = 0;
  for (const GuardedMatrix* part : {&q, &k, &v}) {
    for (int64_t r = 0; r < part->view().rows; ++r, ++row) {
      for (int64_t c = 0; c < kInputs; ++c) store(joined.view(), row, c, load(part->view(), r, c));
    }
  }
  const auto stacked = products.pack(
      {.parts = {q.view(), k.view(), none.view(), v.view()}, .dtype = dtype(), .groups = 1});
  const auto whole = products.pack(source(joined));
  ASSERT_EQ(stacked->bytes(), whole->bytes());
  EXPECT_EQ(std::memcmp(stacked->data(), whole->data(), whole->bytes()), 0);
}

TEST_P(Matmul, BiasIsAddedAfterTheSum) {
  Products products(isa());
  GuardedMatrix weights(dtype(), 40, 96);
  weights.fill([&] { return normal(); });
  const auto packed = products.pack(source(weights, 2));
  GuardedMatrix bias(DType::kFloat32, 1, 40);
  bias.fill([&] { return normal(); });
  for (int64_t rows : {1, 50}) {
    GuardedMatrix x(dtype(), rows, 96);
    x.fill([&] { return normal(); });
    std::vector<float> expected = products.product(x.view(), *packed);
    for (size_t i = 0; i < expected.size(); ++i) {
      expected[i] += bias.view().row<float>(0)[i % 40];
    }
    const std::vector<float> y =
        products.product(x.view(), *packed, bias.view().row<const float>(0));
    EXPECT_TRUE(same_bits(y.data(), expected.data(), int64_t(y.size())));
  }
}

TEST_P(Matmul, NanAndInfinityStayInTheirRow) {
  Products products(isa());
  for (int64_t inputs : {64, 45}) {
    GuardedMatrix weights(dtype(), 33, inputs);
    weights.fill([&] { return normal(); });
    const auto packed = products.pack(source(weights));
    for (int64_t rows : {2, 20, 90}) {
      GuardedMatrix x(dtype(), rows, inputs);
      x.fill([&] { return normal(); });
      const std::vector<float> clean = products.product(x.view(), *packed);
      const int64_t bad = rows / 2;
      store(x.view(), bad, inputs - 1, NAN);
      store(x.view(), bad, 0, INFINITY);
      const std::vector<float> y = products.product(x.view(), *packed);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = r * 33;
        if (r == bad) {
          for (int64_t n = 0; n < 33; ++n) EXPECT_TRUE(std::isnan(y[size_t(at + n)]));
        } else {
          EXPECT_TRUE(same_bits(&y[size_t(at)], &clean[size_t(at)], 33)) << r;
        }
      }
    }
  }
}

TEST_P(Matmul, NoRowsAndNoOutputs) {
  Products products(isa());
  GuardedMatrix weights(dtype(), 5, 8);
  weights.fill([&] { return 1.0f; });
  const auto packed = products.pack(source(weights));
  GuardedMatrix no_rows(dtype(), 0, 8);
  EXPECT_TRUE(products.product(no_rows.view(), *packed).empty());

  GuardedMatrix no_weights(dtype(), 0, 8);
  const auto empty = products.pack(source(no_weights));
  EXPECT_EQ(empty->bytes(), 0u);
  GuardedMatrix x(dtype(), 3, 8);
  x.fill([&] { return 1.0f; });
  EXPECT_TRUE(products.product(x.view(), *empty).empty());
}

}  // namespace
}  // namespace convoke::cpu
