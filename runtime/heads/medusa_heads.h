// Medusa heads: head k guesses the token k + 1 places after the target's own next one from the
// target's last feature, without knowing what stands between. Source: arXiv 2401.10774.
//
//   x_k = f;  x_k += silu(W_kj x_k + b_kj) for each layer j;  logits_k = U_k x_k
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "runtime/drafter.h"
#include "runtime/heads/head_config.h"
#include "runtime/heads/head_tensors.h"
#include "runtime/heads/paged_branch_model.h"

namespace convoke {

class MedusaHeads {
 public:
  struct Options {
    int max_rows = 16;           ///< sequences of one pass
    bool shared_noise = true;    ///< rank with the pick rule's noise
    std::string dtype = "auto";  ///< as --dtype
    bool float16 = false;        ///< the backend has it; else float16 heads run in float32
    bool float8 = false;         ///< see head_storage()
  };
  /// Throws Error(kModel) for tensors that are missing, surplus or of a wrong shape.
  MedusaHeads(Backend& backend, const HeadConfig& config, const TensorSource& head,
              const Options& options);

  int heads() const { return heads_; }
  int max_rows() const { return options_.max_rows; }

  /// A sequence: the feature of its last position that has one, how its tokens are picked. Head k
  /// ranks with the noise of params.position + k.
  struct Row {
    FeatureRow feature;  ///< [hidden]
    PickRow params;
  };
  /// Afterwards ranked(row, head) are the best `count` tokens, until the next call. At most
  /// max_rows() rows.
  void rank(std::span<const Row> rows, int count);
  std::span<const RankedToken> ranked(int row, int head) const;

  /// Heads and layers that a file has: the number in config.json may be smaller (published files
  /// are known to have more heads than theirs says) but not larger.
  struct Extents {
    std::string prefix;  ///< "" or "medusa_head."
    int heads = 0;
    int layers = 0;
  };
  static Extents extents(const HeadConfig& config, const TensorSource* source);
  static std::vector<HeadTensor> tensors(const HeadConfig& config, const Extents& extents);

 private:
  void load(const TensorSource& head, const Extents& extents, DType dtype);
  void lay_out();
  void run_layer(Stream& stream, int layer, int rows);
  void add_residual(Stream& stream, int layer, int rows);
  void stage(std::span<const Row> rows);
  void run(Stream& stream, int rows);
  TensorView head_rows(const TensorView& view, int head, int rows) const {
    return view.row_range(int64_t(head) * rows, int64_t(head + 1) * rows);
  }

  Backend& backend_;
  const HeadConfig config_;
  const Options options_;
  int heads_ = 0;
  int layers_ = 0;
  std::unique_ptr<PackedMatrix> first_;  ///< the first layers of all heads, stacked
  FloatArray first_bias_;                ///< [heads * hidden]
  struct Layer {
    std::unique_ptr<PackedMatrix> weights;  ///< [hidden, hidden]
    FloatArray bias;
  };
  std::vector<Layer> more_;                             ///< [layers - 1][heads]
  std::vector<std::unique_ptr<PackedMatrix>> outputs_;  ///< [heads] [vocabulary, hidden]

  std::unique_ptr<Buffer> memory_;
  /// [max_rows, hidden] float32, in host memory and where kernels read them; maybe the same.
  std::unique_ptr<Buffer> host_feature_memory_;
  TensorView host_features_, features_;
  TensorView input_;   ///< [max_rows, hidden] features, activation dtype
  TensorView gate_;    ///< [max_rows, 2 * heads * hidden] float32: products, then ones
  TensorView silu_;    ///< [max_rows, heads * hidden] float32
  TensorView x_;       ///< [heads * rows, hidden] float32, head after head
  TensorView narrow_;  ///< [heads * rows, hidden] the same in activation dtype
  TensorView logits_;  ///< [heads * rows, vocabulary] float32

  int rows_ = 0;    ///< asked for
  int padded_ = 0;  ///< of the pass: those that fill it up included
  int count_ = 0;
  std::vector<PickRow> params_;      ///< [heads * padded]
  std::vector<RankedToken> ranked_;  ///< [heads * padded, count]
};

}  // namespace convoke
