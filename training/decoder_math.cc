#include "training/decoder_math.h"

#include <ATen/ATen.h>
#include <torch/types.h>

#include <cmath>
#include <limits>

namespace convoke::training {

torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double epsilon) {
  return x * torch::rsqrt(x.pow(2).mean(-1, true) + epsilon) * weight;
}

Rotary::Rotary(const ModelConfig& config, torch::Device device)
    : frequencies_(torch::tensor(rope_inverse_frequencies(config), torch::kFloat64).to(device)) {}

torch::Tensor Rotary::operator()(const torch::Tensor& x, const torch::Tensor& positions) const {
  torch::Tensor angles = positions.to(torch::kFloat64).unsqueeze(-1) * frequencies_;
  if (angles.dim() == 3) angles = angles.unsqueeze(1);  // one position for all heads
  const torch::Tensor cos = angles.cos().to(torch::kFloat32);
  const torch::Tensor sin = angles.sin().to(torch::kFloat32);
  const std::vector<torch::Tensor> halves = x.chunk(2, -1);
  return torch::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1);
}

torch::Tensor split_heads(const torch::Tensor& x, int64_t heads) {
  return x.view({x.size(0), x.size(1), heads, -1}).transpose(1, 2);
}

torch::Tensor merge_heads(const torch::Tensor& x) {
  return x.transpose(1, 2).reshape({x.size(0), x.size(2), -1});
}

// The query heads of one key head become further rows of its product, so no key is copied.
torch::Tensor attention_scores(const torch::Tensor& q, const torch::Tensor& k) {
  const int64_t batch = q.size(0), heads = q.size(1), rows = q.size(2), size = q.size(3);
  const torch::Tensor packed = q.reshape({batch, k.size(1), heads / k.size(1) * rows, size});
  const torch::Tensor scores = torch::matmul(packed, k.transpose(2, 3)) / std::sqrt(double(size));
  return scores.view({batch, heads, rows, k.size(2)});
}

torch::Tensor attention_values(const torch::Tensor& shares, const torch::Tensor& v) {
  const int64_t batch = shares.size(0), heads = shares.size(1), rows = shares.size(2);
  const torch::Tensor packed =
      shares.reshape({batch, v.size(1), heads / v.size(1) * rows, shares.size(3)});
  return torch::matmul(packed, v).view({batch, heads, rows, v.size(3)});
}

torch::Tensor mask_where(const torch::Tensor& visible) {
  return torch::zeros(visible.sizes(), visible.options().dtype(torch::kFloat32))
      .masked_fill(visible.logical_not(), -std::numeric_limits<float>::infinity());
}

torch::Tensor causal_mask(int64_t rows, int window, torch::Device device) {
  const torch::Tensor position = torch::arange(rows, torch::TensorOptions(device));
  const torch::Tensor distance = position.unsqueeze(1) - position.unsqueeze(0);
  torch::Tensor visible = distance >= 0;
  if (window > 0) visible = visible.logical_and(distance < window);
  return mask_where(visible);
}

QueriesKeysValues project(const Products& products, const LayerTensors& layer,
                          const ModelConfig& config, const Rotary& rotary,
                          const torch::Tensor& input, const torch::Tensor& positions) {
  const torch::Tensor narrow = products.narrow(input);
  const auto heads = [&](const torch::Tensor& weight, const torch::Tensor& bias, int count,
                         const torch::Tensor& norm) {
    const torch::Tensor y = split_heads(products(narrow, weight, bias), count);
    return norm.defined() ? rms_norm(y, norm, config.rms_epsilon) : y;
  };
  return {.q = rotary(heads(layer.q, layer.q_bias, config.heads, layer.q_norm), positions),
          .k = products.rounded(
              rotary(heads(layer.k, layer.k_bias, config.kv_heads, layer.k_norm), positions)),
          .v = products.rounded(heads(layer.v, layer.v_bias, config.kv_heads, {}))};
}

torch::Tensor mlp(const Products& products, const LayerTensors& layer, const torch::Tensor& x) {
  const torch::Tensor narrow = products.narrow(x);
  const torch::Tensor gate = products(narrow, layer.gate, layer.gate_bias);
  const torch::Tensor up = products(narrow, layer.up, layer.up_bias);
  return products(torch::silu(gate) * up, layer.down, layer.down_bias);
}

}  // namespace convoke::training
