// Where the trainer's tensors live and in what precision its matrix products run.
#pragma once

#include <torch/types.h>

#include "kernels/tensor.h"

namespace convoke::training {

/// Matrix products round their inputs to `dtype` and give float32; everything else is float32. With
/// bfloat16 that is the arithmetic of the runtime's passes, up to the order of sums.
struct Products {
  torch::Device device = torch::kCPU;
  torch::Dtype dtype = torch::kFloat32;

  /// x [..., inputs], weight [outputs, inputs], bias [outputs] or undefined -> [..., outputs].
  torch::Tensor operator()(const torch::Tensor& x, const torch::Tensor& weight,
                           const torch::Tensor& bias = {}) const;
  /// A tensor in the precision of the products' inputs; differentiable.
  torch::Tensor narrow(const torch::Tensor& x) const { return x.to(dtype); }
  /// Rounded as the runtime rounds what it keeps between products (keys, values, features).
  torch::Tensor rounded(const torch::Tensor& x) const { return x.to(dtype).to(torch::kFloat32); }
};

/// A copy of a view of checkpoint memory, of the same dtype: [rows, cols], or [cols] of one row
/// with `vector`.
torch::Tensor copy_tensor(const TensorView& view, bool vector = false);

}  // namespace convoke::training
