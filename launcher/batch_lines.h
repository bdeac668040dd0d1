// One line of an OpenAI batch file, checked. Pure: neither tokenizer nor engine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "launcher/sampling_flags.h"
#include "runtime/sampling_params.h"

namespace convoke {

/// Text, or tokens as they are.
using BatchPrompt = std::variant<std::string, std::vector<int32_t>>;

struct BatchRequest {
  std::string custom_id;
  std::string model;                 ///< as the body names it; "" if it does not
  std::vector<BatchPrompt> prompts;  ///< at least one
  int n = 1;                         ///< choices per prompt
  bool echo = false;
  bool add_special_tokens = true;
  std::vector<std::string> stop;
  SamplingParams sampling;  ///< seed included
  std::vector<std::string> unknown_fields;

  int choices() const { return int(prompts.size()) * n; }
};

/// Why a line cannot be run. It becomes an error line of the output.
struct LineError {
  std::optional<std::string> custom_id;  ///< if the line has one
  std::string code;                      ///< "invalid_json", "invalid_request", ...
  std::string message;
};

/// What a body leaves out, and what goes over it.
struct BatchDefaults {
  SamplingParams sampling;
  std::vector<std::string> stop;
  SamplingFlags overrides;
  uint64_t job_seed = 0;
};

/// A body's `seed`, or else derive_seed(job seed, custom_id), becomes sampling.seed. Sampling
/// parameters are checked for type here and for range by validate(), which knows the vocabulary.
std::variant<BatchRequest, LineError> parse_batch_line(std::string_view line,
                                                       const BatchDefaults& defaults);

/// The seed of choice `index` (over all prompts of the line): the line's own for the first.
uint64_t choice_seed(uint64_t line_seed, int index);

}  // namespace convoke
