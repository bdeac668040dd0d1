#include "training/train_options.h"

namespace convoke::training {
namespace {

template <typename T>
nlohmann::ordered_json or_null(const std::optional<T>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

}  // namespace

const char* method_name(Method method) {
  switch (method) {
    case Method::kEagle:
      return "eagle";
    case Method::kEagle3:
      return "eagle3";
    case Method::kPass:
      return "pass";
    case Method::kMedusa:
      return "medusa";
  }
  return "";
}

nlohmann::ordered_json recipe_json(const TrainOptions& options) {
  nlohmann::ordered_json recipe = {
      {"method", method_name(options.method)},
      {"init", options.init.string()},
      {"sequence-length", options.sequence_length},
      {"held-out", options.held_out_share},
      {"max-data-tokens", options.max_data_tokens},
      {"regenerate", options.regenerate},
      {"steps", options.steps},
      {"epochs", options.epochs},
      {"batch-size", options.batch_size},
      {"micro-batch", options.micro_batch},
      {"learning-rate", options.learning_rate},
      {"warmup", options.warmup},
      {"optimizer", options.optimizer},
      {"weight-decay", options.weight_decay},
      {"clip", options.clip},
      {"labels", options.labels},
      {"seed", options.seed},
      {"eval-every", options.eval_every},
      {"eval-sequences", options.eval_sequences},
      {"patience", options.patience},
  };
  if (options.regenerate) {
    recipe["regenerate-sequences"] = options.regenerate_sequences;
    recipe["regenerate-prompt-tokens"] = options.regenerate_prompt_tokens;
    recipe["regenerate-temperatures"] = options.regenerate_temperatures;
  }
  recipe["depth-decay"] = or_null(options.depth_decay);
  switch (options.method) {
    case Method::kEagle:
    case Method::kEagle3:
      recipe["unroll"] = or_null(options.unroll);
      recipe["token-weight"] = or_null(options.token_weight);
      recipe["feature-weight"] = or_null(options.feature_weight);
      recipe["feature-noise"] = or_null(options.feature_noise);
      recipe["draft-vocabulary"] = options.draft_vocabulary;
      recipe["intermediate-size"] = options.intermediate;
      recipe["feature-layers"] = options.feature_layers;
      break;
    case Method::kMedusa:
      recipe["medusa-heads"] = options.medusa_heads;
      recipe["medusa-layers"] = options.medusa_layers;
      break;
    case Method::kPass:
      recipe["lookahead-tokens"] = options.lookahead_tokens;
      recipe["prefixes"] = options.prefixes;
      break;
  }
  return recipe;
}

}  // namespace convoke::training
