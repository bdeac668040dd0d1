#include <cstring>

#include "runtime/model_files/tensor_source.h"

namespace convoke {

void TensorSource::read(const TensorView& view, std::byte* to) const {
  const size_t row_bytes = size_t(view.cols) * dtype_size(view.dtype);
  for (int64_t r = 0; r < view.rows; ++r, to += row_bytes) {
    std::memcpy(to, view.row<std::byte>(r), row_bytes);
  }
}

namespace {

TensorView checked_view(const TensorSource& source, const std::string& name, DType dtype) {
  const TensorView view = source.tensor(name);
  if (view.dtype != dtype) {
    throw_error(ErrorKind::kModel, "{}: tensor '{}' has dtype {}; it must be {}", source.describe(),
                name, dtype_name(view.dtype), dtype_name(dtype));
  }
  return view;
}

}  // namespace

std::vector<int64_t> int64_values(const TensorSource& source, const std::string& name) {
  const TensorView view = checked_view(source, name, DType::kInt64);
  std::vector<int64_t> values;
  for (int64_t r = 0; r < view.rows; ++r) {
    const auto* row = view.row<int64_t>(r);
    values.insert(values.end(), row, row + view.cols);
  }
  return values;
}

std::vector<bool> bool_values(const TensorSource& source, const std::string& name) {
  const TensorView view = checked_view(source, name, DType::kBool);
  std::vector<bool> values;
  for (int64_t r = 0; r < view.rows; ++r) {
    const auto* row = view.row<uint8_t>(r);
    for (int64_t c = 0; c < view.cols; ++c) {
      if (row[c] > 1) {
        throw_error(ErrorKind::kModel, "{}: tensor '{}': element {} of a bool tensor is {}",
                    source.describe(), name, r * view.cols + c, row[c]);
      }
      values.push_back(row[c] != 0);
    }
  }
  return values;
}

}  // namespace convoke
