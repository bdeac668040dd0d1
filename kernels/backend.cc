#include "kernels/backend.h"

namespace convoke {
namespace {

/// A copy of `host` in the backend's memory.
std::unique_ptr<Buffer> copy_of(Backend& backend, const TensorView& host) {
  auto memory = backend.allocate(size_t(host.rows * host.cols) * dtype_size(host.dtype));
  const TensorView to = TensorView::matrix(memory->data(), host.dtype, host.rows, host.cols);
  backend.run([&](Stream& stream) { backend.copy(stream, host, to); });
  return memory;
}

}  // namespace

template <typename T>
BackendArray<T>::BackendArray(Backend& backend, std::span<const T> values) : size_(values.size()) {
  if (values.empty()) return;
  static_assert(sizeof(T) == sizeof(float));  // copies move bytes and ask for no more
  memory_ = copy_of(backend, TensorView::matrix(const_cast<T*>(values.data()), DType::kFloat32, 1,
                                                int64_t(values.size())));
}

template <typename T>
const T* BackendArray<T>::data() const {
  return memory_ == nullptr ? nullptr : static_cast<const T*>(memory_->data());
}

template class BackendArray<float>;
template class BackendArray<int32_t>;

ResidentMatrix::ResidentMatrix(Backend& backend, const TensorView& host,
                               std::shared_ptr<const void> owner)
    : memory_(std::move(owner)), view_(host) {
  if (backend.shares_host_memory()) return;
  std::unique_ptr<Buffer> copy = copy_of(backend, host);
  view_ = TensorView::matrix(copy->data(), host.dtype, host.rows, host.cols);
  memory_ = std::move(copy);
}

ResidentMatrix::ResidentMatrix(Backend& backend, const RandomSlice& slice, int64_t rows) {
  const int64_t cols = slice.matrix.cols - slice.col;
  auto memory = backend.allocate(size_t(rows * cols) * dtype_size(slice.matrix.dtype));
  view_ = TensorView::matrix(memory->data(), slice.matrix.dtype, rows, cols);
  backend.run([&](Stream& stream) { backend.fill_random(stream, slice, view_); });
  memory_ = std::move(memory);
}

}  // namespace convoke
