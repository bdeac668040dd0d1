#include "runtime/heads/head_layer.h"

#include <cmath>

#include "runtime/workspace_layout.h"

namespace convoke {
namespace {

/// One rank and one reduction group: a head's bits are its own, and are summed in one go.
ShardPlan whole_layer(const ModelConfig& config) {
  ShardPlan plan = make_shard_plan(config.extents(), 1, 0);
  plan.groups = plan.local_groups = 1;
  return plan;
}

}  // namespace

HeadLayer::HeadLayer(Backend& backend, const ModelConfig& config, const TensorSource& source,
                     const std::string& prefix, DType dtype, int max_rows, int positions)
    : backend_(backend), config_(config) {
  load_layer_matrices(weights_, source, prefix, backend, config, whole_layer(config), dtype);
  weights_.post_norm = {backend,
                        to_floats(source.tensor(prefix + "post_attention_layernorm.weight"))};
  const RopeTable rope = make_rope_table(config, positions);
  rope_cos_ = {backend, rope.cos};
  rope_sin_ = {backend, rope.sin};
  const DType activation = activation_dtype();
  const int64_t heads_width = int64_t(config.heads) * config.head_dim;
  const int64_t kv_width = int64_t(config.kv_heads) * config.head_dim;
  const auto lay_out = [&](WorkspaceLayout layout) {
    qkv_ = layout.matrix(DType::kFloat32, max_rows, heads_width + 2 * kv_width);
    attended_ = layout.matrix(activation, max_rows, heads_width);
    activated_ = layout.matrix(activation, max_rows, config.intermediate);
    return layout.used();
  };
  memory_ = backend.allocate(lay_out(WorkspaceLayout(nullptr)));
  lay_out(WorkspaceLayout(memory_->data()));
}

void HeadLayer::run(Stream& stream, const TensorView& input, const TensorView& x,
                    const AttentionBatch& batch, const KvLayer& kv) {
  const int rows = batch.rows;
  const TensorView qkv = qkv_.row_range(0, rows);
  const TensorView attended = attended_.row_range(0, rows);
  const TensorView activated = activated_.row_range(0, rows);

  backend_.matmul(
      stream,
      {.x = input, .weights = weights_.qkv.get(), .bias = weights_.qkv_bias.data(), .y = qkv});
  const RopeAppendArgs rope{.qkv = qkv,
                            .heads = config_.heads,
                            .batch = &batch,
                            .kv = kv,
                            .cos = rope_cos_.data(),
                            .sin = rope_sin_.data()};
  backend_.rope_attention(stream, rope,
                          {.qkv = qkv,
                           .heads = config_.heads,
                           .batch = &batch,
                           .kv = kv,
                           .scale = 1.0f / std::sqrt(float(config_.head_dim)),
                           .y = attended,
                           .next = {weights_.output.get(), weights_.gate_up.get()}});
  backend_.matmul(stream,
                  {.x = attended, .weights = weights_.output.get(), .y = x, .accumulate = true});
  backend_.matmul(stream, {.x = x,
                           .weights = weights_.gate_up.get(),
                           .y = activated,
                           .norm_weight = weights_.post_norm.data(),
                           .norm_epsilon = config_.rms_epsilon});
  backend_.matmul(stream,
                  {.x = activated, .weights = weights_.down.get(), .y = x, .accumulate = true});
}

}  // namespace convoke
