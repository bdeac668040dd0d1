// EAGLE-1 and EAGLE-2 heads, which are the same weights: the target's next feature is extrapolated
// from the last one and the token that was picked from it, by one decoder layer; the target's
// frozen lm_head makes candidates of it. Sources: arXiv 2401.15077, 2406.16858.
//
//   x = fc([embedding(token) ; feature]);  x += attention(x);  x += mlp(norm(x))
//
// Entry i pairs the feature of position i with the token at i + 1. A guess has its parent's x for a
// feature.
#pragma once

#include <memory>

#include "runtime/heads/head_layer.h"
#include "runtime/heads/head_tensors.h"
#include "runtime/heads/paged_branch_model.h"

namespace convoke {

struct HeadOptions {
  BranchLimits limits;
  bool shared_noise = true;
  std::string dtype = "auto";  ///< as --dtype
  bool float16 = false;        ///< the backend has it; else float16 heads run in float32
  bool float8 = false;         ///< see head_storage()
};

class EagleHead final : public PagedBranchModel {
 public:
  /// `directory` as for load_head_config. Throws Error(kModel) where head and target do not fit.
  EagleHead(Backend& backend, const HeadConfig& config, std::shared_ptr<const TensorSource> head,
            const TargetTensors& target, const HeadOptions& options);

  /// The tensors that `config` asks for; `source` decides about the optional biases.
  static std::vector<HeadTensor> tensors(const HeadConfig& config, const TensorSource* source);

 protected:
  void forward(Stream& stream, const Pass& pass, const KvCache& cache) override;
  TensorView logits(Stream& stream, std::span<const int32_t> rows) override;

 private:
  void lay_out(int64_t columns);

  const HeadConfig config_;
  ResidentMatrix embedding_;
  std::unique_ptr<PackedMatrix> fc_;
  FloatArray fc_bias_;
  std::unique_ptr<HeadLayer> layer_;
  std::shared_ptr<const PackedMatrix> lm_head_;  ///< the target's own, maybe

  std::unique_ptr<Buffer> memory_;
  TensorView input_;     ///< [max_rows, 2 * hidden] embedding, feature; activation dtype
  TensorView x_;         ///< [max_rows, hidden] float32, dense
  TensorView attended_;  ///< [max_rows, hidden] x in activation dtype
  TensorView final_;     ///< [logit_rows, hidden] x in lm_head's activation dtype
  TensorView logits_;    ///< [logit_rows, columns] float32
  TensorView states_;    ///< [states, hidden] float32: the features that rows left
};

}  // namespace convoke
