#include "runtime/sampling_params.h"

#include <cmath>

#include "kernels/check.h"

namespace convoke {
namespace {

void require(bool ok, const char* field, double value, const char* range) {
  if (!ok) throw_error(ErrorKind::kUsage, "{} is {}; it must be {}", field, value, range);
}

void require_token(const char* field, int32_t token, int vocabulary) {
  if (token >= 0 && token < vocabulary) return;
  throw_error(ErrorKind::kUsage, "{} names token {}; the vocabulary has {} (ids 0 to {})", field,
              token, vocabulary, vocabulary - 1);
}

}  // namespace

void validate(const SamplingParams& p, int vocabulary) {
  // Comparisons are written so that NaN fails them.
  // A temperature near the smallest float would lift several logits to infinity, where they tie.
  require(p.temperature == 0 || (p.temperature >= 1e-5f && p.temperature <= 100), "temperature",
          p.temperature, "0 (greedy), or from 0.00001 to 100");
  require(p.top_k >= -1, "top_k", p.top_k, "-1 or 0 (off), or at least 1");
  require(p.top_p > 0 && p.top_p <= 1, "top_p", p.top_p, "above 0 and at most 1 (off)");
  require(p.min_p >= 0 && p.min_p <= 1, "min_p", p.min_p, "from 0 (off) to 1");
  require(p.repetition_penalty > 0 && p.repetition_penalty <= 100, "repetition_penalty",
          p.repetition_penalty, "above 0 and at most 100 (1 is off)");
  require(std::abs(p.presence_penalty) <= 100, "presence_penalty", p.presence_penalty,
          "from -100 to 100");
  require(std::abs(p.frequency_penalty) <= 100, "frequency_penalty", p.frequency_penalty,
          "from -100 to 100");
  require(p.max_tokens >= 1, "max_tokens", p.max_tokens, "at least 1");
  require(p.min_tokens >= 0 && p.min_tokens <= p.max_tokens, "min_tokens", p.min_tokens,
          "from 0 to max_tokens");
  require(p.logprobs >= -1 && p.logprobs <= kMaxLogprobs, "logprobs", p.logprobs, "from 0 to 20");
  int32_t previous = -1;
  for (const auto& [token, bias] : p.logit_bias) {
    require_token("logit_bias", token, vocabulary);
    require(std::abs(bias) <= 100, "logit_bias", bias, "from -100 to 100");
    if (token <= previous) {
      throw_error(ErrorKind::kUsage, "logit_bias names token {} twice or out of order", token);
    }
    previous = token;
  }
  for (int32_t token : p.stop_tokens) require_token("stop_token_ids", token, vocabulary);
}

uint64_t derive_seed(uint64_t job_seed, std::string_view custom_id) {
  // FNV-1a over the id, started from the job's seed, then the finaliser of splitmix64 (Steele, Lea
  // and Flood, OOPSLA 2014) so that near ids give far seeds.
  uint64_t h = 0xcbf29ce484222325ULL ^ (job_seed * 0x9e3779b97f4a7c15ULL);
  for (const char c : custom_id) h = (h ^ uint64_t(uint8_t(c))) * 0x100000001b3ULL;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ULL;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebULL;
  return h ^ (h >> 31);
}

}  // namespace convoke
