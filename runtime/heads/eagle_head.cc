#include "runtime/heads/eagle_head.h"

#include "kernels/check.h"
#include "runtime/heads/row_copy.h"
#include "runtime/workspace_layout.h"

namespace convoke {
namespace {

constexpr char kPrefix[] = "layers.0.";
constexpr char kEmbedding[] = "embed_tokens.weight";

}  // namespace

std::vector<HeadTensor> EagleHead::tensors(const HeadConfig& config, const TensorSource* source) {
  const int64_t hidden = config.layer.hidden;
  std::vector<HeadTensor> list = layer_tensors(config, kPrefix, hidden, source);
  list.push_back({"fc.weight", {hidden, 2 * hidden}});
  if (config.fc_bias) list.push_back({"fc.bias", {hidden}});
  list.push_back({.name = kEmbedding, .shape = {config.vocabulary, hidden}, .optional = true});
  add_vocabulary_tensors(config, list);
  return list;
}

EagleHead::EagleHead(Backend& backend, const HeadConfig& config,
                     std::shared_ptr<const TensorSource> head, const TargetTensors& target,
                     const HeadOptions& options)
    : PagedBranchModel(backend, options.limits),
      config_(config),
      head_source_(std::move(head)),
      target_source_(target.source) {
  const TensorSource& source = *head_source_;
  check_head_tensors(tensors(config, &source), source, config);
  const DType dtype = head_dtype(options.dtype, source.tensor("fc.weight").dtype);
  embedding_ = source.contains(kEmbedding) ? source.tensor(kEmbedding) : target.embedding();
  fc_ = backend.pack({.parts = {source.tensor("fc.weight")}, .dtype = dtype});
  if (config.fc_bias) fc_bias_ = to_floats(source.tensor("fc.bias"));
  layer_ = std::make_unique<HeadLayer>(backend, with_biases(config, source, kPrefix), source,
                                       kPrefix, dtype, options.limits.max_rows, positions());

  DraftVocabulary vocabulary = read_draft_vocabulary(config, source);
  const DType head_weights = weight_dtype(options.dtype, target.config);
  if (vocabulary.tokens.empty()) {
    lm_head_ = backend.pack({.parts = {target.lm_head()}, .dtype = head_weights});
  } else {
    const GatheredRows rows(target.lm_head(), vocabulary.tokens);
    lm_head_ = backend.pack({.parts = {rows.view()}, .dtype = head_weights});
  }
  lay_out(lm_head_->outputs());
  set_shape({.shift = 1,
             .feature_width = config.feature_width(),
             .layers = 1,
             .kv = layer_->kv_shape(),
             .columns = lm_head_->outputs(),
             .column_tokens = std::move(vocabulary.tokens),
             .noise = options.shared_noise});
}

void EagleHead::lay_out(int64_t columns) {
  const int64_t hidden = config_.layer.hidden;
  const int rows = limits().max_rows;
  const auto place = [&](WorkspaceLayout layout) {
    input_ = layout.matrix(fc_->activation_dtype(), rows, 2 * hidden);
    x_ = layout.dense(DType::kFloat32, rows, hidden);
    attended_ = layout.matrix(layer_->activation_dtype(), rows, hidden);
    final_ = layout.matrix(lm_head_->activation_dtype(), logit_rows(), hidden);
    logits_ = layout.matrix(DType::kFloat32, logit_rows(), columns);
    states_ = layout.matrix(DType::kFloat32, states(), hidden);
    return layout.used();
  };
  memory_ = backend().allocate(place(WorkspaceLayout(nullptr)));
  place(WorkspaceLayout(memory_->data()));
}

void EagleHead::forward(Stream& stream, const Pass& pass, const KvCache& cache) {
  const int rows = pass.batch.rows;
  const int64_t hidden = config_.layer.hidden;
  const TensorView input = input_.row_range(0, rows);
  const TensorView x = x_.row_range(0, rows);
  const TensorView attended = attended_.row_range(0, rows);

  const TensorView left = input.col_range(0, hidden);
  const TensorView right = input.col_range(hidden, 2 * hidden);
  for_my_rows(stream, rows, [&](int64_t r) {
    const auto i = size_t(r);
    copy_row(row_address(embedding_, pass.tokens[i]), embedding_.dtype, row_address(left, r),
             left.dtype, hidden);
    const FeatureRow feature = pass.guesses
                                   ? FeatureRow{row_address(states_, pass.from[i]), states_.dtype}
                                   : pass.features[i];
    copy_row(feature.data, feature.dtype, row_address(right, r), right.dtype, hidden);
  });
  cpu::cpu_stream(stream).barrier();
  backend().matmul(stream, {.x = input,
                            .weights = fc_.get(),
                            .bias = fc_bias_.empty() ? nullptr : fc_bias_.data(),
                            .y = x});
  // Layer 0 has no norm before its attention.
  for_my_rows(stream, rows, [&](int64_t r) {
    copy_row(row_address(x, r), x.dtype, row_address(attended, r), attended.dtype, hidden);
  });
  cpu::cpu_stream(stream).barrier();
  layer_->run(stream, attended, x, pass.batch, cache.layers()[0]);
  for_my_rows(stream, rows, [&](int64_t r) {
    const int32_t keep = pass.keep[size_t(r)];
    if (keep < 0) return;
    copy_row(row_address(x, r), x.dtype, row_address(states_, keep), states_.dtype, hidden);
  });
}

TensorView EagleHead::logits(Stream& stream, std::span<const int32_t> rows) {
  const auto count = int64_t(rows.size());
  const TensorView input = final_.row_range(0, count);
  const TensorView out = logits_.row_range(0, count);
  for_my_rows(stream, count, [&](int64_t r) {
    copy_row(row_address(x_, rows[size_t(r)]), x_.dtype, row_address(input, r), input.dtype,
             x_.cols);
  });
  cpu::cpu_stream(stream).barrier();
  backend().matmul(stream, {.x = input, .weights = lm_head_.get(), .y = out});
  return out;
}

}  // namespace convoke
