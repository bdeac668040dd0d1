// Speed matters (an 8 B model has 16 GB of them): sums are looked up in a table of what each of
// them is in the matrix's type, and the lanes' steps are vectorised by the compiler.
#include "kernels/random_matrix.h"

#include <array>
#include <cmath>

#include "kernels/check.h"

namespace convoke {
namespace {

using random_core::kLanes;
using random_core::kStepNumbers;

constexpr random_core::Jumps kJumps = random_core::make_jumps();

/// The generators side by side.
struct Lanes {
  std::array<uint32_t, kLanes> state;

  Lanes(uint64_t seed, int64_t steps) {
    for (int i = 0; i < kLanes; ++i) {
      state[size_t(i)] = random_core::jump(random_core::first_state(seed, i), steps, kJumps);
    }
  }
  void next(std::array<uint16_t, kStepNumbers>& sums) {
    std::array<uint32_t, kLanes> pairs;
    for (size_t i = 0; i < kLanes; ++i) {
      state[i] = random_core::next_state(state[i]);
      pairs[i] = random_core::sums_of(state[i]);
    }
    static_assert(std::endian::native == std::endian::little);
    sums = std::bit_cast<std::array<uint16_t, kStepNumbers>>(pairs);
  }
};

template <typename T>
T convert(float value, DType dtype) {
  if constexpr (sizeof(T) == 4) {
    return value;
  } else if constexpr (sizeof(T) == 1) {
    return float_to_e4m3(value);
  } else {
    return dtype == DType::kBFloat16 ? random_core::to_bfloat16(value)
                                     : random_core::to_float16(value);
  }
}

template <typename T>
using Table = std::array<T, random_core::kLargestSum + 1>;

/// Elements [first, first + count) of a matrix.
template <typename T>
void fill_run(T* out, int64_t first, int64_t count, uint64_t seed, const Table<T>& table) {
  if (count == 0) return;
  Lanes lanes(seed, first / kStepNumbers);
  std::array<uint16_t, kStepNumbers> sums;
  int64_t skip = first % kStepNumbers;  // of the first step
  for (int64_t done = 0; done < count;) {
    lanes.next(sums);
    if (skip == 0 && done + kStepNumbers <= count) {
      for (size_t i = 0; i < kStepNumbers; ++i) out[done + int64_t(i)] = table[sums[i]];
      done += kStepNumbers;
      continue;
    }
    for (; skip < kStepNumbers && done < count; ++skip) out[done++] = table[sums[size_t(skip)]];
    skip = 0;
  }
}

template <typename T>
void fill(const RandomSlice& slice, const TensorView& to) {
  const RandomMatrix& matrix = slice.matrix;
  const random_core::Numbers numbers = random_core::numbers_of(matrix);
  Table<T> table;
  for (size_t sum = 0; sum < table.size(); ++sum) {
    table[sum] = convert<T>(numbers(uint32_t(sum)), matrix.dtype);
  }
  const bool whole_rows = to.cols == matrix.cols && to.row_stride == to.cols;
  const int64_t runs = whole_rows ? 1 : to.rows;
  const int64_t of_run = whole_rows ? to.rows * to.cols : to.cols;
  for (int64_t r = 0; r < runs; ++r) {
    const int64_t first = (slice.row + r) * matrix.cols + slice.col;
    fill_run(to.row<T>(r), first, of_run, matrix.seed, table);
  }
}

}  // namespace

random_core::Numbers random_core::numbers_of(const RandomMatrix& matrix) {
  return {matrix.mean, matrix.deviation / std::sqrt(2.0f * 65535.0f / 12.0f)};
}

void check_random_slice(const RandomSlice& slice, const TensorView& to) {
  const RandomMatrix& matrix = slice.matrix;
  CONVOKE_CHECK(to.dtype == matrix.dtype);
  CONVOKE_CHECK(slice.row >= 0 && slice.col >= 0);
  CONVOKE_CHECK_LE(slice.row + to.rows, matrix.rows);
  CONVOKE_CHECK_LE(slice.col + to.cols, matrix.cols);
  CONVOKE_CHECK_LE(matrix.rows * matrix.cols,
                   (int64_t{1} << random_core::Jumps::kMost) * random_core::kStepNumbers);
}

void fill_random(const RandomSlice& slice, const TensorView& to) {
  check_random_slice(slice, to);
  switch (to.dtype) {
    case DType::kFloat32:
      return fill<float>(slice, to);
    case DType::kBFloat16:
    case DType::kFloat16:
      return fill<uint16_t>(slice, to);
    case DType::kFloat8E4M3:
      return fill<uint8_t>(slice, to);
    default:
      throw_error(ErrorKind::kModel, "random numbers of dtype {} are not made",
                  dtype_name(to.dtype));
  }
}

}  // namespace convoke
