#include "launcher/sampling_flags.h"

#include <algorithm>

#include "kernels/check.h"
#include "runtime/model_config.h"

namespace convoke {

namespace {

template <typename T>
void set(T& target, const std::optional<T>& value) {
  if (value) target = *value;
}

}  // namespace

void overlay(const SamplingFlags& flags, SamplingParams& params, std::vector<std::string>& stop) {
  set(params.temperature, flags.temperature);
  set(params.top_p, flags.top_p);
  set(params.min_p, flags.min_p);
  set(params.repetition_penalty, flags.repetition_penalty);
  set(params.presence_penalty, flags.presence_penalty);
  set(params.frequency_penalty, flags.frequency_penalty);
  set(params.top_k, flags.top_k);
  set(params.max_tokens, flags.max_tokens);
  set(params.min_tokens, flags.min_tokens);
  set(params.logprobs, flags.logprobs);
  if (!flags.stop.empty()) stop = flags.stop;
  if (!flags.stop_tokens.empty()) params.stop_tokens = flags.stop_tokens;
  if (flags.ignore_eos) params.ignore_eos = true;
  if (!flags.logit_bias.empty()) {
    params.logit_bias = flags.logit_bias;
    sort_logit_bias(params.logit_bias);
  }
}

SamplingParams default_sampling(const std::filesystem::path& model, bool use_generation_config) {
  SamplingParams params;
  std::error_code ignored;
  if (!use_generation_config ||
      !std::filesystem::exists(model / "generation_config.json", ignored)) {
    return params;
  }
  const GenerationDefaults defaults = GenerationDefaults::load(model);
  set(params.temperature, defaults.temperature);
  set(params.top_p, defaults.top_p);
  set(params.min_p, defaults.min_p);
  set(params.repetition_penalty, defaults.repetition_penalty);
  if (defaults.top_k) params.top_k = *defaults.top_k;
  return params;
}

void sort_logit_bias(std::vector<std::pair<int32_t, float>>& bias) {
  std::ranges::sort(bias, {}, &std::pair<int32_t, float>::first);
  const auto twice = std::ranges::adjacent_find(bias, {}, &std::pair<int32_t, float>::first);
  if (twice != bias.end()) {
    throw_error(ErrorKind::kUsage, "logit_bias: token {} is given twice", twice->first);
  }
}

}  // namespace convoke
