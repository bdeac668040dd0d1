// Fused kernels against the kernels that they stand for: equal bits, whatever the numbers of rows
// and threads.
#include <algorithm>
#include <memory>

#include "kernels/cpu/cpu_backend.h"
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

constexpr float kEpsilon = 1e-5f;

class Fused : public testing::TestWithParam<Path> {
 protected:
  void SetUp() override {
    if (GetParam().isa > best_isa()) GTEST_SKIP() << "this machine lacks it";
    for (int threads : {1, 2, 3}) {
      teams_.push_back(make_cpu_backend({.threads = threads, .isa = GetParam().isa}));
    }
  }
  /// Of the packed weights; weights that are stored in 8 bits are rounded when they are packed.
  DType stored() const { return GetParam().dtype; }
  DType dtype() const { return stored() == DType::kFloat8E4M3 ? DType::kBFloat16 : stored(); }
  Backend& reference() { return *teams_.front(); }

  float normal() { return std::normal_distribution<float>()(random_); }
  std::vector<float> normals(int64_t count) {
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) values.push_back(normal());
    return values;
  }
  GuardedMatrix& fill(GuardedMatrix& matrix) {
    return matrix.fill([&] { return normal(); });
  }

  std::mt19937 random_{7};
  std::vector<std::unique_ptr<Backend>> teams_;
};

INSTANTIATE_TEST_SUITE_P(
    Paths, Fused,
    testing::Values(Path{Isa::kPortable, DType::kBFloat16}, Path{Isa::kPortable, DType::kFloat32},
                    Path{Isa::kAvx2, DType::kBFloat16}, Path{Isa::kAvx2, DType::kFloat32},
                    Path{Isa::kAvx512Bf16, DType::kBFloat16},
                    Path{Isa::kAvx512Bf16, DType::kFloat32}, Path{Isa::kAmxBf16, DType::kBFloat16},
                    Path{Isa::kAmxBf16, DType::kFloat32}, Path{Isa::kPortable, DType::kFloat8E4M3},
                    Path{Isa::kAvx2, DType::kFloat8E4M3},
                    Path{Isa::kAvx512Bf16, DType::kFloat8E4M3},
                    Path{Isa::kAmxBf16, DType::kFloat8E4M3}),
    path_name);

/// Equal bits in every element, and nothing written beside them.
void expect_same(const TensorView& actual, const TensorView& expected, const std::string& what) {
  const size_t bytes = size_t(expected.cols) * dtype_size(expected.dtype);
  for (int64_t r = 0; r < expected.rows; ++r) {
    ASSERT_EQ(std::memcmp(actual.row<std::byte>(r), expected.row<std::byte>(r), bytes), 0)
        << what << ", row " << r;
    for (int64_t c = actual.cols; r + 1 < actual.rows && c < actual.row_stride; ++c) {
      ASSERT_TRUE(std::isnan(load(actual, r, c))) << "written beside row " << r << " of " << what;
    }
  }
}

std::string name_of(int64_t inputs, int64_t outputs, int groups, int64_t rows,
                    const Backend& backend) {
  return fmt::format("{} inputs, {} outputs, {} groups, {} rows, {}", inputs, outputs, groups, rows,
                     backend.describe());
}

struct Shape {
  int64_t inputs, outputs;
  int groups;
};

// Few rows are normalised by every thread for itself: up to 16 Ki inputs in all, so both ways
// occur.
constexpr Shape kShapes[] = {{1, 1, 1},    {33, 15, 1},  {64, 80, 2},
                             {300, 70, 4}, {512, 49, 1}, {520, 48, 8}};
constexpr int64_t kRowCounts[] = {1, 2, 4, 5, 13, 17, 24, 25, 32, 33, 65};

TEST_P(Fused, NormBeforeAProduct) {
  for (const Shape& shape : kShapes) {
    GuardedMatrix weights(dtype(), shape.outputs, shape.inputs, 1);
    fill(weights);
    const std::vector<float> norm = normals(shape.inputs), bias = normals(shape.outputs);
    for (int64_t rows : kRowCounts) {
      GuardedMatrix x(DType::kFloat32, rows, shape.inputs, 3), normed(dtype(), rows, shape.inputs),
          expected(DType::kFloat32, rows, shape.outputs);
      fill(x);
      for (const auto& backend : teams_) {
        const auto packed =
            backend->pack({.parts = {weights.view()}, .dtype = stored(), .groups = shape.groups});
        GuardedMatrix y(DType::kFloat32, rows, shape.outputs, 2);
        backend->run([&](Stream& stream) {
          if (backend == teams_.front()) {
            backend->rms_norm(
                stream,
                {.x = x.view(), .weight = norm.data(), .epsilon = kEpsilon, .y = normed.view()});
            backend->matmul(stream, {.x = normed.view(),
                                     .weights = packed.get(),
                                     .bias = bias.data(),
                                     .y = expected.view()});
          }
          backend->matmul(stream, {.x = x.view(),
                                   .weights = packed.get(),
                                   .bias = bias.data(),
                                   .y = y.view(),
                                   .norm_weight = norm.data(),
                                   .norm_epsilon = kEpsilon});
        });
        expect_same(y.view(), expected.view(),
                    name_of(shape.inputs, shape.outputs, shape.groups, rows, *backend));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(Fused, ProductsThatAccumulate) {
  for (const Shape& shape : kShapes) {
    GuardedMatrix weights(dtype(), shape.outputs, shape.inputs, 1);
    fill(weights);
    const std::vector<float> bias = normals(shape.outputs);
    for (int64_t rows : kRowCounts) {
      GuardedMatrix x(dtype(), rows, shape.inputs, 3),
          product(DType::kFloat32, rows, shape.outputs),
          residual(DType::kFloat32, rows, shape.outputs, 2);
      fill(x);
      fill(residual);
      for (const bool with_bias : {false, true}) {
        GuardedMatrix expected(DType::kFloat32, rows, shape.outputs);
        for (const auto& backend : teams_) {
          const auto packed =
              backend->pack({.parts = {weights.view()}, .dtype = stored(), .groups = shape.groups});
          GuardedMatrix y(DType::kFloat32, rows, shape.outputs, 2);
          for (int64_t r = 0; r < rows; ++r) {
            std::copy_n(residual.view().row<float>(r), shape.outputs, y.view().row<float>(r));
          }
          backend->run([&](Stream& stream) {
            if (backend == teams_.front()) {
              backend->matmul(stream,
                              {.x = x.view(), .weights = packed.get(), .y = product.view()});
            }
            backend->matmul(stream, {.x = x.view(),
                                     .weights = packed.get(),
                                     .bias = with_bias ? bias.data() : nullptr,
                                     .y = y.view(),
                                     .accumulate = true});
          });
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t c = 0; c < shape.outputs; ++c) {
              float& value = expected.view().row<float>(r)[c];
              value = residual.view().row<float>(r)[c] + product.view().row<float>(r)[c];
              if (with_bias) value += bias[size_t(c)];
            }
          }
          expect_same(y.view(), expected.view(),
                      name_of(shape.inputs, shape.outputs, shape.groups, rows, *backend));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(Fused, GatedProducts) {
  for (const Shape& shape : kShapes) {
    GuardedMatrix gate(dtype(), shape.outputs, shape.inputs, 1),
        up(dtype(), shape.outputs, shape.inputs, 2);
    fill(gate);
    fill(up);
    const std::vector<float> bias = normals(2 * shape.outputs);
    for (int64_t rows : kRowCounts) {
      GuardedMatrix x(dtype(), rows, shape.inputs, 3),
          both(DType::kFloat32, rows, 2 * shape.outputs);
      fill(x);
      for (const DType y_dtype : {dtype(), DType::kFloat32}) {
        const bool with_bias = y_dtype == dtype();
        GuardedMatrix expected(y_dtype, rows, shape.outputs);
        for (const auto& backend : teams_) {
          MatrixSource source{
              .parts = {gate.view(), up.view()}, .dtype = stored(), .groups = shape.groups};
          const auto stacked = backend->pack(source);
          source.gated = true;
          const auto gated = backend->pack(source);
          EXPECT_EQ(gated->outputs(), shape.outputs);
          GuardedMatrix y(y_dtype, rows, shape.outputs, 2);
          backend->run([&](Stream& stream) {
            const float* const added = with_bias ? bias.data() : nullptr;
            if (backend == teams_.front()) {
              backend->matmul(
                  stream,
                  {.x = x.view(), .weights = stacked.get(), .bias = added, .y = both.view()});
              backend->silu_mul(stream, {.x = both.view(), .y = expected.view()});
            }
            backend->matmul(stream,
                            {.x = x.view(), .weights = gated.get(), .bias = added, .y = y.view()});
          });
          expect_same(y.view(), expected.view(),
                      name_of(shape.inputs, shape.outputs, shape.groups, rows, *backend));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(Fused, LongProductsWithAllOfIt) {
  constexpr int64_t kRows = 530, kInputs = 1100, kOutputs = 290;  // more than one piece of each
  GuardedMatrix gate(dtype(), kOutputs, kInputs), up(dtype(), kOutputs, kInputs),
      x(DType::kFloat32, kRows, kInputs, 3), normed(dtype(), kRows, kInputs),
      both(DType::kFloat32, kRows, 2 * kOutputs), expected(dtype(), kRows, kOutputs);
  for (GuardedMatrix* matrix : {&gate, &up, &x}) fill(*matrix);
  const std::vector<float> norm = normals(kInputs);
  for (const auto& backend : teams_) {
    MatrixSource source{.parts = {gate.view(), up.view()}, .dtype = stored()};
    const auto stacked = backend->pack(source);
    source.gated = true;
    const auto gated = backend->pack(source);
    GuardedMatrix y(dtype(), kRows, kOutputs, 2);
    backend->run([&](Stream& stream) {
      if (backend == teams_.front()) {
        backend->rms_norm(
            stream,
            {.x = x.view(), .weight = norm.data(), .epsilon = kEpsilon, .y = normed.view()});
        backend->matmul(stream, {.x = normed.view(), .weights = stacked.get(), .y = both.view()});
        backend->silu_mul(stream, {.x = both.view(), .y = expected.view()});
      }
      backend->matmul(stream, {.x = x.view(),
                               .weights = gated.get(),
                               .y = y.view(),
                               .norm_weight = norm.data(),
                               .norm_epsilon = kEpsilon});
    });
    expect_same(y.view(), expected.view(), backend->describe());
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace convoke::cpu
