#include "kernels/backend.h"

namespace convoke {

FloatArray::FloatArray(Backend& backend, std::span<const float> values) : size_(values.size()) {
  if (values.empty()) return;
  memory_ = backend.allocate(values.size_bytes());
  const auto count = int64_t(values.size());
  const TensorView from =
      TensorView::matrix(const_cast<float*>(values.data()), DType::kFloat32, 1, count);
  const TensorView to = TensorView::matrix(memory_->data(), DType::kFloat32, 1, count);
  backend.run([&](Stream& stream) { backend.copy(stream, from, to); });
}

const float* FloatArray::data() const {
  return memory_ == nullptr ? nullptr : static_cast<const float*>(memory_->data());
}

}  // namespace convoke
