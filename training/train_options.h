// Everything `convoke train` can be told.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "training/data/corpus.h"

namespace convoke::training {

enum class Method { kEagle, kEagle3, kPass, kMedusa };

/// "eagle", "eagle3", "pass", "medusa".
const char* method_name(Method method);

struct TrainOptions {
  Method method = Method::kEagle;
  std::filesystem::path model, out;
  std::filesystem::path init;  ///< a drafter to begin from; empty: anew
  bool resume = false;

  // Data.
  std::vector<std::filesystem::path> data;
  int sequence_length = 0;  ///< 0 = 512, or the model's context if that is shorter
  double held_out_share = 0.02;
  int64_t max_data_tokens = 0;
  bool regenerate = false;
  int64_t regenerate_sequences = 0;  ///< 0 = one for every sequence of the data
  int regenerate_prompt_tokens = 64;
  std::vector<float> regenerate_temperatures = {0.0f, 1.0f};

  // Recipe; what is unset comes from the method.
  int64_t steps = 0;  ///< 0 = as many as `epochs` takes
  double epochs = 1.0;
  int batch_size = 8;   ///< sequences of a step
  int micro_batch = 0;  ///< sequences of a pass; 0 = the whole batch
  double learning_rate = 1e-3;
  int64_t warmup = 100;
  std::string optimizer = "adamw";  ///< adamw | muon
  double weight_decay = 0.0;
  double clip = 0.5;
  std::optional<int> unroll;
  std::optional<double> depth_decay, token_weight, feature_weight, feature_noise;
  std::string labels = "target";  ///< target | text
  int draft_vocabulary = 0;       ///< 0 = all, for EAGLE-3 at most 32000
  int intermediate = 0;           ///< 0 = the target's
  std::vector<int> feature_layers;
  int medusa_heads = 5, medusa_layers = 1;
  int lookahead_tokens = 8, prefixes = 16;
  std::string head_dtype = "bfloat16";  ///< of the file: bfloat16 | float32
  uint64_t seed = 0;

  // Progress.
  int64_t eval_every = 200;
  int eval_sequences = 64;
  int patience = 0;  ///< evaluations without gain that end training; 0 = never
  int64_t checkpoint_every = 200;
  bool measure = true;  ///< the speed-up, in the runtime, at the end
  bool quiet = false, json = false, verbose = false;

  // Where.
  std::string device = "auto";     ///< auto | cpu | cuda | cuda:N
  std::string precision = "auto";  ///< auto | float32 | bfloat16
  int threads = 0;                 ///< 0 = all cores

  std::string command;  ///< as it was typed, for the record
};

/// What decides the trained weights, by the names of the flags: a resumed run must agree.
nlohmann::ordered_json recipe_json(const TrainOptions& options);

}  // namespace convoke::training
