// Small targets and texts for the trainer's tests.
#pragma once

#include <torch/types.h>
#include <torch/utils.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "training/data/corpus.h"
#include "training/extrapolator.h"
#include "training/medusa_objective.h"
#include "training/pass_objective.h"
#include "training/target_model.h"

namespace convoke::training::testing {

inline const std::filesystem::path kModels = CONVOKE_SOURCE_DIR "/tests/golden/models";

inline TargetModel tiny_target(const std::string& name = "llama-gqa-bf16",
                               torch::Dtype dtype = torch::kFloat32) {
  return TargetModel::load(kModels / name, {torch::kCPU, dtype});
}

/// Token ids that look random: [count] sequences of `length`.
inline TokenCorpus tiny_corpus(int count, int length, int vocabulary, uint32_t seed = 7) {
  TokenCorpus corpus;
  for (int s = 0; s < count; ++s) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < length; ++i) {
      seed = seed * 1664525u + 1013904223u;
      tokens.push_back(int32_t((seed >> 8) % uint32_t(vocabulary)));
    }
    corpus.add(tokens);
  }
  return corpus;
}

inline Batch batch_of(const TokenCorpus& corpus) {
  std::vector<torch::Tensor> rows;
  std::vector<int64_t> lengths;
  int64_t longest = 0;
  for (int64_t i = 0; i < corpus.size(); ++i) {
    longest = std::max(longest, int64_t(corpus.sequence(i).size()));
  }
  for (int64_t i = 0; i < corpus.size(); ++i) {
    const auto sequence = corpus.sequence(i);
    torch::Tensor row = torch::zeros({longest}, torch::kInt64);
    for (size_t t = 0; t < sequence.size(); ++t) row[int64_t(t)] = int64_t(sequence[t]);
    rows.push_back(row);
    lengths.push_back(int64_t(sequence.size()));
  }
  return {torch::stack(rows), torch::tensor(lengths, torch::kInt64)};
}

/// What --drafter names: "eagle", "eagle3", "medusa", "pass", with small settings.
inline std::unique_ptr<Objective> tiny_objective(const std::string& method,
                                                 const TargetModel& target, int unroll = 3,
                                                 int draft_vocabulary = 0) {
  const ModelConfig& config = target.config();
  std::vector<int64_t> columns;
  for (int i = 0; i < draft_vocabulary; ++i) columns.push_back(2 * i + 1);
  ExtrapolatorOptions options{.unroll = unroll, .depth_decay = 0.9, .feature_noise = 0};
  if (method == "eagle") {
    options.token_weight = 1.0;
    options.feature_weight = 0.5;
    return std::make_unique<EagleObjective>(
        target, EagleObjective::make_config(config, 40, draft_vocabulary), columns, options, 3);
  }
  if (method == "eagle3") {
    options.token_weight = 1.0;
    return std::make_unique<Eagle3Objective>(
        target, Eagle3Objective::make_config(config, 40, draft_vocabulary, {0, 1, config.layers}),
        columns, options, 3);
  }
  if (method == "medusa") {
    return std::make_unique<MedusaObjective>(target, MedusaOptions{.heads = 3, .layers = 2});
  }
  return std::make_unique<PassObjective>(target,
                                         PassObjectiveOptions{.lookahead = 3, .prefixes = 4}, 3);
}

/// Moves every parameter by chance, so that nothing is zero or one by the way it begins.
inline void stir(Objective& objective, double deviation = 0.1) {
  const torch::NoGradGuard no_gradients;
  torch::Generator generator = seeded_generator(99, torch::kCPU);
  for (Parameter& parameter : objective.parameters()) {
    parameter.value.add_(torch::randn(parameter.value.sizes(), generator) * deviation);
  }
}

}  // namespace convoke::training::testing
