#include "launcher/flag_values.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "kernels/check.h"
#include "launcher/sampling_flags.h"

namespace convoke {

namespace {

std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.push_back(trim(text.substr(0, end)));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

template <typename T>
bool read(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

std::string range_text(double low, double high, bool open_low) {
  return open_low ? fmt::format("above {:g}, at most {:g}", low, high)
                  : fmt::format("from {:g} to {:g}", low, high);
}

}  // namespace

int64_t parse_int(std::string_view flag, std::string_view text, int64_t low, int64_t high) {
  int64_t value = 0;
  if (!read(text, value) || value < low || value > high) {
    throw_error(ErrorKind::kUsage, "{}: '{}' is not a whole number from {} to {}", flag, text, low,
                high);
  }
  return value;
}

uint64_t parse_uint64(std::string_view flag, std::string_view text) {
  uint64_t value = 0;
  if (!read(text, value)) {
    throw_error(ErrorKind::kUsage, "{}: '{}' is not a whole number from 0 to 2^64 - 1", flag, text);
  }
  return value;
}

double parse_number(std::string_view flag, std::string_view text, double low, double high,
                    bool open_low) {
  double value = 0;
  if (!read(text, value) || !std::isfinite(value) || value < low || value > high ||
      (open_low && value == low)) {
    throw_error(ErrorKind::kUsage, "{}: '{}' is not a number {}", flag, text,
                range_text(low, high, open_low));
  }
  return value;
}

bool parse_bool(std::string_view flag, std::string_view text) {
  if (text == "true") return true;
  if (text == "false") return false;
  throw_error(ErrorKind::kUsage, "{}: '{}' is neither true nor false", flag, text);
}

std::string parse_choice(std::string_view flag, std::string_view text,
                         const std::vector<const char*>& choices) {
  for (const char* choice : choices) {
    if (text == choice) return choice;
  }
  throw_error(ErrorKind::kUsage, "{}: '{}' is not one of {}", flag, text, fmt::join(choices, ", "));
}

std::vector<int> parse_int_list(std::string_view flag, std::string_view text, int low, int high) {
  std::vector<int> values;
  for (const std::string_view part : split(text, ',')) {
    values.push_back(int(parse_int(flag, part, low, high)));
  }
  return values;
}

std::vector<std::pair<int32_t, float>> parse_logit_bias(std::string_view flag,
                                                        std::string_view text) {
  constexpr int64_t kMaxToken = 0x7fffffff;
  constexpr double kMaxBias = 100;
  std::vector<std::pair<int32_t, float>> bias;
  if (trim(text).starts_with('{')) {
    const auto object = nlohmann::json::parse(text, nullptr, false);
    if (!object.is_object()) {
      throw_error(ErrorKind::kUsage, "{}: '{}' is not a JSON object", flag, text);
    }
    for (const auto& [token, addend] : object.items()) {
      bias.emplace_back(int32_t(parse_int(flag, token, 0, kMaxToken)),
                        float(parse_number(flag, addend.dump(), -kMaxBias, kMaxBias)));
    }
  } else {
    for (const std::string_view part : split(text, ',')) {
      const size_t equals = part.find('=');
      if (equals == std::string_view::npos) {
        throw_error(ErrorKind::kUsage, "{}: '{}' is not TOKEN=BIAS", flag, part);
      }
      bias.emplace_back(
          int32_t(parse_int(flag, trim(part.substr(0, equals)), 0, kMaxToken)),
          float(parse_number(flag, trim(part.substr(equals + 1)), -kMaxBias, kMaxBias)));
    }
  }
  sort_logit_bias(bias);
  return bias;
}

DrafterSpec parse_speculative_config(std::string_view text, std::vector<std::string>& ignored) {
  constexpr std::string_view kFlag = "--speculative-config";
  constexpr std::array kMeaningless = {
      "draft_tensor_parallel_size", "prompt_lookup_max", "prompt_lookup_min",
      "disable_by_batch_size",      "max_model_len",     "quantization"};
  const auto config = nlohmann::json::parse(text, nullptr, false);
  if (!config.is_object()) {
    throw_error(ErrorKind::kUsage, "{}: '{}' is not a JSON object", kFlag, text);
  }
  std::string method, model;
  DraftLimits limits;
  for (const auto& [key, value] : config.items()) {
    const std::string name = fmt::format("{}: {}", kFlag, key);
    if (key == "method" || key == "model") {
      if (!value.is_string()) throw_error(ErrorKind::kUsage, "{}: is not text", name);
      (key == "method" ? method : model) = value.get<std::string>();
    } else if (key == "num_speculative_tokens") {
      limits.max_nodes = int(parse_int(name, value.dump(), 0, 256));
    } else if (key == "draft_depth") {
      limits.max_depth = int(parse_int(name, value.dump(), 1, 64));
    } else if (std::ranges::find(kMeaningless, key) != kMeaningless.end()) {
      ignored.push_back(key);
    } else {
      throw_error(ErrorKind::kUsage,
                  "{}: key '{}' is not one of method, model, num_speculative_tokens, draft_depth",
                  kFlag, key);
    }
  }
  if (method.empty()) throw_error(ErrorKind::kUsage, "{}: has no \"method\"", kFlag);
  std::ranges::replace(method, '_', '-');
  DrafterSpec spec = DrafterSpec::parse(model.empty() ? method : method + ":" + model);
  spec.limits = limits;
  return spec;
}

std::string closest(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    std::vector<size_t> row(candidate.size() + 1);
    std::iota(row.begin(), row.end(), size_t(0));
    for (size_t i = 0; i < word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i + 1;
      for (size_t j = 0; j < candidate.size(); ++j) {
        const size_t replaced = diagonal + (word[i] == candidate[j] ? 0 : 1);
        diagonal = row[j + 1];
        row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = candidate;
    }
  }
  return best;
}

}  // namespace convoke
