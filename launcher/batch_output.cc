#include "launcher/batch_output.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

namespace convoke {

namespace {

using nlohmann::ordered_json;

constexpr std::string_view kIdPrefix = "batch_req_";

/// The shortest decimal that reads back as the same float; OpenAI writes -9999 for "impossible".
double json_float(float value) {
  if (!std::isfinite(value)) return -9999.0;
  return std::strtod(fmt::format("{}", value).c_str(), nullptr);
}

ordered_json logprobs_json(const FinishedChoice& choice) {
  ordered_json tokens = ordered_json::array(), values = ordered_json::array();
  ordered_json tops = ordered_json::array(), offsets = ordered_json::array();
  const std::string& text = choice.text->text();
  size_t bytes = 0;
  size_t characters = count_characters(choice.echo);
  for (const TokenLogprobs& entry : choice.text->logprobs()) {
    characters += count_characters(std::string_view(text).substr(bytes, entry.offset - bytes));
    bytes = entry.offset;
    tokens.push_back(entry.token);
    values.push_back(json_float(entry.logprob));
    offsets.push_back(characters);
    ordered_json top = ordered_json::object();
    top[entry.token] = json_float(entry.logprob);
    for (const auto& [name, logprob] : entry.top) top.emplace(name, json_float(logprob));
    tops.push_back(std::move(top));
  }
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", std::move(values)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

std::string dump(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace

std::string hash_name(std::initializer_list<std::string_view> parts) {
  using Wide = unsigned __int128;
  const Wide prime = (Wide(1) << 88) + 0x13b;
  Wide hash = (Wide(0x6c62272e07bb0142) << 64) + 0x62b821756295c58d;
  const auto mix = [&](std::string_view bytes) {
    for (const char c : bytes) hash = (hash ^ uint8_t(c)) * prime;
  };
  for (const std::string_view part : parts) {
    mix(fmt::format("{}:", part.size()));
    mix(part);
  }
  return fmt::format("{:016x}{:016x}", uint64_t(hash >> 64), uint64_t(hash));
}

std::string malformed_key(std::string_view content) {
  return hash_name({"malformed", content});
}

std::string result_line(const BatchRequest& request, std::string_view model, uint64_t job_seed,
                        std::span<const FinishedChoice> choices, int64_t prompt_tokens) {
  ordered_json list = ordered_json::array();
  int64_t completion_tokens = 0;
  for (size_t i = 0; i < choices.size(); ++i) {
    const TextAssembler& text = *choices[i].text;
    completion_tokens += int64_t(text.tokens().size());
    list.push_back(
        {{"index", i},
         {"text", std::string(choices[i].echo) + text.text()},
         {"logprobs", request.sampling.logprobs >= 0 ? logprobs_json(choices[i]) : nullptr},
         {"finish_reason", text.finish_name()}});
  }
  const std::string seed = fmt::format("{}", job_seed);
  const std::string name = hash_name({"request", seed, request.custom_id});
  const ordered_json body = {{"id", "cmpl-" + name},
                             {"object", "text_completion"},
                             {"created", 0},
                             {"model", request.model.empty() ? model : request.model},
                             {"choices", std::move(list)},
                             {"usage",
                              {{"prompt_tokens", prompt_tokens},
                               {"completion_tokens", completion_tokens},
                               {"total_tokens", prompt_tokens + completion_tokens}}}};
  return dump({{"id", std::string(kIdPrefix) + name},
               {"custom_id", request.custom_id},
               {"response", {{"status_code", 200}, {"request_id", "req_" + name}, {"body", body}}},
               {"error", nullptr}});
}

std::string error_line(const LineError& error, std::string_view content, int64_t line_number,
                       int occurrence) {
  const std::string name =
      error.custom_id ? hash_name({error.code, *error.custom_id}) : malformed_key(content);
  ordered_json line;
  line["id"] = fmt::format("{}{}-{}", kIdPrefix, name, occurrence);
  line["custom_id"] = error.custom_id ? ordered_json(*error.custom_id) : ordered_json(nullptr);
  line["response"] = nullptr;
  line["error"] = {{"code", error.code},
                   {"message", fmt::format("line {}: {}", line_number, error.message)}};
  return dump(line);
}

std::optional<AnsweredLine> parse_answered_line(std::string_view line) {
  const auto parsed = ordered_json::parse(line, nullptr, false);
  if (!parsed.is_object()) return std::nullopt;
  const auto id = parsed.find("id"), custom_id = parsed.find("custom_id");
  if (id == parsed.end() || !id->is_string() || custom_id == parsed.end() ||
      !parsed.contains("response") || !parsed.contains("error")) {
    return std::nullopt;
  }
  AnsweredLine answered;
  if (custom_id->is_string()) {
    answered.key = custom_id->get<std::string>();
    const auto& error = parsed["error"];
    if (error.is_object() && error.value("code", ordered_json()) == kDuplicateCode) {
      answered.kind = AnsweredLine::Kind::kDuplicate;
    }
    return answered;
  }
  const std::string name = id->get<std::string>();
  const size_t end = name.rfind('-');
  if (!custom_id->is_null() || !name.starts_with(kIdPrefix) || end == std::string::npos) {
    return std::nullopt;
  }
  answered.kind = AnsweredLine::Kind::kMalformed;
  answered.key = name.substr(kIdPrefix.size(), end - kIdPrefix.size());
  return answered;
}

}  // namespace convoke
