// Lays the views of a workspace out one after another: first to measure, then over real memory.
#pragma once

#include <cstddef>

#include "kernels/tensor.h"

namespace convoke {

class WorkspaceLayout {
 public:
  explicit WorkspaceLayout(void* base) : base_(static_cast<std::byte*>(base)) {}

  /// Rows start on cache lines, so that threads writing neighbouring rows do not share one; an odd
  /// number of lines apart, so that the same columns of many rows fit a cache together.
  TensorView matrix(DType dtype, int64_t rows, int64_t cols) {
    const auto per_line = int64_t(64 / dtype_size(dtype));
    return place(dtype, rows, cols, ((cols + per_line - 1) / per_line | 1) * per_line);
  }

  /// Rows follow each other without gaps: one flat array.
  TensorView dense(DType dtype, int64_t rows, int64_t cols) {
    return place(dtype, rows, cols, cols);
  }

  size_t used() const { return used_; }

 private:
  static constexpr size_t kAlignment = 256;

  TensorView place(DType dtype, int64_t rows, int64_t cols, int64_t stride) {
    const TensorView view{base_ == nullptr ? nullptr : base_ + used_, dtype, rows, cols, stride};
    used_ += (size_t(rows * stride) * dtype_size(dtype) + kAlignment - 1) / kAlignment * kAlignment;
    return view;
  }

  std::byte* base_;
  size_t used_ = 0;
};

}  // namespace convoke
