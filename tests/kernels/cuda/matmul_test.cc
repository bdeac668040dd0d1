#include "kernels/cpu/elementwise.h"
#include "tests/kernels/cuda/matmul_fixture.h"

namespace convoke::cuda {
namespace {

using cpu::GuardedMatrix;

struct Case {
  int64_t outputs, inputs;
  int groups = 1;
  bool gated = false;
};

std::string name_of(const Case& c, DType dtype, int64_t rows) {
  return fmt::format("{} x {} in {} groups{}, {}, {} rows", c.outputs, c.inputs, c.groups,
                     c.gated ? ", gated" : "", dtype_name(dtype), rows);
}

/// x in the type that the CPU wants of these weights.
GuardedMatrix oracle_input(const TensorView& x, DType dtype) {
  GuardedMatrix copy(dtype, x.rows, x.cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) cpu::store(copy.view(), r, c, cpu::load(x, r, c));
  }
  return copy;
}

/// The product by both backends, `make` filling inputs and weights; returns {cuda, cpu}.
template <typename Make>
std::pair<GuardedMatrix, GuardedMatrix> products(const Case& c, DType dtype, int64_t rows,
                                                 bool clusters, int64_t x_gap, Make make) {
  cpu::Products oracle(cpu::Isa::kPortable, 1);
  // Parts of another type are rounded by both alike, but the oracle of fp16 rounds nothing.
  const DType other = dtype == DType::kFloat16 ? dtype : DType::kFloat32;
  GuardedMatrix first(dtype, c.outputs, c.inputs, 3), second(other, c.outputs, c.inputs);
  GuardedMatrix x(dtype, rows, c.inputs, x_gap), bias(DType::kFloat32, 1, 2 * c.outputs);
  first.fill(make), second.fill(make), x.fill(make), bias.fill(make);
  MatrixSource source{{first.view()}, dtype, c.groups, c.gated};
  if (c.gated) source.parts.push_back(second.view());
  if (!c.gated && c.outputs > 20) {  // in two parts that do not end with a tile
    source.parts = {first.view().row_range(0, 19), first.view().row_range(19, c.outputs)};
  }
  const Weights weights(source, oracle);
  GuardedMatrix got(DType::kFloat32, rows, c.outputs, 5);
  GuardedMatrix want(DType::kFloat32, rows, c.outputs);
  const GuardedMatrix in = oracle_input(x.view(), weights.oracle->activation_dtype());
  const float* const b = bias.view().row<float>(0);
  oracle.run({.x = in.view(), .weights = weights.oracle.get(), .bias = b, .y = want.view()});
  on_device::matmul({.x = x.view(), .weights = weights.packed.get(), .bias = b, .y = got.view()},
                    clusters);
  for (int64_t r = 0; r + 1 < rows; ++r) {
    EXPECT_TRUE(std::isnan(got.view().row<float>(r)[c.outputs])) << "written beside y";
  }
  return {std::move(got), std::move(want)};
}

const std::vector<Case> kCases = {{1, 32},          {16, 64},     {37, 96},      {70, 40, 1},
                                  {33, 256, 8},     {48, 520, 4}, {5, 5},        {20, 21, 1},
                                  {18, 264, 8},     {40, 64, 2},  {16, 1000, 1}, {24, 96, 1, true},
                                  {9, 320, 8, true}};
const std::vector<DType> kTypes = {DType::kBFloat16, DType::kFloat16, DType::kFloat32};

TEST(CudaMatmul, IntegersAreExact) {
  for (const DType dtype : kTypes) {
    for (const Case& c : kCases) {
      if (c.gated) continue;
      for (const int64_t rows : {1, 7, 8, 9, 16, 17, 33, 64}) {
        if (kSanitized && rows != 9 && rows != 33) continue;
        SCOPED_TRACE(name_of(c, dtype, rows));
        Normal random(uint32_t(rows + c.outputs));
        const auto small = [&] { return float(random.below(9) - 4); };
        const auto [got, want] = products(c, dtype, rows, rows % 2 == 0, rows % 3, small);
        ASSERT_TRUE(same_bits(got.view(), want.view()));
      }
    }
  }
}

TEST(CudaMatmul, IsNearTheCpu) {
  for (const DType dtype : kTypes) {
    for (const Case& c : kCases) {
      for (const int64_t rows : {3, 40}) {
        SCOPED_TRACE(name_of(c, dtype, rows));
        Normal normal(uint32_t(rows + c.outputs));
        const auto [got, want] = products(c, dtype, rows, true, 8, std::ref(normal));
        // Sums of `inputs` products of size 1; a gated one multiplies two of them.
        const double size = std::sqrt(double(c.inputs)) * (c.gated ? 40 : 1);
        ASSERT_TRUE(near(got.view(), want.view(), 1e-5, 3e-6 * size));
      }
    }
  }
}

/// Weights and 64 rows for tests of equal bits.
struct Fixed {
  Fixed(const Case& shape, DType type)
      : c(shape),
        dtype(type),
        w(type, shape.outputs, shape.inputs),
        u(type, shape.outputs, shape.inputs),
        x(type, 64, shape.inputs, 8),
        bias(DType::kFloat32, 1, 2 * shape.outputs) {
    Normal normal(7);
    w.fill(normal), u.fill(normal), x.fill(normal), bias.fill(normal);
    MatrixSource source{{w.view()}, dtype, c.groups, c.gated};
    if (c.gated) source.parts.push_back(u.view());
    weights = std::make_unique<Weights>(source, oracle);
  }
  GuardedMatrix run(const TensorView& rows, bool clusters = true) const {
    GuardedMatrix y(DType::kFloat32, rows.rows, c.outputs, 1);
    on_device::matmul({.x = rows,
                       .weights = weights->packed.get(),
                       .bias = bias.view().row<float>(0),
                       .y = y.view()},
                      clusters);
    return y;
  }
  Case c;
  DType dtype;
  cpu::Products oracle{cpu::Isa::kPortable, 1};
  GuardedMatrix w, u, x, bias;
  std::unique_ptr<Weights> weights;
};

// Sanitizers see the same code in two types, at a fraction of the time.
const std::vector<DType> kBitTypes =
    kSanitized ? std::vector{DType::kBFloat16, DType::kFloat32} : kTypes;
const std::vector<Case> kBitCases = {{40, 320}, {33, 512, 8}, {17, 96, 2, true}, {36, 136, 4}};

TEST(CudaMatmul, ARowsBitsDoNotDependOnWhatSharesThePass) {
  for (const DType dtype : kBitTypes) {
    for (const Case& c : kBitCases) {
      SCOPED_TRACE(name_of(c, dtype, 64));
      const Fixed fixed(c, dtype);
      const GuardedMatrix all = fixed.run(fixed.x.view());
      for (const int64_t rows : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63}) {
        if (kSanitized && rows != 1 && rows != 9 && rows != 33) continue;
        const int64_t begin = (5 * rows) % (65 - rows);
        const GuardedMatrix some = fixed.run(fixed.x.view().row_range(begin, begin + rows));
        ASSERT_TRUE(same_bits(some.view(), all.view().row_range(begin, begin + rows))) << rows;
      }
    }
  }
}

TEST(CudaMatmul, NanInOneRowStaysThere) {
  for (const Case& c : kBitCases) {
    Fixed fixed(c, DType::kBFloat16);
    const GuardedMatrix before = fixed.run(fixed.x.view());
    for (int64_t k = 0; k < c.inputs; ++k) cpu::store(fixed.x.view(), 3, k, kNan);
    const GuardedMatrix after = fixed.run(fixed.x.view());
    EXPECT_TRUE(same_bits(before.view().row_range(0, 3), after.view().row_range(0, 3)));
    EXPECT_TRUE(same_bits(before.view().row_range(4, 64), after.view().row_range(4, 64)));
    EXPECT_TRUE(std::isnan(cpu::load(after.view(), 3, 0)));
  }
}

TEST(CudaMatmul, BitsDoNotDependOnSchedulesClustersOrTileWidth) {
  for (const DType dtype : kBitTypes) {
    for (const Case& c : kBitCases) {
      SCOPED_TRACE(name_of(c, dtype, 20));
      const Fixed fixed(c, dtype);
      const TensorView x = fixed.x.view().row_range(0, 20);
      const GuardedMatrix want = fixed.run(x);
      under_every_schedule([&] {
        EXPECT_TRUE(same_bits(fixed.run(x).view(), want.view()));
        EXPECT_TRUE(same_bits(fixed.run(x, false).view(), want.view())) << "without clusters";
      });
    }
  }
}

TEST(CudaMatmul, WideBlocksGiveTheSameBits) {
  // As many outputs as make blocks of four tiles worth it.
  const Fixed fixed({1056 * 16 + 5, 32}, DType::kBFloat16);
  const GuardedMatrix all = fixed.run(fixed.x.view());
  const GuardedMatrix some = fixed.run(fixed.x.view().row_range(30, 55));
  const GuardedMatrix one = fixed.run(fixed.x.view().row_range(40, 41));
  EXPECT_TRUE(same_bits(all.view().row_range(30, 55), some.view()));
  EXPECT_TRUE(same_bits(all.view().row_range(40, 41), one.view()));
}

TEST(CudaMatmul, HalfOfTheGroupsIsHalfOfTheTree) {
  for (const DType dtype : kBitTypes) {
    const Fixed fixed({21, 512, 8}, dtype);
    const TensorView x = fixed.x.view().row_range(0, 11);
    GuardedMatrix whole(DType::kFloat32, 11, 21), left(DType::kFloat32, 11, 21),
        right(DType::kFloat32, 11, 21);
    cpu::Products oracle(cpu::Isa::kPortable, 1);
    const auto half = [&](int64_t begin, const TensorView& y) {
      const MatrixSource source{{fixed.w.view().col_range(begin, begin + 256)}, dtype, 4, false};
      const Weights weights(source, oracle);
      on_device::matmul(
          {.x = x.col_range(begin, begin + 256), .weights = weights.packed.get(), .y = y}, true);
    };
    half(0, left.view()), half(256, right.view());
    on_device::matmul({.x = x, .weights = fixed.weights->packed.get(), .y = whole.view()}, true);
    for (int64_t r = 0; r < 11; ++r) {
      for (int64_t c = 0; c < 21; ++c) {
        ASSERT_EQ(cpu::load(whole.view(), r, c),
                  cpu::load(left.view(), r, c) + cpu::load(right.view(), r, c));
      }
    }
  }
}

TEST(CudaMatmul, MoreRowsGoInTurns) {
  const Fixed fixed({33, 128, 8}, DType::kBFloat16);
  GuardedMatrix x(DType::kBFloat16, 150, 128, 8);
  Normal normal(8);
  x.fill(normal);
  const GuardedMatrix all = fixed.run(x.view(), false);
  const GuardedMatrix some = fixed.run(x.view().row_range(60, 70));
  EXPECT_TRUE(same_bits(all.view().row_range(60, 70), some.view()));
}

TEST(CudaMatmul, NormalisesAccumulatesAndGates) {
  for (const DType dtype : kBitTypes) {
    const Fixed fixed({30, 200}, dtype), gated({30, 200, 1, true}, dtype);
    GuardedMatrix x(DType::kFloat32, 9, 200, 1), weight(DType::kFloat32, 1, 200);
    GuardedMatrix normed(dtype, 9, 200), y(DType::kFloat32, 9, 30), before(DType::kFloat32, 9, 30);
    Normal normal(9);
    x.fill(normal), weight.fill(normal), y.fill(normal);
    const float* const w = weight.view().row<float>(0);
    on_device::rms_norm({x.view(), w, 1e-5f, normed.view(), {}});
    on_device::convert(y.view(), before.view());
    const float* const bias = fixed.bias.view().row<float>(0);
    on_device::matmul({.x = x.view(),
                       .weights = fixed.weights->packed.get(),
                       .bias = bias,
                       .y = y.view(),
                       .norm_weight = w,
                       .norm_epsilon = 1e-5f,
                       .accumulate = true},
                      true);
    GuardedMatrix sum(DType::kFloat32, 9, 30);
    on_device::matmul({.x = normed.view(), .weights = fixed.weights->packed.get(), .y = sum.view()},
                      true);
    for (int64_t r = 0; r < 9; ++r) {
      for (int64_t c = 0; c < 30; ++c) {
        const float a = cpu::load(before.view(), r, c) + cpu::load(sum.view(), r, c);
        ASSERT_EQ(cpu::load(y.view(), r, c), a + bias[c]);
      }
    }
    // A gated product is the ungated one of both parts, then silu_mul.
    const MatrixSource both{{gated.w.view(), gated.u.view()}, dtype, 1, false};
    cpu::Products oracle(cpu::Isa::kPortable, 1);
    const Weights stacked(both, oracle);
    GuardedMatrix wide(DType::kFloat32, 9, 60), want(dtype, 9, 30), got(dtype, 9, 30);
    on_device::matmul({.x = normed.view(), .weights = stacked.packed.get(), .y = wide.view()},
                      true);
    on_device::silu_mul({wide.view(), want.view()});
    on_device::matmul({.x = normed.view(), .weights = gated.weights->packed.get(), .y = got.view()},
                      true);
    EXPECT_TRUE(same_bits(got.view(), want.view()));
  }
}

}  // namespace
}  // namespace convoke::cuda
