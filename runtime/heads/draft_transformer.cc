#include "runtime/heads/draft_transformer.h"

#include <algorithm>

#include "kernels/check.h"
#include "runtime/heads/head_tensors.h"
#include "runtime/model_files/json_file.h"
#include "runtime/tokenizer/tokenizer.h"

namespace convoke {
namespace {

namespace fs = std::filesystem;

constexpr char kTokenizer[] = "tokenizer.json";
constexpr size_t kMaxTokenizerBytes = size_t{1} << 30;

/// A draft model's bits are its own: summed in one go.
ShardPlan whole_model(const ModelConfig& config) {
  ShardPlan plan = make_shard_plan(config.extents(), 1, 0);
  plan.groups = plan.local_groups = 1;
  return plan;
}

ModelConfig checked_config(const fs::path& directory, const DraftContext& context) {
  ModelConfig draft = ModelConfig::load(directory);
  check_same_vocabulary(directory, draft, context.model, ModelConfig::load(context.model));
  return draft;
}

std::shared_ptr<const TensorSource> open_source(const fs::path& directory,
                                                const ModelConfig& config,
                                                const std::string& load_format) {
  if (load_format == "dummy") return std::make_shared<DummySource>(config);
  std::shared_ptr<const TensorSource> source = open_checkpoint(directory);
  check_tensors(config, *source);
  return source;
}

}  // namespace

void check_same_vocabulary(const fs::path& draft, const ModelConfig& draft_config,
                           const fs::path& target, const ModelConfig& target_config) {
  if (draft_config.vocabulary != target_config.vocabulary) {
    throw_error(
        ErrorKind::kModel,
        "{}: key 'vocab_size': the draft model has {} tokens, the target {} has {}; a draft "
        "model must have the target's tokenizer",
        (draft / "config.json").string(), draft_config.vocabulary, target.string(),
        target_config.vocabulary);
  }
  const bool draft_has = fs::exists(draft / kTokenizer);
  const bool target_has = fs::exists(target / kTokenizer);
  if (!draft_has && !target_has) return;
  if (draft_has && target_has &&
      read_text_file(draft / kTokenizer, kMaxTokenizerBytes) ==
          read_text_file(target / kTokenizer, kMaxTokenizerBytes)) {
    return;
  }
  const std::unique_ptr<Tokenizer> ours = Tokenizer::load(draft);
  const std::unique_ptr<Tokenizer> theirs = Tokenizer::load(target);
  const int tokens = std::max(ours->vocabulary(), theirs->vocabulary());
  for (int32_t id = 0; id < tokens; ++id) {
    const std::string here = id < ours->vocabulary() ? ours->id_to_token(id) : "";
    const std::string there = id < theirs->vocabulary() ? theirs->id_to_token(id) : "";
    if (here == there) continue;
    throw_error(ErrorKind::kModel,
                "{}: token {} is '{}', in the target {} it is '{}'; a draft model must have the "
                "target's tokenizer",
                (draft / kTokenizer).string(), id, here, target.string(), there);
  }
}

DraftTransformer::DraftTransformer(Backend& backend, const fs::path& directory,
                                   const DraftContext& context, const BranchOptions& options)
    : PagedBranchModel(backend, branch_limits(context, ModelConfig::load(context.model), options)),
      config_(checked_config(directory, context)),
      plan_(whole_model(config_)) {
  const DType dtype =
      head_storage(weight_dtype(context.dtype, config_, context.float16), options.float8);
  weights_ = load_weights(backend, config_, plan_,
                          open_source(directory, config_, context.load_format), dtype, positions());
  communicator_ =
      make_single_communicator({.reduce_capacity = reduce_capacity(config_, limits().max_rows)});
  transformer_ = std::make_unique<Transformer>(backend, *communicator_, config_, plan_, weights_,
                                               limits().max_rows, limits().places);
  set_shape({.shift = 0,
             .feature_width = 0,
             .layers = config_.layers,
             .heads = config_.heads,
             .kv = {config_.kv_heads, config_.head_dim, weights_.lm_head->activation_dtype()},
             .columns = config_.vocabulary,
             .noise = options.shared_noise});
}

void DraftTransformer::forward(Stream& stream, const Pass& pass, const KvCache& cache) {
  transformer_->forward(stream, pass.tokens, pass.batch, cache);
}

TensorView DraftTransformer::logits(Stream& stream, std::span<const int32_t> rows) {
  return transformer_->logits(stream, rows);
}

}  // namespace convoke
