#include "runtime/model_files/mapped_view.h"

namespace convoke {
namespace {

/// A gap between the rows of a slice that is worth skipping: system readahead is of this order.
constexpr size_t kSparseGapBytes = size_t{128} << 10;

const std::byte* first_byte(const TensorView& view) {
  return static_cast<const std::byte*>(view.data);
}

/// From the first byte of the first row to the last byte of the last.
size_t extent_bytes(const TensorView& view) {
  const int64_t elements = view.rows == 0 ? 0 : (view.rows - 1) * view.row_stride + view.cols;
  return static_cast<size_t>(elements) * dtype_size(view.dtype);
}

}  // namespace

TensorView view_of_shape(const std::vector<int64_t>& shape, DType dtype, const std::byte* data) {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  const int64_t cols = shape.empty() ? 1 : shape.back();
  return TensorView::matrix(const_cast<std::byte*>(data), dtype, rows, cols);
}

bool holds(const MappedFile& file, const TensorView& view) {
  if (view.rows == 0 || view.cols == 0) return false;
  const auto bytes = file.bytes();
  const std::byte* data = first_byte(view);
  return data >= bytes.data() && data < bytes.data() + bytes.size();
}

void advise_will_need(const MappedFile& file, const TensorView& view) {
  const size_t row_bytes = static_cast<size_t>(view.cols) * dtype_size(view.dtype);
  const size_t gap = static_cast<size_t>(view.row_stride - view.cols) * dtype_size(view.dtype);
  if (gap < kSparseGapBytes) {
    file.advise(first_byte(view), extent_bytes(view), MappedFile::Advice::kWillNeed);
    return;
  }
  file.advise(first_byte(view), extent_bytes(view), MappedFile::Advice::kSparse);
  for (int64_t r = 0; r < view.rows; ++r) {
    file.advise(view.row<std::byte>(r), row_bytes, MappedFile::Advice::kWillNeed);
  }
}

void advise_done(const MappedFile& file, const TensorView& view) {
  file.advise(first_byte(view), extent_bytes(view), MappedFile::Advice::kDone);
}

}  // namespace convoke
