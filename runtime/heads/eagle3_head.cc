#include "runtime/heads/eagle3_head.h"

#include "kernels/check.h"
#include "runtime/workspace_layout.h"

namespace convoke {
namespace {

constexpr char kOwnEmbedding[] = "embed_tokens.weight";

/// The layer is called `midlayer` by its authors, `layers.0` by others.
std::string prefix_of(const TensorSource* source) {
  return source != nullptr && source->contains("layers.0.hidden_norm.weight") ? "layers.0."
                                                                              : "midlayer.";
}

}  // namespace

std::vector<HeadTensor> Eagle3Head::tensors(const HeadConfig& config, const TensorSource* source) {
  const int64_t hidden = config.layer.hidden;
  const std::string prefix = prefix_of(source);
  std::vector<HeadTensor> list = layer_tensors(config, prefix, 2 * hidden, source);
  list.push_back({prefix + "input_layernorm.weight", {hidden}});
  list.push_back({prefix + "hidden_norm.weight", {hidden}});
  list.push_back({"fc.weight", {hidden, config.feature_width()}});
  list.push_back({"norm.weight", {hidden}});
  list.push_back({"lm_head.weight", {config.draft_vocabulary, hidden}});
  // Where the head is as wide as the target it can do with the target's.
  list.push_back({.name = kOwnEmbedding,
                  .shape = {config.vocabulary, hidden},
                  .optional = hidden == config.target_hidden});
  add_vocabulary_tensors(config, list);
  return list;
}

Eagle3Head::Eagle3Head(Backend& backend, const HeadConfig& config,
                       std::shared_ptr<const TensorSource> head, const TargetTensors& target,
                       const HeadOptions& options)
    : PagedBranchModel(backend, options.limits), config_(config) {
  const TensorSource& source = *head;
  check_head_tensors(tensors(config, &source), source, config);
  const DType dtype = head_storage(
      head_dtype(options.dtype, source.tensor("fc.weight").dtype, options.float16), options.float8);
  const std::string prefix = prefix_of(&source);
  embedding_ = source.contains(kOwnEmbedding)
                   ? ResidentMatrix(backend, source.tensor(kOwnEmbedding), head)
                   : target.resident_embedding(backend);
  fc_ = backend.pack({.parts = {source.tensor("fc.weight")}, .dtype = dtype});
  input_norm_ = {backend, to_floats(source.tensor(prefix + "input_layernorm.weight"))};
  hidden_norm_ = {backend, to_floats(source.tensor(prefix + "hidden_norm.weight"))};
  final_norm_ = {backend, to_floats(source.tensor("norm.weight"))};
  layer_ = std::make_unique<HeadLayer>(backend, with_biases(config, source, prefix), source, prefix,
                                       dtype, options.limits.max_rows, positions());
  DraftVocabulary vocabulary = read_draft_vocabulary(config, source);
  load_lm_head(source.tensor("lm_head.weight"), vocabulary.rows, dtype);
  lay_out();
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

void Eagle3Head::load_lm_head(const TensorView& weights, const std::vector<int32_t>& rows,
                              DType dtype) {
  if (std::ranges::is_sorted(rows)) {
    lm_head_ = backend().pack({.parts = {weights}, .dtype = dtype});
  } else {
    const GatheredRows sorted(weights, rows);
    lm_head_ = backend().pack({.parts = {sorted.view()}, .dtype = dtype});
  }
}

void Eagle3Head::lay_out() {
  const int64_t hidden = config_.layer.hidden;
  const int rows = limits().max_rows;
  const auto place = [&](WorkspaceLayout layout) {
    features_ = layout.matrix(fc_->activation_dtype(), rows, config_.feature_width());
    embedded_ = layout.matrix(DType::kFloat32, rows, hidden);
    input_ = layout.matrix(layer_->activation_dtype(), rows, 2 * hidden);
    x_ = layout.dense(DType::kFloat32, rows, hidden);
    final_ = layout.matrix(lm_head_->activation_dtype(), logit_rows(), hidden);
    logits_ = layout.matrix(DType::kFloat32, logit_rows(), lm_head_->outputs());
    states_ = layout.matrix(DType::kFloat32, states(), hidden);
    return layout.used();
  };
  memory_ = backend().allocate(place(WorkspaceLayout(nullptr)));
  place(WorkspaceLayout(memory_->data()));
}

// x = g
void Eagle3Head::fuse(Stream& stream, const Pass& pass, const TensorView& x) {
  if (pass.guesses) {
    return backend().copy_rows(stream, {.x = states_, .y = x, .from = pass.from});
  }
  TensorView features = pass.features;
  if (features.dtype != features_.dtype) {
    features = features_.row_range(0, pass.batch.rows);
    backend().copy_rows(stream, {.x = pass.features, .y = features});
  }
  backend().matmul(stream, {.x = features, .weights = fc_.get(), .y = x});
}

void Eagle3Head::forward(Stream& stream, const Pass& pass, const KvCache& cache) {
  const int rows = pass.batch.rows;
  const int64_t hidden = config_.layer.hidden;
  const float epsilon = config_.layer.rms_epsilon;
  const TensorView embedded = embedded_.row_range(0, rows);
  const TensorView input = input_.row_range(0, rows);
  const TensorView x = x_.row_range(0, rows);

  fuse(stream, pass, x);
  backend().embed(stream, {.tokens = pass.tokens, .table = embedding_.view(), .x = embedded});
  backend().rms_norm(stream, {.x = embedded,
                              .weight = input_norm_.data(),
                              .epsilon = epsilon,
                              .y = input.col_range(0, hidden)});
  backend().rms_norm(stream, {.x = x,
                              .weight = hidden_norm_.data(),
                              .epsilon = epsilon,
                              .y = input.col_range(hidden, 2 * hidden)});
  if (config_.norm_before_residual) {
    backend().rms_norm(stream, {.x = x, .weight = hidden_norm_.data(), .epsilon = epsilon, .y = x});
  }
  layer_->run(stream, input, x, pass.batch, cache.layers()[0]);
  backend().copy_rows(stream, {.x = x, .y = states_, .to = pass.keep});
}

TensorView Eagle3Head::logits(Stream& stream, std::span<const int32_t> rows) {
  const auto count = int64_t(rows.size());
  const TensorView input = final_.row_range(0, count);
  const TensorView out = logits_.row_range(0, count);
  backend().rms_norm(stream, {.x = x_,
                              .weight = final_norm_.data(),
                              .epsilon = config_.layer.rms_epsilon,
                              .y = input,
                              .gather = rows});
  backend().matmul(stream, {.x = input, .weights = lm_head_.get(), .y = out});
  return out;
}

}  // namespace convoke
