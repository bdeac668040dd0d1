#include "training/products.h"

#include <ATen/ATen.h>

#include "kernels/check.h"

namespace convoke::training {
namespace {

torch::Dtype torch_dtype(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return torch::kFloat32;
    case DType::kBFloat16:
      return torch::kBFloat16;
    case DType::kFloat16:
      return torch::kFloat16;
    case DType::kInt64:
      return torch::kInt64;
    case DType::kBool:
      return torch::kBool;
    case DType::kFloat8E4M3:  // which Debian's LibTorch does not have
      throw_error(ErrorKind::kModel,
                  "training reads no weights of 8 bits: take the model in bfloat16, whose drafters "
                  "serve the 8-bit one, too");
  }
  return torch::kFloat32;
}

}  // namespace

torch::Tensor Products::operator()(const torch::Tensor& x, const torch::Tensor& weight,
                                   const torch::Tensor& bias) const {
  const torch::Tensor y = at::linear(narrow(x), narrow(weight)).to(torch::kFloat32);
  return bias.defined() ? y + bias : y;
}

torch::Tensor copy_tensor(const TensorView& view, bool vector) {
  const torch::Tensor mapped = torch::from_blob(view.data, {view.rows, view.cols},
                                                {view.row_stride, 1}, torch_dtype(view.dtype));
  const torch::Tensor copy = mapped.clone(at::MemoryFormat::Contiguous);
  return vector ? copy.view({-1}) : copy;
}

}  // namespace convoke::training
