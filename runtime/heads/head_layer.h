// The one decoder layer of an EAGLE head, without the norm before its attention: the variants
// differ in what they feed it.
#pragma once

#include <memory>
#include <string>

#include "kernels/backend.h"
#include "runtime/model_config.h"
#include "runtime/weights.h"

namespace convoke {

class HeadLayer {
 public:
  /// `prefix` stands before "self_attn." in the names of `source`. `config` is the layer's.
  HeadLayer(Backend& backend, const ModelConfig& config, const TensorSource& source,
            const std::string& prefix, DType dtype, int max_rows, int positions);

  /// x += attention(input); x += mlp(norm(x)). `input` [rows, inputs] in activation_dtype(), `x`
  /// [rows, hidden] float32. Part of a backend program.
  void run(Stream& stream, const TensorView& input, const TensorView& x,
           const AttentionBatch& batch, const KvLayer& kv);

  int heads() const { return config_.heads; }
  DType activation_dtype() const { return weights_.qkv->activation_dtype(); }
  KvShape kv_shape() const {
    return {config_.kv_heads, config_.head_dim, weights_.qkv->activation_dtype()};
  }

 private:
  Backend& backend_;
  const ModelConfig config_;
  LayerWeights weights_;
  FloatArray rope_cos_, rope_sin_;  ///< [positions, head_dim / 2]
  std::unique_ptr<Buffer> memory_;
  TensorView qkv_;        ///< [max_rows, q + k + v] float32
  TensorView attended_;   ///< [max_rows, heads * head_dim] activation dtype
  TensorView activated_;  ///< [max_rows, intermediate] activation dtype
};

}  // namespace convoke
