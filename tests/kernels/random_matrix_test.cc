// Random matrices: generators that jump are where they would have walked to, and slices are what
// the whole matrix has there.
#include "kernels/random_matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace convoke {
namespace {

constexpr random_core::Jumps kJumps = random_core::make_jumps();

TEST(RandomMatrix, JumpsWhereStepsLead) {
  for (const uint64_t seed : {0u, 1u, 12345u}) {
    for (const int lane : {0, 7, 15}) {
      const uint32_t first = random_core::first_state(seed, lane);
      uint32_t state = first;
      for (int64_t steps = 0; steps < 3000; ++steps) {
        ASSERT_EQ(random_core::jump(first, steps, kJumps), state) << steps;
        ASSERT_NE(state, 0u);
        state = random_core::next_state(state);
      }
      const int64_t far[] = {(1 << 28) - 1, 1 << 27, 123456789, 1 << 20, 3001};
      for (const int64_t a : far) {
        const int64_t b = (1 << 28) - 1 - a;
        EXPECT_EQ(random_core::jump(random_core::jump(first, a, kJumps), b, kJumps),
                  random_core::jump(first, a + b, kJumps));
      }
    }
  }
}

/// Bytes of a matrix with gaps between its rows, which stay what they were.
struct Padded {
  Padded(DType dtype, int64_t rows, int64_t cols, int64_t gap)
      : bytes(size_t(rows * (cols + gap)) * dtype_size(dtype), std::byte{0x5a}),
        view{bytes.data(), dtype, rows, cols, cols + gap} {}
  std::vector<std::byte> bytes;
  TensorView view;
};

class RandomMatrixOf : public ::testing::TestWithParam<DType> {};

TEST_P(RandomMatrixOf, HasTheNumbersOfTheWholeInEverySlice) {
  const size_t size = dtype_size(GetParam());
  // One column, fewer than a step, a step, odd numbers of them.
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {5, 1}, {1, 33}, {7, 31}, {4, 32}, {9, 75}, {3, 1000}}) {
    const RandomMatrix matrix{7, GetParam(), rows, cols, 0.25f, 2.0f};
    Padded whole(GetParam(), rows, cols, 0);
    fill_random({matrix}, whole.view);
    for (const int threads : {1, 3}) {
      const auto backend = cpu::make_cpu_backend({.threads = threads});
      for (int64_t row = 0; row <= rows; row += 2) {
        for (int64_t col = 0; col <= cols; col += 1 + cols / 3) {
          for (const int64_t gap : {0, 5}) {
            Padded part(GetParam(), (rows - row + 1) / 2, cols - col, gap);
            backend->run([&](Stream& stream) {
              backend->fill_random(stream, {matrix, row, col}, part.view);
            });
            for (int64_t r = 0; r < part.view.rows; ++r) {
              const auto* const want = whole.view.row<std::byte>(row + r) + size_t(col) * size;
              const auto* const got = part.view.row<std::byte>(r);
              ASSERT_EQ(std::memcmp(got, want, size_t(cols - col) * size), 0)
                  << rows << "x" << cols << " from " << row << ", " << col << ", row " << r;
              for (size_t i = 0; i < size_t(gap) * size; ++i) {
                ASSERT_EQ(got[size_t(cols - col) * size + i], std::byte{0x5a});
              }
            }
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, RandomMatrixOf,
                         ::testing::Values(DType::kFloat32, DType::kBFloat16, DType::kFloat16,
                                           DType::kFloat8E4M3),
                         [](const auto& test) { return std::string(dtype_name(test.param)); });

// Element by element, with no step but the next: what the header says.
TEST(RandomMatrix, IsWhatItsDefinitionSays) {
  const RandomMatrix matrix{99, DType::kFloat32, 11, 47, -1.5f, 0.75f};
  std::vector<float> values(size_t(matrix.rows * matrix.cols));
  fill_random({matrix}, TensorView::matrix(values.data(), matrix.dtype, matrix.rows, matrix.cols));
  uint32_t states[16];
  for (int lane = 0; lane < 16; ++lane) states[lane] = random_core::first_state(99, lane);
  const float unit = 0.75f / std::sqrt(2.0f * 65535.0f / 12.0f);
  for (size_t e = 0; e < values.size(); ++e) {
    if (e % 32 == 0) {
      for (uint32_t& x : states) x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    }
    const uint32_t bytes = states[e % 32 / 2] >> (e % 2 * 16);
    const uint32_t sum = (bytes & 0xff) + (bytes >> 8 & 0xff);
    ASSERT_EQ(values[e], -1.5f + float(int(sum) - 255) * unit) << e;
  }
}

}  // namespace
}  // namespace convoke
