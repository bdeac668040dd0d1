// The decoder-only transformer of one rank: token rows in, hidden states and logits out.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "kernels/backend.h"
#include "parallel/communicator.h"
#include "parallel/shard_plan.h"
#include "runtime/draft_needs.h"
#include "runtime/kv_cache.h"
#include "runtime/lookahead_table.h"
#include "runtime/model_config.h"
#include "runtime/weights.h"

namespace convoke {

/// Rows of logits computed at once: bounds the logits buffer to this many rows of the vocabulary.
inline constexpr int kLogitRows = 64;

/// Forward pass over flattened rows of many sequences. All methods are parts of a backend program:
/// every thread of the team calls them with equal arguments (kernels/backend.h). They allocate
/// nothing; the workspace is sized for `max_rows` at construction.
class Transformer {
 public:
  /// `max_sequences`: with rows in one pass.
  Transformer(Backend& backend, Communicator& communicator, const ModelConfig& config,
              const ShardPlan& plan, const ModelWeights& weights, int max_rows, int max_sequences);

  /// Runs all layers over `tokens` (at most max_rows()) and appends their keys and values to the
  /// cache. The residual stream after the last layer stays in the workspace.
  void forward(Stream& stream, std::span<const int32_t> tokens, const AttentionBatch& batch,
               const KvCache& cache);

  /// Logits of this rank's vocabulary slice for the given rows of the last forward(): at most
  /// kLogitRows of them. Returns [rows.size(), local vocabulary] float32 in the workspace.
  TensorView logits(Stream& stream, std::span<const int32_t> rows);

  /// What rows with negative tokens enter as from now on (copied; outside of programs).
  void set_lookahead(const LookaheadTable& table);
  /// What forward() leaves for a drafter from now on (allocates; outside of programs). The first
  /// rank alone keeps features: the residual stream is the same on all.
  void export_features(const FeatureSpec& spec);
  /// [rows, width] of the last forward() in host memory, once its program has run; or an empty
  /// view.
  TensorView features(int rows) const;
  /// What features are exported as; width 0: none are. On a device.
  DType feature_dtype() const { return features_.dtype; }
  int64_t feature_width() const { return features_.rows == 0 ? 0 : features_.cols; }
  /// Where the next forward()s leave features in the place of host memory: row i of a pass in row
  /// to[i] of `rows`, those with -1 nowhere. `to` is among the arrays that the program is announced
  /// with (PassArrays::indices). Without: in host memory.
  void leave_features(const TensorView& rows, std::span<const int32_t> to) {
    feature_target_ = rows;
    feature_to_ = to;
  }

  int max_rows() const { return max_rows_; }
  /// Seconds the team's leader has spent in collectives since the last call.
  double take_communication_seconds();

 private:
  void attention_block(Stream& stream, const LayerWeights& layer, const KvLayer& kv, int window,
                       const AttentionBatch& batch);
  /// `next`: the weight of the norm that follows, or null.
  void mlp_block(Stream& stream, const LayerWeights& layer, int rows, const FloatArray* next);
  void export_residual(Stream& stream, int layer, int rows);
  void export_final(Stream& stream, int rows);
  /// args.y = the residual stream, normalised with this weight, * args.weights.
  void normed_product(Stream& stream, const FloatArray& norm, int rows, MatmulArgs args);
  /// The residual stream += sum over ranks of input * matrix, then the bias. `next` as above.
  void add_product(Stream& stream, const TensorView& input, const PackedMatrix& matrix,
                   const FloatArray& bias, const FloatArray* next);
  /// The residual stream += sum over ranks of the reduce buffer, then the bias. `next` as above.
  void reduce_into_residual(Stream& stream, const FloatArray& bias, int rows,
                            const FloatArray* next);
  TensorView partial(int rows);

  Backend& backend_;
  Communicator& communicator_;
  const ModelConfig& config_;
  const ShardPlan& plan_;
  const ModelWeights& weights_;
  int max_rows_;
  double communication_seconds_ = 0;  ///< written by the leader only
  std::unique_ptr<Buffer> memory_;
  // Views of memory_, each with max_rows_ rows (logit ones: kLogitRows).
  TensorView x_;          ///< residual stream [hidden] float32
  TensorView qkv_;        ///< [q + k + v] float32
  TensorView attended_;   ///< [local heads * head_dim] activation dtype
  TensorView activated_;  ///< [local intermediate] activation dtype
  TensorView final_;      ///< [hidden] activation dtype
  TensorView normed_;     ///< [hidden] activation dtype: x_, where sums over ranks leave its norm
  TensorView logits_;     ///< [local vocabulary] float32
  std::unique_ptr<Buffer> lookahead_memory_;
  TensorView lookahead_;  ///< [count, hidden] float32, maybe empty
  FeatureSpec feature_spec_;
  std::unique_ptr<Buffer> feature_memory_, feature_host_memory_;
  TensorView features_;        ///< [max_rows, width] activation dtype
  TensorView host_features_;   ///< the same in host memory; where that is shared, features_ itself
  TensorView feature_target_;  ///< see leave_features()
  std::span<const int32_t> feature_to_;
};

/// Floats of Communicator::reduce_buffer that a transformer with `max_rows` needs.
int64_t reduce_capacity(const ModelConfig& config, int max_rows);

}  // namespace convoke
