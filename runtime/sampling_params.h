#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace convoke {

/// The most log-probabilities a request may ask for per token.
inline constexpr int kMaxLogprobs = 20;

/// How a request wants its tokens picked (kernels/pick.h has the order of the processors). Stop
/// strings are text and live with the front end; everything here is about token ids.
struct SamplingParams {
  float temperature = 1.0f;  ///< 0 = greedy
  int32_t top_k = 0;         ///< 0 or -1 = off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;  ///< over prompt and output; > 1 discourages
  float presence_penalty = 0.0f;    ///< subtracted once for a token already in the output
  float frequency_penalty = 0.0f;   ///< subtracted per occurrence in the output
  std::vector<std::pair<int32_t, float>> logit_bias;  ///< sorted by token
  uint64_t seed = 0;
  int32_t max_tokens = 16;
  int32_t min_tokens = 0;  ///< until then, no stop token can be picked
  bool ignore_eos = false;
  std::vector<int32_t> stop_tokens;  ///< with the model's end tokens unless ignore_eos
  int32_t logprobs = -1;             ///< -1 none; n >= 0: of each token and of the n most likely
  bool digests = false;  ///< return Pick::digest of each token's row (for audits, tests)

  bool has_penalties() const {
    return repetition_penalty != 1.0f || presence_penalty != 0.0f || frequency_penalty != 0.0f;
  }
  bool operator==(const SamplingParams&) const = default;
};

/// Throws Error(kUsage) naming the field and its allowed range.
void validate(const SamplingParams& params, int vocabulary);

/// The seed of a request that names none: from the job's seed and the request's own id, so that it
/// depends neither on order nor on time.
uint64_t derive_seed(uint64_t job_seed, std::string_view custom_id);

}  // namespace convoke
