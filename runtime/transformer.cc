#include "runtime/transformer.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "kernels/check.h"
#include "runtime/workspace_layout.h"

namespace convoke {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int64_t reduce_capacity(const ModelConfig& config, int max_rows) {
  return int64_t(config.hidden) * max_rows;
}

Transformer::Transformer(Backend& backend, Communicator& communicator, const ModelConfig& config,
                         const ShardPlan& plan, const ModelWeights& weights, int max_rows,
                         int max_sequences)
    : backend_(backend),
      communicator_(communicator),
      config_(config),
      plan_(plan),
      weights_(weights),
      max_rows_(max_rows) {
  const DType activation = weights.lm_head->activation_dtype();
  const int64_t q_width = plan.local_heads() * config.head_dim;
  const int64_t kv_width = plan.local_kv_heads() * config.head_dim;
  const int logit_rows = std::min(max_rows, kLogitRows);
  const auto lay_out = [&](WorkspaceLayout layout) {
    x_ = layout.matrix(DType::kFloat32, max_rows, config.hidden);
    qkv_ = layout.matrix(DType::kFloat32, max_rows, q_width + 2 * kv_width);
    attended_ = layout.matrix(activation, max_rows, q_width);
    activated_ = layout.matrix(activation, max_rows, plan.intermediate.size());
    final_ = layout.matrix(activation, logit_rows, config.hidden);
    if (communicator.fuses_norm()) {
      normed_ = layout.matrix(activation, max_rows, config.hidden);
    }
    logits_ = layout.matrix(DType::kFloat32, logit_rows, plan.vocabulary.size());
    return layout.used();
  };
  memory_ = backend.allocate(lay_out(WorkspaceLayout(nullptr)));
  lay_out(WorkspaceLayout(memory_->data()));
  // Several ranks' sums are added to the residual stream as one flat array: its rows must be dense.
  if (plan.tp > 1) x_.row_stride = x_.cols;
  backend.reserve(
      {.rows = max_rows,
       .logit_rows = logit_rows,
       .sequences = max_sequences,
       .positions = int(weights.rope_cos.size() / size_t(std::max(config.head_dim / 2, 1))),
       .heads = int(plan.local_heads()),
       .kv_heads = int(plan.local_kv_heads()),
       .head_dim = config.head_dim,
       .vocabulary = config.vocabulary});
}

void Transformer::forward(Stream& stream, std::span<const int32_t> tokens,
                          const AttentionBatch& batch, const KvCache& cache) {
  const int rows = int(tokens.size());
  CONVOKE_CHECK_LE(rows, max_rows_);
  CONVOKE_CHECK_EQ(rows, batch.rows);
  const TensorView x = x_.row_range(0, rows);

  if (plan_.tp == 1) {
    backend_.embed(
        stream,
        {.tokens = tokens, .table = weights_.embedding.view(), .lookahead = lookahead_, .x = x});
  } else {
    // Each rank embeds the tokens of its vocabulary slice, and zeros for the rest. The sum over
    // ranks is exact, so it does not matter that it goes by way of an accumulation.
    backend_.embed(stream, {.tokens = tokens,
                            .table = weights_.embedding.view(),
                            .first_token = int32_t(plan_.vocabulary.begin),
                            .lookahead = lookahead_,
                            .x = partial(rows)});
    backend_.fill_zero(stream, x);
    reduce_into_residual(stream, {}, rows, &weights_.layers[0].input_norm);
  }
  for (int l = 0; l < config_.layers; ++l) {
    export_residual(stream, l, rows);
    attention_block(stream, weights_.layers[size_t(l)], cache.layers()[size_t(l)],
                    config_.window.empty() ? 0 : config_.window[size_t(l)], batch);
    const bool last = l + 1 == config_.layers;
    mlp_block(stream, weights_.layers[size_t(l)], rows,
              last ? nullptr : &weights_.layers[size_t(l) + 1].input_norm);
  }
  export_residual(stream, config_.layers, rows);
  export_final(stream, rows);
  if (!feature_to_.empty()) {
    backend_.copy_rows(
        stream, {.x = features_.row_range(0, rows), .y = feature_target_, .to = feature_to_});
  } else if (host_features_.data != features_.data) {
    backend_.copy(stream, features_.row_range(0, rows), host_features_.row_range(0, rows));
  }
}

void Transformer::set_lookahead(const LookaheadTable& table) {
  const size_t bytes = table.values.size() * sizeof(float);
  lookahead_memory_ = bytes == 0 ? nullptr : backend_.allocate(bytes);
  lookahead_ = TensorView::matrix(lookahead_memory_ ? lookahead_memory_->data() : nullptr,
                                  DType::kFloat32, table.count, table.hidden);
  if (bytes == 0) return;
  const TensorView values = TensorView::matrix(const_cast<float*>(table.values.data()),
                                               DType::kFloat32, table.count, table.hidden);
  backend_.run([&](Stream& stream) {
    if (plan_.rank == 0) {
      backend_.copy(stream, values, lookahead_);
    } else {
      backend_.fill_zero(stream, lookahead_);  // the ranks' rows are added up
    }
  });
}

void Transformer::export_features(const FeatureSpec& spec) {
  feature_spec_ = plan_.rank == 0 ? spec : FeatureSpec{};
  const int64_t width = feature_spec_.width(config_);
  const DType activation = weights_.lm_head->activation_dtype();
  // Drafters take bfloat16 or float32 (runtime/draft_needs.h).
  const DType dtype = activation == DType::kFloat16 ? DType::kFloat32 : activation;
  features_ = host_features_ = {};
  feature_memory_ = nullptr;
  feature_host_memory_ = nullptr;
  if (width == 0) return;
  const size_t bytes = size_t(max_rows_ * width) * dtype_size(dtype);
  feature_memory_ = backend_.allocate(bytes);
  features_ = TensorView::matrix(feature_memory_->data(), dtype, max_rows_, width);
  host_features_ = features_;
  if (backend_.shares_host_memory()) return;
  feature_host_memory_ = backend_.allocate_host(bytes);
  host_features_.data = feature_host_memory_->data();
}

TensorView Transformer::features(int rows) const {
  return host_features_.rows == 0 ? TensorView{} : host_features_.row_range(0, rows);
}

void Transformer::export_residual(Stream& stream, int layer, int rows) {
  if (feature_spec_.kind != FeatureSpec::Kind::kLayers) return;
  for (size_t i = 0; i < feature_spec_.layers.size(); ++i) {
    if (feature_spec_.layers[i] != layer) continue;
    const int64_t begin = int64_t(i) * config_.hidden;
    backend_.convert(stream, x_.row_range(0, rows),
                     features_.row_range(0, rows).col_range(begin, begin + config_.hidden));
  }
}

void Transformer::export_final(Stream& stream, int rows) {
  if (feature_spec_.kind != FeatureSpec::Kind::kFinal) return;
  backend_.rms_norm(stream, {.x = x_.row_range(0, rows),
                             .weight = weights_.final_norm.data(),
                             .epsilon = config_.rms_epsilon,
                             .y = features_.row_range(0, rows)});
}

void Transformer::attention_block(Stream& stream, const LayerWeights& layer, const KvLayer& kv,
                                  int window, const AttentionBatch& batch) {
  const int rows = batch.rows;
  const int heads = int(plan_.local_heads());
  const TensorView qkv = qkv_.row_range(0, rows);
  const TensorView attended = attended_.row_range(0, rows);

  normed_product(stream, layer.input_norm, rows,
                 {.weights = layer.qkv.get(), .bias = layer.qkv_bias.data(), .y = qkv});
  const RopeAppendArgs rope{.qkv = qkv,
                            .heads = heads,
                            .batch = &batch,
                            .kv = kv,
                            .cos = weights_.rope_cos.data(),
                            .sin = weights_.rope_sin.data(),
                            .q_norm = layer.q_norm.data(),
                            .k_norm = layer.k_norm.data(),
                            .norm_epsilon = config_.rms_epsilon};
  backend_.rope_attention(stream, rope,
                          {.qkv = qkv,
                           .heads = heads,
                           .batch = &batch,
                           .kv = kv,
                           .scale = 1.0f / std::sqrt(float(config_.head_dim)),
                           .window = window,
                           .y = attended,
                           .next = {layer.output.get(), layer.gate_up.get()}});
  add_product(stream, attended, *layer.output, layer.output_bias, &layer.post_norm);
}

void Transformer::mlp_block(Stream& stream, const LayerWeights& layer, int rows,
                            const FloatArray* next) {
  const TensorView activated = activated_.row_range(0, rows);
  normed_product(
      stream, layer.post_norm, rows,
      {.weights = layer.gate_up.get(), .bias = layer.gate_up_bias.data(), .y = activated});
  add_product(stream, activated, *layer.down, layer.down_bias, next);
}

void Transformer::normed_product(Stream& stream, const FloatArray& norm, int rows,
                                 MatmulArgs args) {
  if (normed_.rows > 0) {
    args.x = normed_.row_range(0, rows);  // by the sum before
  } else {
    args.x = x_.row_range(0, rows);
    args.norm_weight = norm.data();
    args.norm_epsilon = config_.rms_epsilon;
  }
  backend_.matmul(stream, args);
}

void Transformer::add_product(Stream& stream, const TensorView& input, const PackedMatrix& matrix,
                              const FloatArray& bias, const FloatArray* next) {
  const int rows = int(input.rows);
  if (plan_.tp == 1) {
    backend_.matmul(stream, {.x = input,
                             .weights = &matrix,
                             .bias = bias.data(),
                             .y = x_.row_range(0, rows),
                             .accumulate = true});
  } else {
    backend_.matmul(stream, {.x = input, .weights = &matrix, .y = partial(rows)});
    reduce_into_residual(stream, bias, rows, next);
  }
}

TensorView Transformer::logits(Stream& stream, std::span<const int32_t> rows) {
  const int count = int(rows.size());
  CONVOKE_CHECK_LE(count, int(logits_.rows));
  const TensorView normed = final_.row_range(0, count);
  const TensorView out = logits_.row_range(0, count);
  backend_.rms_norm(stream, {.x = x_,
                             .weight = weights_.final_norm.data(),
                             .epsilon = config_.rms_epsilon,
                             .y = normed,
                             .gather = rows});
  backend_.matmul(stream, {.x = normed, .weights = weights_.lm_head.get(), .y = out});
  return out;
}

TensorView Transformer::partial(int rows) {
  return TensorView::matrix(communicator_.reduce_buffer(), DType::kFloat32, rows, config_.hidden);
}

void Transformer::reduce_into_residual(Stream& stream, const FloatArray& bias, int rows,
                                       const FloatArray* next) {
  const auto start = std::chrono::steady_clock::now();
  const bool with_norm = next != nullptr && normed_.rows > 0;
  if (with_norm) {
    communicator_.all_reduce_add_norm(stream, {.target = x_.row<float>(0),
                                               .rows = rows,
                                               .columns = config_.hidden,
                                               .bias = bias.data(),
                                               .norm_weight = next->data(),
                                               .norm_epsilon = config_.rms_epsilon,
                                               .normalised = normed_.row_range(0, rows)});
  } else {
    communicator_.all_reduce_add(stream, x_.row<float>(0), int64_t(rows) * config_.hidden);
  }
  if (stream.leads()) communication_seconds_ += seconds_since(start);
  if (with_norm) return;
  if (!bias.empty()) backend_.add_bias(stream, x_.row_range(0, rows), bias.data());
}

double Transformer::take_communication_seconds() {
  return std::exchange(communication_seconds_, 0.0);
}

}  // namespace convoke
