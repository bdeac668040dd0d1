// The parts of a Llama-like decoder layer on torch tensors, shared by the frozen target and by the
// heads: one definition of norm, rotation, attention and MLP.
#pragma once

#include <torch/types.h>

#include <optional>

#include "runtime/model_config.h"
#include "training/products.h"

namespace convoke::training {

/// x / sqrt(mean(x^2) + epsilon) * weight over the last dimension.
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double epsilon);

/// Rotary positions; element j of a head is rotated with element j + head_dim / 2.
class Rotary {
 public:
  Rotary(const ModelConfig& config, torch::Device device);
  /// x [batch, heads, rows, head_dim], positions [rows] or [batch, rows] int64.
  torch::Tensor operator()(const torch::Tensor& x, const torch::Tensor& positions) const;

 private:
  torch::Tensor frequencies_;  ///< [head_dim / 2] float64, radians per position
};

/// [batch, rows, heads * head_dim] -> [batch, heads, rows, head_dim].
torch::Tensor split_heads(const torch::Tensor& x, int64_t heads);
torch::Tensor merge_heads(const torch::Tensor& x);

/// Scores of queries against keys, scaled by 1 / sqrt(head_dim): q [batch, heads, rows, d], k
/// [batch, kv_heads, keys, d] -> [batch, heads, rows, keys]. Query head h uses key head
/// h * kv_heads / heads.
torch::Tensor attention_scores(const torch::Tensor& q, const torch::Tensor& k);
/// Shares [batch, heads, rows, keys] of values [batch, kv_heads, keys, d] ->
/// [batch, heads, rows, d].
torch::Tensor attention_values(const torch::Tensor& shares, const torch::Tensor& v);

/// 0 where `visible` (bool), -infinity elsewhere.
torch::Tensor mask_where(const torch::Tensor& visible);
/// The mask [rows, rows] of a text: row r sees keys at positions (r - window, r]; window 0 = all
/// before.
torch::Tensor causal_mask(int64_t rows, int window, torch::Device device);

/// The projections of one layer. Weights are [outputs, inputs]; what is absent is undefined.
struct LayerTensors {
  torch::Tensor q, k, v, o, gate, up, down;
  torch::Tensor q_bias, k_bias, v_bias, o_bias, gate_bias, up_bias, down_bias;
  torch::Tensor q_norm, k_norm;         ///< [head_dim]
  torch::Tensor input_norm, post_norm;  ///< [hidden]
};

struct QueriesKeysValues {
  torch::Tensor q;  ///< [batch, heads, rows, head_dim], rotated
  torch::Tensor k;  ///< [batch, kv_heads, rows, head_dim], rotated, rounded as in the cache
  torch::Tensor v;  ///< likewise
};

/// input [batch, rows, inputs] (normed where the layer does so).
QueriesKeysValues project(const Products& products, const LayerTensors& layer,
                          const ModelConfig& config, const Rotary& rotary,
                          const torch::Tensor& input, const torch::Tensor& positions);

/// down(silu(gate(x)) * up(x)).
torch::Tensor mlp(const Products& products, const LayerTensors& layer, const torch::Tensor& x);

}  // namespace convoke::training
