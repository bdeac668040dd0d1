#include "training/make_objective.h"

#include <torch/types.h>

#include "kernels/check.h"
#include "training/extrapolator.h"
#include "training/medusa_objective.h"
#include "training/pass_objective.h"

namespace convoke::training {
namespace {

constexpr int kEagle3Vocabulary = 32000;

ExtrapolatorOptions extrapolator_options(const TrainOptions& options) {
  const bool first = options.method == Method::kEagle;
  return {.unroll = options.unroll.value_or(first ? 1 : 7),
          .depth_decay = options.depth_decay.value_or(first ? 1.0 : 0.8),
          .token_weight = options.token_weight.value_or(first ? 0.1 : 1.0),
          .feature_weight = options.feature_weight.value_or(first ? 1.0 : 0.0),
          .feature_noise = options.feature_noise.value_or(first ? 0.2 : 0.0)};
}

/// Token ids of the draft vocabulary; empty: all.
std::vector<int64_t> draft_columns(const TrainOptions& options, int vocabulary,
                                   const TokenCorpus& train) {
  int count = options.draft_vocabulary;
  if (count == 0 && options.method == Method::kEagle3) count = kEagle3Vocabulary;
  if (count == 0 || count >= vocabulary) return {};
  std::vector<int64_t> occurrences(size_t(vocabulary), 0);
  for (const int32_t token : train.tokens) ++occurrences[size_t(token)];
  return most_frequent(occurrences, count);
}

/// [1, rows] int64: the first sequence.
torch::Tensor first_sequence(const TokenCorpus& corpus) {
  const auto tokens = corpus.sequence(0);
  return torch::tensor(std::vector<int64_t>(tokens.begin(), tokens.end()), torch::kInt64)
      .unsqueeze(0);
}

}  // namespace

void check_method_flags(const TrainOptions& options, const ModelConfig& target) {
  if (options.feature_layers.empty()) return;
  if (options.method != Method::kEagle3) {
    throw_error(ErrorKind::kUsage, "--feature-layers: is for eagle3, not {}",
                method_name(options.method));
  }
  if (!std::ranges::is_sorted(options.feature_layers) ||
      options.feature_layers.back() > target.layers) {
    throw_error(ErrorKind::kUsage,
                "--feature-layers: must ascend and end at {} at most, the target's layers",
                target.layers);
  }
}

std::unique_ptr<Objective> make_objective(const TrainOptions& options, const TargetModel& target,
                                          const TokenCorpus& train) {
  const ModelConfig& config = target.config();
  const bool hard_labels = options.labels == "text";
  switch (options.method) {
    case Method::kMedusa:
      return std::make_unique<MedusaObjective>(
          target, MedusaOptions{.heads = options.medusa_heads,
                                .layers = options.medusa_layers,
                                .depth_decay = options.depth_decay.value_or(0.8),
                                .hard_labels = hard_labels});
    case Method::kPass:
      return std::make_unique<PassObjective>(
          target,
          PassObjectiveOptions{.lookahead = options.lookahead_tokens,
                               .prefixes = options.prefixes,
                               .depth_decay = options.depth_decay.value_or(0.8),
                               .hard_labels = hard_labels},
          options.seed);
    case Method::kEagle:
    case Method::kEagle3:
      break;
  }
  const std::vector<int64_t> columns = draft_columns(options, config.vocabulary, train);
  const int count = int(columns.size());
  if (options.method == Method::kEagle) {
    return std::make_unique<EagleObjective>(
        target, EagleObjective::make_config(config, options.intermediate, count), columns,
        extrapolator_options(options), options.seed);
  }
  return std::make_unique<Eagle3Objective>(
      target,
      Eagle3Objective::make_config(config, options.intermediate, count, options.feature_layers),
      columns, extrapolator_options(options), options.seed,
      first_sequence(train).to(target.products().device));
}

}  // namespace convoke::training
