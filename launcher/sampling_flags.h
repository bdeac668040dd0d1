// Sampling settings as given on the command line: each one may be left out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/sampling_params.h"

namespace convoke {

struct SamplingFlags {
  std::optional<float> temperature, top_p, min_p;
  std::optional<float> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int32_t> top_k, max_tokens, min_tokens, logprobs;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_tokens;
  bool ignore_eos = false;
  std::vector<std::pair<int32_t, float>> logit_bias;  ///< in any order
};

/// What the command line says goes over `params`; stop strings replace `stop`.
void overlay(const SamplingFlags& flags, SamplingParams& params, std::vector<std::string>& stop);

/// OpenAI's defaults (temperature 1, 16 tokens) with those of the model's generation_config.json
/// over them, unless `use_generation_config` is false or the file is not there.
SamplingParams default_sampling(const std::filesystem::path& model, bool use_generation_config);

/// Sorts by token. Throws Error(kUsage) if one appears twice.
void sort_logit_bias(std::vector<std::pair<int32_t, float>>& bias);

}  // namespace convoke
