// EAGLE-3 heads: several layers' states of the target, fused into one, carried on by one decoder
// layer that sees the token's embedding beside it. Source: arXiv 2503.01840.
//
//   g = fc(features) for true entries, the parent's x for guesses
//   x = g + attention([norm(embedding(token)) ; norm(g)]);  x += mlp(norm(x))
//   logits = lm_head(norm(x)), over a draft vocabulary of its own
//
// The residual is g itself, or norm(g) where the head's config says `norm_before_residual`.
#pragma once

#include <memory>

#include "runtime/heads/eagle_head.h"

namespace convoke {

class Eagle3Head final : public PagedBranchModel {
 public:
  Eagle3Head(Backend& backend, const HeadConfig& config, std::shared_ptr<const TensorSource> head,
             const TargetTensors& target, const HeadOptions& options);

  static std::vector<HeadTensor> tensors(const HeadConfig& config, const TensorSource* source);

 protected:
  void forward(Stream& stream, const Pass& pass, const KvCache& cache) override;
  TensorView logits(Stream& stream, std::span<const int32_t> rows) override;

 private:
  void load_lm_head(const TensorView& weights, const std::vector<int32_t>& rows, DType dtype);
  void lay_out();
  void fuse(Stream& stream, const Pass& pass, const TensorView& x);

  const HeadConfig config_;
  ResidentMatrix embedding_;
  std::unique_ptr<PackedMatrix> fc_;
  FloatArray input_norm_, hidden_norm_, final_norm_;  ///< [hidden]
  std::unique_ptr<HeadLayer> layer_;
  std::unique_ptr<PackedMatrix> lm_head_;

  std::unique_ptr<Buffer> memory_;
  TensorView features_;  ///< [max_rows, feature width] fc's activation dtype
  TensorView embedded_;  ///< [max_rows, hidden] float32
  TensorView input_;     ///< [max_rows, 2 * hidden] normed embedding, normed g; activation dtype
  TensorView x_;         ///< [max_rows, hidden] float32, dense
  TensorView final_;     ///< [logit_rows, hidden] lm_head's activation dtype
  TensorView logits_;    ///< [logit_rows, columns] float32
  TensorView states_;    ///< [states, hidden] float32: the x that rows left
};

}  // namespace convoke
