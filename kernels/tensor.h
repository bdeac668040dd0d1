#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/check.h"

namespace convoke {

/// kFloat8E4M3: 1 sign, 4 exponent (bias 7) and 3 mantissa bits, no infinities, NaN is 0x7f and
/// 0xff, the largest number 448 (OCP 8-bit Floating Point Specification, E4M3; PyTorch's
/// float8_e4m3fn).
enum class DType : uint8_t { kFloat32, kBFloat16, kFloat16, kInt64, kBool, kFloat8E4M3 };

size_t dtype_size(DType dtype);            ///< Bytes per element.
std::string_view dtype_name(DType dtype);  ///< "float32", "bfloat16", ...

/// A matrix (or a vector: rows == 1) somewhere in memory. Does not own. The elements of a row are
/// contiguous; rows lie `row_stride` elements apart, so a column slice of a larger matrix is a
/// view.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  ///< in elements; >= cols

  static TensorView matrix(void* data, DType dtype, int64_t rows, int64_t cols) {
    return {data, dtype, rows, cols, cols};
  }
  /// Rows [begin, end) of this view.
  TensorView row_range(int64_t begin, int64_t end) const {
    CONVOKE_CHECK(0 <= begin && begin <= end && end <= rows);
    return {static_cast<std::byte*>(data) + begin * row_stride * int64_t(dtype_size(dtype)), dtype,
            end - begin, cols, row_stride};
  }
  /// Columns [begin, end) of this view.
  TensorView col_range(int64_t begin, int64_t end) const {
    CONVOKE_CHECK(0 <= begin && begin <= end && end <= cols);
    return {static_cast<std::byte*>(data) + begin * int64_t(dtype_size(dtype)), dtype, rows,
            end - begin, row_stride};
  }
  template <typename T>
  T* row(int64_t r) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(data) +
                                r * row_stride * int64_t(dtype_size(dtype)));
  }
};

}  // namespace convoke
