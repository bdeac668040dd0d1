// Matrices with guarded edges for tests of matrix products.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "kernels/cpu/matmul.h"
#include "kernels/dtype_convert.h"

namespace convoke::cpu {

/// Memory whose last byte is followed by a page that must not be touched.
class GuardedMemory {
 public:
  explicit GuardedMemory(size_t bytes) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    inner_ = (bytes + page - 1) / page * page;
    base_ = static_cast<std::byte*>(
        mmap(nullptr, inner_ + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    total_ = inner_ + page;
    if (base_ == MAP_FAILED || mprotect(base_ + inner_, page, PROT_NONE) != 0) std::abort();
    data_ = base_ + inner_ - bytes;
  }
  ~GuardedMemory() {
    if (base_ != nullptr) munmap(base_, total_);
  }
  GuardedMemory(GuardedMemory&& other) noexcept
      : inner_(other.inner_),
        total_(other.total_),
        base_(std::exchange(other.base_, nullptr)),
        data_(other.data_) {}
  GuardedMemory& operator=(GuardedMemory&&) = delete;
  std::byte* data() const { return data_; }

 private:
  size_t inner_ = 0, total_ = 0;
  std::byte* base_ = nullptr;
  std::byte* data_ = nullptr;
};

inline void store(const TensorView& view, int64_t r, int64_t c, float value) {
  if (view.dtype == DType::kFloat32) {
    std::memcpy(view.row<std::byte>(r) + 4 * c, &value, 4);
  } else if (view.dtype == DType::kFloat8E4M3) {
    view.row<uint8_t>(r)[c] = float_to_e4m3(value);
  } else {
    const uint16_t bits =
        view.dtype == DType::kBFloat16 ? float_to_bf16(value) : float_to_fp16(value);
    std::memcpy(view.row<std::byte>(r) + 2 * c, &bits, 2);
  }
}

inline float load(const TensorView& view, int64_t r, int64_t c) {
  if (view.dtype == DType::kFloat32) {
    float value;
    std::memcpy(&value, view.row<std::byte>(r) + 4 * c, 4);
    return value;
  }
  if (view.dtype == DType::kFloat8E4M3) return e4m3_to_float(view.row<uint8_t>(r)[c]);
  uint16_t bits;
  std::memcpy(&bits, view.row<std::byte>(r) + 2 * c, 2);
  return view.dtype == DType::kBFloat16 ? bf16_to_float(bits) : fp16_to_float(bits);
}

/// A matrix that ends at a guard page, with `gap` NaNs between its rows.
class GuardedMatrix {
 public:
  GuardedMatrix(DType dtype, int64_t rows, int64_t cols, int64_t gap = 0)
      : memory_(rows == 0 ? 0 : size_t((rows - 1) * (cols + gap) + cols) * dtype_size(dtype)) {
    view_ = {memory_.data(), dtype, rows, cols, cols + gap};
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < (r + 1 < rows ? cols + gap : cols); ++c) store(view_, r, c, NAN);
    }
  }
  const TensorView& view() const { return view_; }

  template <typename Make>
  GuardedMatrix& fill(Make&& make) {
    for (int64_t r = 0; r < view_.rows; ++r) {
      for (int64_t c = 0; c < view_.cols; ++c) store(view_, r, c, make());
    }
    return *this;
  }

 private:
  GuardedMemory memory_;
  TensorView view_;
};

/// A team with what products need.
class Products {
 public:
  explicit Products(Isa isa, int threads = 2) : isa_(isa), team_(threads), scratch_(threads) {}

  std::unique_ptr<CpuPackedMatrix> pack(const MatrixSource& source) {
    auto matrix = pack_matrix(team_, arena_, source);
    scratch_.reserve(matrix->layout());
    return matrix;
  }

  void run(const MatmulArgs& args) {
    team_.run([&](CpuStream& stream) { matmul(stream, isa_, scratch_, args); });
  }

  /// y as rows of `outputs` floats; also checks that nothing beside y was written.
  std::vector<float> product(const TensorView& x, const CpuPackedMatrix& weights,
                             const float* bias = nullptr, int64_t y_gap = 3) {
    GuardedMatrix y(DType::kFloat32, x.rows, weights.outputs(), y_gap);
    run({.x = x, .weights = &weights, .bias = bias, .y = y.view()});
    std::vector<float> values;
    for (int64_t r = 0; r < x.rows; ++r) {
      const float* row = y.view().row<float>(r);
      values.insert(values.end(), row, row + weights.outputs());
      for (int64_t c = 0; r + 1 < x.rows && c < y_gap; ++c) {
        EXPECT_TRUE(std::isnan(row[weights.outputs() + c])) << "written beside y in row " << r;
      }
    }
    return values;
  }

 private:
  Isa isa_;
  Team team_;
  Arena arena_;
  MatmulScratch scratch_;
};

/// Sums of groups or ranks [begin, end), as a balanced binary tree: as the communicator adds them.
inline std::vector<float> tree_sum(const std::vector<std::vector<float>>& parts, size_t begin,
                                   size_t end) {
  if (end - begin == 1) return parts[begin];
  const size_t middle = (begin + end) / 2;
  std::vector<float> left = tree_sum(parts, begin, middle);
  const std::vector<float> right = tree_sum(parts, middle, end);
  for (size_t i = 0; i < left.size(); ++i) left[i] += right[i];
  return left;
}

inline bool same_bits(const float* a, const float* b, int64_t count) {
  return count == 0 || std::memcmp(a, b, size_t(count) * sizeof(float)) == 0;
}

}  // namespace convoke::cpu
