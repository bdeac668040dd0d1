#include "launcher/batch_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "launcher/json_message.h"

namespace convoke {

namespace {

using nlohmann::json;

constexpr int kMaxChoices = 4096;
constexpr int kMaxN = 128;

/// What is wrong with a field, while a line is read; never leaves this file.
struct FieldFault {
  std::string message;
};

template <typename... Args>
[[noreturn]] void fault(fmt::format_string<Args...> format, Args&&... args) {
  throw FieldFault{fmt::format(format, std::forward<Args>(args)...)};
}

int64_t integer(const json& value, std::string_view name, int64_t low, int64_t high) {
  const bool in_range = value.is_number_unsigned()
                            ? high >= 0 && value.get<uint64_t>() <= uint64_t(high) &&
                                  (low <= 0 || value.get<uint64_t>() >= uint64_t(low))
                            : value.is_number_integer() && value.get<int64_t>() >= low &&
                                  value.get<int64_t>() <= high;
  if (!in_range) {
    fault("{}: {} is not a whole number from {} to {}", name, quote_json(value), low, high);
  }
  return value.get<int64_t>();
}

float number(const json& value, std::string_view name) {
  if (!value.is_number()) fault("{}: {} is not a number", name, quote_json(value));
  const auto result = value.get<double>();
  if (!(std::abs(result) <= double(std::numeric_limits<float>::max()))) {
    fault("{}: {} is out of range", name, quote_json(value));
  }
  return float(result);
}

bool boolean(const json& value, std::string_view name) {
  if (!value.is_boolean()) fault("{}: {} is neither true nor false", name, quote_json(value));
  return value.get<bool>();
}

/// The fields of a body. null counts as absent, as it does for OpenAI.
class Body {
 public:
  explicit Body(const json& body) : body_(body) {}

  const json* find(const char* name) const {
    const auto it = body_.find(name);
    return it == body_.end() || it->is_null() ? nullptr : &*it;
  }
  void read(const char* name, int32_t& target, int64_t low, int64_t high) const {
    if (const json* value = find(name)) target = int32_t(integer(*value, name, low, high));
  }
  void read(const char* name, float& target) const {
    if (const json* value = find(name)) target = number(*value, name);
  }
  void read(const char* name, bool& target) const {
    if (const json* value = find(name)) target = boolean(*value, name);
  }

 private:
  const json& body_;
};

constexpr int32_t kMaxInt = std::numeric_limits<int32_t>::max();

std::vector<int32_t> read_tokens(const json& list, std::string_view name) {
  std::vector<int32_t> tokens;
  tokens.reserve(list.size());
  for (const json& token : list) tokens.push_back(int32_t(integer(token, name, 0, kMaxInt)));
  return tokens;
}

BatchPrompt read_prompt(const json& value) {
  if (value.is_string()) {
    if (value.get_ref<const std::string&>().empty()) fault("prompt: is empty");
    return value.get<std::string>();
  }
  if (!value.is_array()) {
    fault("prompt: {} is neither text nor a list of token ids", quote_json(value));
  }
  if (value.empty()) fault("prompt: is empty");
  return read_tokens(value, "prompt");
}

std::vector<BatchPrompt> read_prompts(const Body& body) {
  const json* value = body.find("prompt");
  if (!value) fault("prompt: is missing");
  if (!value->is_array() || value->empty() || value->front().is_number()) {
    return {read_prompt(*value)};
  }
  std::vector<BatchPrompt> prompts;
  for (const json& prompt : *value) prompts.push_back(read_prompt(prompt));
  return prompts;
}

std::vector<std::string> read_stop(const json& value) {
  std::vector<std::string> stop;
  const auto add = [&](const json& text) {
    if (!text.is_string()) fault("stop: {} is neither text nor a list of texts", quote_json(text));
    stop.push_back(text.get<std::string>());
    if (stop.back().empty()) fault("stop: an empty stop string matches nothing");
  };
  if (value.is_array()) {
    for (const json& text : value) add(text);
  } else {
    add(value);
  }
  return stop;
}

std::vector<std::pair<int32_t, float>> read_logit_bias(const json& value) {
  if (!value.is_object()) fault("logit_bias: {} is not an object", quote_json(value));
  std::vector<std::pair<int32_t, float>> bias;
  for (const auto& [key, addend] : value.items()) {
    int32_t token = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (error != std::errc() || end != key.data() + key.size() || token < 0) {
      fault("logit_bias: {} is not a token id", quote_json(json(key)));
    }
    bias.emplace_back(token, number(addend, "logit_bias"));
  }
  sort_logit_bias(bias);
  return bias;
}

void read_sampling(const Body& body, SamplingParams& params) {
  body.read("max_tokens", params.max_tokens, 1, kMaxInt);
  body.read("min_tokens", params.min_tokens, 0, kMaxInt);
  body.read("temperature", params.temperature);
  body.read("top_p", params.top_p);
  body.read("top_k", params.top_k, -1, kMaxInt);
  body.read("min_p", params.min_p);
  body.read("presence_penalty", params.presence_penalty);
  body.read("frequency_penalty", params.frequency_penalty);
  body.read("repetition_penalty", params.repetition_penalty);
  body.read("ignore_eos", params.ignore_eos);
  body.read("logprobs", params.logprobs, 0, kMaxInt);
  if (const json* bias = body.find("logit_bias")) params.logit_bias = read_logit_bias(*bias);
  if (const json* tokens = body.find("stop_token_ids")) {
    if (!tokens->is_array()) fault("stop_token_ids: {} is not a list", quote_json(*tokens));
    params.stop_tokens = read_tokens(*tokens, "stop_token_ids");
  }
}

uint64_t read_seed(const Body& body, const BatchDefaults& defaults, const std::string& custom_id) {
  const json* value = body.find("seed");
  if (!value) return derive_seed(defaults.job_seed, custom_id);
  if (value->is_number_unsigned()) return value->get<uint64_t>();
  if (!value->is_number_integer()) fault("seed: {} is not a whole number", quote_json(*value));
  return uint64_t(value->get<int64_t>());
}

/// Fields that are read, and those that change nothing here and need no warning.
constexpr std::array kKnownFields = {
    "model",      "prompt",     "n",          "best_of",          "echo",
    "suffix",     "stop",       "max_tokens", "min_tokens",       "temperature",
    "top_p",      "top_k",      "min_p",      "presence_penalty", "frequency_penalty",
    "logit_bias", "ignore_eos", "logprobs",   "stop_token_ids",   "repetition_penalty",
    "seed",       "stream",     "user",       "stream_options",   "add_special_tokens"};

void read_body(const json& fields, const BatchDefaults& defaults, BatchRequest& request) {
  const Body body(fields);
  if (const json* model = body.find("model")) {
    if (!model->is_string()) fault("model: {} is not a name", quote_json(*model));
    request.model = model->get<std::string>();
  }
  request.prompts = read_prompts(body);
  body.read("n", request.n, 1, kMaxN);
  int32_t best_of = request.n;
  body.read("best_of", best_of, 1, kMaxN);
  if (best_of != request.n) fault("best_of: other values than n ({}) are not supported", request.n);
  if (request.choices() > kMaxChoices) {
    fault("prompt: {} prompts with n = {} are more than {} choices", request.prompts.size(),
          request.n, kMaxChoices);
  }
  body.read("echo", request.echo);
  body.read("add_special_tokens", request.add_special_tokens);
  if (const json* suffix = body.find("suffix"); suffix && *suffix != "") {
    fault("suffix: is not supported");
  }
  request.stop = defaults.stop;
  if (const json* stop = body.find("stop")) request.stop = read_stop(*stop);
  request.sampling = defaults.sampling;
  read_sampling(body, request.sampling);
  overlay(defaults.overrides, request.sampling, request.stop);
  request.sampling.seed = read_seed(body, defaults, request.custom_id);
  if (request.echo && request.sampling.logprobs >= 0) {
    fault("echo: cannot be combined with logprobs");
  }
  for (const auto& [name, value] : fields.items()) {
    if (std::ranges::find(kKnownFields, name) == kKnownFields.end() && !value.is_null()) {
      request.unknown_fields.push_back(name);
    }
  }
}

void check_url(const json& line) {
  const auto method = line.find("method");
  if (method != line.end() && *method != "POST") {
    fault("method: {} is not \"POST\"", quote_json(*method));
  }
  const auto url = line.find("url");
  if (url == line.end()) fault("url: is missing; it should be \"/v1/completions\"");
  if (*url == "/v1/chat/completions") {
    fault(
        "url: /v1/chat/completions is not served yet, use /v1/completions with the prompt as "
        "text (chat templates come with the HTTP gateway)");
  }
  if (*url != "/v1/completions") fault("url: {} is not \"/v1/completions\"", quote_json(*url));
}

}  // namespace

uint64_t choice_seed(uint64_t line_seed, int index) {
  return index == 0 ? line_seed : derive_seed(line_seed, fmt::format("choice {}", index));
}

std::variant<BatchRequest, LineError> parse_batch_line(std::string_view line,
                                                       const BatchDefaults& defaults) {
  json parsed;
  try {
    parsed = json::parse(line);
  } catch (const json::parse_error& error) {
    return LineError{std::nullopt, "invalid_json", "not JSON: " + parse_message(error)};
  } catch (const json::out_of_range&) {
    return LineError{std::nullopt, "invalid_json", "not JSON: a number is out of range"};
  }
  BatchRequest request;
  bool has_id = false;
  try {
    if (!parsed.is_object()) fault("the line is not an object");
    const auto id = parsed.find("custom_id");
    if (id == parsed.end()) fault("custom_id: is missing");
    if (!id->is_string()) fault("custom_id: {} is not text", quote_json(*id));
    request.custom_id = id->get<std::string>();
    if (request.custom_id.empty()) fault("custom_id: is empty");
    has_id = true;
    check_url(parsed);
    const auto body = parsed.find("body");
    if (body == parsed.end()) fault("body: is missing");
    if (!body->is_object()) fault("body: {} is not an object", quote_json(*body));
    read_body(*body, defaults, request);
  } catch (const FieldFault& error) {
    return LineError{has_id ? std::optional(request.custom_id) : std::nullopt, "invalid_request",
                     error.message};
  } catch (const Error& error) {
    return LineError{request.custom_id, "invalid_request", error.what()};
  }
  return request;
}

}  // namespace convoke
