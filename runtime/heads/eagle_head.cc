#include "runtime/heads/eagle_head.h"

#include "kernels/check.h"
#include "runtime/workspace_layout.h"

namespace convoke {
namespace {

constexpr char kPrefix[] = "layers.0.";
constexpr char kOwnEmbedding[] = "embed_tokens.weight";

}  // namespace

std::vector<HeadTensor> EagleHead::tensors(const HeadConfig& config, const TensorSource* source) {
  const int64_t hidden = config.layer.hidden;
  std::vector<HeadTensor> list = layer_tensors(config, kPrefix, hidden, source);
  list.push_back({"fc.weight", {hidden, 2 * hidden}});
  if (config.fc_bias) list.push_back({"fc.bias", {hidden}});
  list.push_back({.name = kOwnEmbedding, .shape = {config.vocabulary, hidden}, .optional = true});
  add_vocabulary_tensors(config, list);
  return list;
}

EagleHead::EagleHead(Backend& backend, const HeadConfig& config,
                     std::shared_ptr<const TensorSource> head, const TargetTensors& target,
                     const HeadOptions& options)
    : PagedBranchModel(backend, options.limits), config_(config) {
  const TensorSource& source = *head;
  check_head_tensors(tensors(config, &source), source, config);
  const DType dtype = head_storage(
      head_dtype(options.dtype, source.tensor("fc.weight").dtype, options.float16), options.float8);
  embedding_ = source.contains(kOwnEmbedding)
                   ? ResidentMatrix(backend, source.tensor(kOwnEmbedding), head)
                   : target.resident_embedding(backend);
  fc_ = backend.pack({.parts = {source.tensor("fc.weight")}, .dtype = dtype});
  if (config.fc_bias) fc_bias_ = {backend, to_floats(source.tensor("fc.bias"))};
  layer_ = std::make_unique<HeadLayer>(backend, with_biases(config, source, kPrefix), source,
                                       kPrefix, dtype, options.limits.max_rows, positions());

  DraftVocabulary vocabulary = read_draft_vocabulary(config, source);
  const DType head_weights =
      head_storage(weight_dtype(options.dtype, target.config, options.float16), options.float8);
  if (vocabulary.tokens.empty()) {
    lm_head_ = target.packed_lm_head(backend, head_weights);
  } else {
    const GatheredRows rows(target.lm_head(), vocabulary.tokens);
    lm_head_ = backend.pack({.parts = {rows.view()}, .dtype = head_weights});
  }
  lay_out(lm_head_->outputs());
  set_shape({.shift = 1,
             .feature_width = config.feature_width(),
             .feature_dtype = staged_feature_dtype(fc_->activation_dtype()),
             .layers = 1,
             .heads = layer_->heads(),
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

  backend().copy_rows(
      stream, {.x = embedding_.view(), .y = input.col_range(0, hidden), .from = pass.tokens});
  const TensorView right = input.col_range(hidden, 2 * hidden);
  if (pass.guesses) {
    backend().copy_rows(stream, {.x = states_, .y = right, .from = pass.from});
  } else {
    backend().copy_rows(stream, {.x = pass.features, .y = right});
  }
  backend().matmul(stream, {.x = input, .weights = fc_.get(), .bias = fc_bias_.data(), .y = x});
  backend().convert(stream, x, attended);  // layer 0 has no norm before its attention
  layer_->run(stream, attended, x, pass.batch, cache.layers()[0]);
  backend().copy_rows(stream, {.x = x, .y = states_, .to = pass.keep});
}

TensorView EagleHead::logits(Stream& stream, std::span<const int32_t> rows) {
  const auto count = int64_t(rows.size());
  const TensorView input = final_.row_range(0, count);
  const TensorView out = logits_.row_range(0, count);
  backend().copy_rows(stream, {.x = x_, .y = input, .from = rows});
  backend().matmul(stream, {.x = input, .weights = lm_head_.get(), .y = out});
  return out;
}

}  // namespace convoke
