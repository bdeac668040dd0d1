// The frozen target, as the heads are trained against it: hidden states, next-token logits, and,
// for look-ahead embeddings, passes that gradients flow through.
#pragma once

#include <torch/types.h>

#include <filesystem>
#include <vector>

#include "runtime/model_config.h"
#include "runtime/model_files/tensor_source.h"
#include "training/decoder_math.h"

namespace convoke::training {

class TargetModel {
 public:
  /// Weights are held in the precision of `products`.
  TargetModel(const ModelConfig& config, const TensorSource& source, const Products& products);
  static TargetModel load(const std::filesystem::path& directory, const Products& products);

  const ModelConfig& config() const { return config_; }
  const Products& products() const { return products_; }

  struct Pass {
    torch::Tensor hidden;               ///< [batch, rows, hidden] after the final norm: kFinal
    std::vector<torch::Tensor> states;  ///< [batch, rows, hidden] each: the residual that enters
                                        ///< the layers asked for, in that order
    /// Of every layer [batch, kv_heads, rows, head_dim], if kept.
    std::vector<torch::Tensor> keys, values;
  };
  /// tokens [batch, rows] int64, at positions 0, 1, ... Without gradients. States are rounded as
  /// the runtime exports them.
  Pass run(const torch::Tensor& tokens, const std::vector<int>& layers = {},
           bool keep_cache = false) const;

  /// Rows that follow a committed context, as look-ahead rows do: `x` [batch, rows, hidden] enters
  /// the first layer at `positions` [batch, rows]. `sees` [batch, rows, context + rows] says which
  /// of the context's positions and of the rows themselves a row may attend to, as far as sliding
  /// windows let it. Gives what enters lm_head. Gradients flow to x.
  torch::Tensor run_behind(const Pass& context, const torch::Tensor& x,
                           const torch::Tensor& positions, const torch::Tensor& sees) const;

  torch::Tensor embed(const torch::Tensor& tokens) const;  ///< [..., hidden] float32
  torch::Tensor logits(const torch::Tensor& hidden) const { return products_(hidden, lm_head_); }

  const torch::Tensor& embedding() const { return embedding_; }  ///< [vocabulary, hidden]
  const torch::Tensor& lm_head() const { return lm_head_; }      ///< [vocabulary, hidden]
  const torch::Tensor& final_norm() const { return final_norm_; }
  const LayerTensors& layer(int index) const { return layers_.at(size_t(index)); }

 private:
  template <typename Attend>
  torch::Tensor run_layer(int index, const torch::Tensor& x, const torch::Tensor& positions,
                          Attend&& attend) const;

  const ModelConfig config_;
  const Products products_;
  Rotary rotary_;
  torch::Tensor embedding_, lm_head_, final_norm_;
  std::vector<LayerTensors> layers_;
};

}  // namespace convoke::training
