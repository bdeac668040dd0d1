// Random weights made by the kernel: the bits of those that the CPU makes, in every slice.
#include "kernels/random_matrix.h"

#include "tests/kernels/cuda/fixture.h"

namespace convoke::cuda {
namespace {

using cpu::GuardedMatrix;

const CudaStream kStream;

/// Compares bits, of 8-bit weights too; and that nothing beside the rows was written.
void expect_same(const RandomSlice& slice, int64_t rows, int64_t cols, int64_t gap) {
  const DType dtype = slice.matrix.dtype;
  const size_t size = dtype_size(dtype), pitch = size_t(cols + gap) * size;
  std::vector<std::byte> want(size_t(rows) * pitch, std::byte{0x3c}), got = want;
  fill_random(slice, TensorView{want.data(), dtype, rows, cols, cols + gap});
  fill_random(kStream, slice, TensorView{got.data(), dtype, rows, cols, cols + gap});
  EXPECT_TRUE(got == want) << rows << " x " << cols << " from " << slice.row << ", " << slice.col
                           << " of " << slice.matrix.rows << " x " << slice.matrix.cols << ", gap "
                           << gap;
}

class CudaRandom : public ::testing::TestWithParam<DType> {};

TEST_P(CudaRandom, MakesTheCpusNumbersInEverySlice) {
  under_every_schedule([] {
    for (const auto& [rows, cols] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {1, 257}, {13, 31}, {8, 64}, {24, 100}}) {
      const RandomMatrix matrix{3, GetParam(), rows, cols, 0.5f, 3.0f};
      expect_same({matrix}, rows, cols, 0);
      expect_same({matrix}, rows, cols, 3);
      expect_same({matrix, rows / 2, cols / 3}, rows - rows / 2, cols - cols / 3, 1);
      expect_same({matrix, rows, 0}, 0, cols, 0);
    }
  });
}

// As tensor parallelism cuts rows and columns.
TEST_P(CudaRandom, MakesTheSliceOfEveryRank) {
  const int64_t rows = 48, cols = 176;
  const RandomMatrix matrix{11, GetParam(), rows, cols, 0.0f, 1.0f};
  for (const int tp : {1, 2, 4, 8}) {
    for (int rank = 0; rank < tp; ++rank) {
      expect_same({matrix, rows / tp * rank, 0}, rows / tp, cols, 0);
      expect_same({matrix, 0, cols / tp * rank}, rows, cols / tp, 0);
    }
  }
}

// Several runs of steps, several blocks; jumps far into a matrix.
TEST_P(CudaRandom, MakesLongRows) {
  const RandomMatrix wide{1, GetParam(), 3, 150001, 0.0f, 0.02f};
  expect_same({wide}, 3, 150001, 0);
  expect_same({wide, 1, 17}, 2, 9000, 0);
  const RandomMatrix huge{5, GetParam(), 128256, 16384, 0.0f, 0.02f};
  expect_same({huge, 128255, 16000}, 1, 384, 0);
  expect_same({huge, 99999, 0}, 1, 16384, 0);
}

INSTANTIATE_TEST_SUITE_P(Types, CudaRandom,
                         ::testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat16,
                                           DType::kFloat8E4M3),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

TEST(CudaRandomOf, MoreRowsThanAGridCounts) {
  const RandomMatrix tall{2, DType::kBFloat16, 65600, 2, 0.0f, 0.02f};
  expect_same({tall, 0, 1}, 65600, 1, 0);
}

}  // namespace
}  // namespace convoke::cuda
