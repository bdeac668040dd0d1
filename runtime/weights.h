// One rank's slice of a model, packed for its backend.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "parallel/shard_plan.h"
#include "runtime/model_config.h"
#include "runtime/model_files/tensor_source.h"

namespace convoke {

struct LayerWeights {
  FloatArray input_norm;                  ///< [hidden]
  FloatArray post_norm;                   ///< [hidden]
  FloatArray q_norm, k_norm;              ///< [head_dim] or empty
  std::unique_ptr<PackedMatrix> qkv;      ///< outputs: local q heads, k heads, v heads
  FloatArray qkv_bias;                    ///< or empty
  std::unique_ptr<PackedMatrix> output;   ///< o_proj: inputs cut along reduction groups
  FloatArray output_bias;                 ///< or empty; every rank adds it after the reduction
  std::unique_ptr<PackedMatrix> gate_up;  ///< gated; outputs: local intermediate
  FloatArray gate_up_bias;                ///< the gate's, then the other's; or empty
  std::unique_ptr<PackedMatrix> down;     ///< inputs cut along reduction groups
  FloatArray down_bias;                   ///< or empty
};

struct ModelWeights {
  ResidentMatrix embedding;  ///< [local vocabulary, hidden], the checkpoint's dtype
  std::vector<LayerWeights> layers;
  FloatArray final_norm;                        ///< [hidden]
  std::shared_ptr<const PackedMatrix> lm_head;  ///< outputs: local vocabulary
  DType lm_head_dtype = DType::kBFloat16;       ///< that it is stored in
  FloatArray rope_cos, rope_sin;                ///< [positions, head_dim / 2]

  /// Bytes of weights that one pass over a single row reads on this rank.
  int64_t bytes_per_pass() const;
};

/// What a drafting head on a sibling of the target's backend computes with in the place of copies.
/// Each stays for as long as somebody holds it, the target or a head.
struct SharedWeights {
  ResidentMatrix embedding;                     ///< [vocabulary, hidden]; or empty
  std::shared_ptr<const PackedMatrix> lm_head;  ///< outputs: the vocabulary; or null
  DType lm_head_dtype = DType::kBFloat16;
};
/// What of a rank's weights is whole: nothing with several ranks, each of which has a slice of the
/// vocabulary. An lm_head whose scales came with the checkpoint is not for heads (open_target()).
SharedWeights shared_weights(const ModelWeights& weights, const ModelConfig& config,
                             const ShardPlan& plan);

/// Which storage dtype `--dtype` means for a checkpoint: kBFloat16, kFloat32, or kFloat16 where the
/// backend has it. Elsewhere float16 checkpoints widen to float32, which is exact. Throws
/// Error(kUsage) for what cannot be had.
DType weight_dtype(const std::string& flag, const ModelConfig& config, bool has_float16 = false);

inline constexpr char kEmbedding[] = "model.embed_tokens.weight";  ///< of a target
/// The layer of a target that makes logits: the embedding where they are tied.
std::string lm_head_layer(const ModelConfig& config);

/// Rows of a tensor where kernels of `backend` read them. Tensors that follow from a formula are
/// made there.
ResidentMatrix resident_rows(Backend& backend, const std::shared_ptr<const TensorSource>& source,
                             const std::string& name, Range rows);
/// Outputs of a linear layer, packed by themselves. `layer`: the tensor's name without ".weight".
std::unique_ptr<PackedMatrix> pack_rows(Backend& backend, const TensorSource& source,
                                        const std::string& layer, Range outputs, DType storage);

/// A small tensor (a norm, a bias) as floats.
std::vector<float> to_floats(const TensorView& view);

/// What RopeAppendArgs takes: [positions, head_dim / 2] each.
struct RopeTable {
  std::vector<float> cos, sin;
};
RopeTable make_rope_table(const ModelConfig& config, int positions);

/// Packs a rank's slice of the projections of one decoder layer, with their biases and the norms of
/// queries and keys where `config` has them. `prefix` stands before "self_attn." and "mlp.". The
/// norms around them are left alone.
void load_layer_matrices(LayerWeights& layer, const TensorSource& source, const std::string& prefix,
                         Backend& backend, const ModelConfig& config, const ShardPlan& plan,
                         DType dtype);

/// Packs this rank's slice. `positions` is the number of rotary positions to prepare. Only the
/// pages of the slice are read. `progress(done, total)` is called per layer when given.
ModelWeights load_weights(Backend& backend, const ModelConfig& config, const ShardPlan& plan,
                          std::shared_ptr<const TensorSource> source, DType dtype, int positions,
                          const std::function<void(int, int)>& progress = {});

}  // namespace convoke
