// Products, and what their order of summation takes for granted of the tensor cores, through the
// backend alone: on emulated devices and on real ones.
#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <random>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/device_buffer.h"
#include "kernels/dtype_convert.h"
#include "tests/gpu/tensor_cores.h"
#include "tests/kernels/cuda/backend_fixture.h"

namespace convoke::cuda {
namespace {

std::vector<float> random_floats(size_t count, uint32_t seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = bf16_to_float(float_to_bf16(normal(engine)));
  return values;
}

TensorView floats(const void* data, int64_t rows, int64_t columns) {
  return TensorView::matrix(const_cast<void*>(data), DType::kFloat32, rows, columns);
}

struct Shape {
  int64_t outputs, inputs;
  int groups;
  bool gated;
  DType dtype;
};
void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.outputs << " x " << s.inputs << ", " << s.groups << " groups, gated " << s.gated << ", "
       << dtype_name(s.dtype);
}

/// y = x * W in float32, `x` normalised on its way in or not; rows dense.
std::vector<float> product(Backend& backend, const Shape& shape, const std::vector<float>& weights,
                           const std::vector<float>& x, bool accumulate = false) {
  const int64_t rows = int64_t(x.size()) / shape.inputs;
  MatrixSource source{{}, shape.dtype, shape.groups, shape.gated};
  source.parts = {floats(weights.data(), shape.outputs, shape.inputs)};
  if (shape.gated) {
    source.parts.push_back(
        floats(weights.data() + shape.outputs * shape.inputs, shape.outputs, shape.inputs));
  }
  const auto packed = backend.pack(source);
  backend.reserve({.rows = int(rows),
                   .logit_rows = 1,
                   .sequences = 1,
                   .positions = 8,
                   .heads = 1,
                   .kv_heads = 1,
                   .head_dim = 8,
                   .vocabulary = 16});
  const std::vector<float> ones(size_t(shape.inputs), 1.0f);
  const FloatArray x_there(backend, x), norm(backend, ones);
  const std::vector<float> start(size_t(rows * shape.outputs), 0.5f);
  const FloatArray y_there(backend, start);
  std::vector<float> y(start.size());
  const TensorView out = floats(y_there.data(), rows, shape.outputs);
  backend.run([&](Stream& stream) {
    backend.matmul(stream, {.x = floats(x_there.data(), rows, shape.inputs),
                            .weights = packed.get(),
                            .y = out,
                            .norm_weight = norm.data(),
                            .norm_epsilon = 1e-5f,
                            .accumulate = accumulate});
    backend.copy(stream, out, floats(y.data(), rows, shape.outputs));
  });
  return y;
}

class CudaProducts : public ::testing::TestWithParam<Shape> {
 protected:
  Shape shape = GetParam();
  std::vector<float> weights =
      random_floats(size_t(shape.outputs * shape.inputs) * (shape.gated ? 2 : 1), 1);
  std::vector<float> x = random_floats(size_t(70 * shape.inputs), 2);

  void expect_near_cpu(const std::vector<float>& got, bool accumulate) {
    const auto cpu = cpu::make_cpu_backend({.threads = 1, .isa = cpu::Isa::kPortable});
    Shape exact = shape;
    if (exact.dtype == DType::kFloat16) exact.dtype = DType::kFloat32;
    const std::vector<float> want = product(*cpu, exact, weights, x, accumulate);
    double error = 0, norm = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      error += std::pow(double(got[i]) - double(want[i]), 2), norm += std::pow(double(want[i]), 2);
    }
    EXPECT_LE(std::sqrt(error / norm), shape.dtype == DType::kFloat32 ? 1e-5 : 0x1p-9);
  }
};

TEST_P(CudaProducts, ARowHasTheSameBitsAmongAnyOthersAndIsNearTheCpus) {
  const auto backend = make_cuda_backend({});
  const std::vector<float> all = product(*backend, shape, weights, x);
  expect_near_cpu(all, false);
  for (const int64_t rows : {1, 5, 17, 33, 64}) {
    const std::vector<float> few(x.begin(), x.begin() + ptrdiff_t(rows * shape.inputs));
    const std::vector<float> y = product(*backend, shape, weights, few);
    EXPECT_EQ(std::memcmp(y.data(), all.data(), y.size() * sizeof(float)), 0) << rows << " rows";
  }
}

TEST_P(CudaProducts, TheLibrarysAreNearTheCpus) {
  const auto backend = make_cuda_backend({.matmul = CudaMatmul::kFast});
  EXPECT_THAT(backend->describe(), ::testing::HasSubstr("cuBLASLt"));
  expect_near_cpu(product(*backend, shape, weights, x), false);
  if (!shape.gated) expect_near_cpu(product(*backend, shape, weights, x, true), true);
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaProducts,
                         ::testing::Values(Shape{72, 128, 1, false, DType::kBFloat16},
                                           Shape{40, 512, 8, false, DType::kFloat8E4M3},
                                           Shape{48, 96, 1, true, DType::kFloat8E4M3},
                                           Shape{40, 512, 8, false, DType::kBFloat16},
                                           Shape{48, 96, 1, true, DType::kBFloat16},
                                           Shape{40, 136, 2, false, DType::kFloat16},
                                           Shape{24, 96, 4, true, DType::kFloat32}));

// --- Tensor cores ---

class TensorCores : public ::testing::TestWithParam<DType> {
 protected:
  using Matrix = std::vector<uint16_t>;
  TensorCores() { select_device(0); }
  ~TensorCores() override { destroy_stream(stream_.handle); }

  uint16_t bits(float x) const {
    return GetParam() == DType::kFloat16 ? float_to_fp16(x) : float_to_bf16(x);
  }
  Matrix random(size_t count, uint32_t seed) const {
    Matrix m;
    for (float x : random_floats(count, seed)) m.push_back(bits(x));
    return m;
  }
  std::vector<float> run(const Matrix& a, const Matrix& b, std::vector<float> c) {
    copy(a_.data(), a.data(), 512), copy(b_.data(), b.data(), 256), copy(c_.data(), c.data(), 512);
    tensor_core_product(stream_, GetParam(), static_cast<const uint16_t*>(a_.data()),
                        static_cast<const uint16_t*>(b_.data()), static_cast<float*>(c_.data()));
    copy(c.data(), c_.data(), 512);
    synchronise(stream_.handle);
    return c;
  }

 private:
  void copy(void* to, const void* from, size_t bytes) {
    enqueue_copy(stream_.handle, to, bytes, from, bytes, bytes, 1);
  }
  CudaStream stream_{create_stream()};
  DeviceBuffer a_{512, "a test"}, b_{256, "a test"}, c_{512, "a test"};
};

TEST_P(TensorCores, AColumnHasTheSameBitsAtEveryPlaceAndBesideAnything) {
  const Matrix a = random(256, 1), b = random(128, 2);
  const std::vector<float> c = random_floats(128, 3), want = run(a, b, c);
  for (int shift = 1; shift < 8; ++shift) {
    // Column n moves to n + shift; column 0 of the old ones stands beside NaN.
    Matrix moved(128, bits(NAN));
    std::vector<float> start(128, NAN);
    for (size_t k = 0; k < 16; ++k) moved[k * 8 + size_t(shift)] = b[k * 8];
    for (size_t m = 0; m < 16; ++m) start[m * 8 + size_t(shift)] = c[m * 8];
    const std::vector<float> got = run(a, moved, start);
    for (size_t m = 0; m < 16; ++m) {
      EXPECT_EQ(std::bit_cast<uint32_t>(got[m * 8 + size_t(shift)]),
                std::bit_cast<uint32_t>(want[m * 8]))
          << "row " << m << " moved by " << shift;
    }
  }
}

TEST_P(TensorCores, ARowHasTheSameBitsAtEveryPlaceAndBesideAnything) {
  const Matrix a = random(256, 4), b = random(128, 5);
  const std::vector<float> c = random_floats(128, 6), want = run(a, b, c);
  for (size_t to = 1; to < 16; ++to) {
    Matrix moved(256, bits(NAN));
    std::vector<float> start(128, NAN);
    std::copy_n(a.begin(), 16, moved.begin() + ptrdiff_t(to * 16));
    std::copy_n(c.begin(), 8, start.begin() + ptrdiff_t(to * 8));
    const std::vector<float> got = run(moved, b, start);
    EXPECT_EQ(std::memcmp(&got[to * 8], want.data(), 8 * sizeof(float)), 0) << "to row " << to;
  }
}

TEST_P(TensorCores, ZerosLeaveAnAccumulatorAsItIs) {
  const std::vector<float> c = random_floats(128, 7);
  const Matrix zeros_left(256, 0), zeros_right(128, 0);
  EXPECT_EQ(run(zeros_left, random(128, 8), c), c);
  EXPECT_EQ(run(random(256, 9), zeros_right, c), c);
}

TEST_P(TensorCores, TermsOfZeroAmongOthersChangeNothing) {
  // A masked key is a zero weight whose value may be anything finite.
  Matrix a = random(256, 10), b = random(128, 11);
  for (size_t m = 0; m < 16; ++m) {
    for (size_t k = 9; k < 16; ++k) a[m * 16 + k] = 0;
  }
  const std::vector<float> c = random_floats(128, 12), want = run(a, b, c);
  for (size_t i = 9 * 8; i < b.size(); ++i) b[i] = bits(float(i) * 37.0f - 1000.0f);
  EXPECT_EQ(run(a, b, c), want);
}

INSTANTIATE_TEST_SUITE_P(Types, TensorCores, ::testing::Values(DType::kBFloat16, DType::kFloat16),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

}  // namespace
}  // namespace convoke::cuda
