// What is wrong with somebody's JSON, in words that fit on one line of a message.
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace convoke {

/// A value as it may stand in a message: short, on one line. For nlohmann::json and ordered_json.
template <typename Json>
std::string quote_json(const Json& value) {
  if (value.is_array()) return "a list";
  if (value.is_object()) return "an object";
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

/// What the parser complains of, without the library's own numbering and in printable ASCII: it may
/// quote bytes of the input that are not UTF-8.
inline std::string parse_message(const nlohmann::json::exception& error) {
  const std::string text = error.what();
  const size_t begin = text.find("] ");
  std::string message = begin == std::string::npos ? text : text.substr(begin + 2);
  std::ranges::replace_if(
      message, [](char c) { return uint8_t(c) < 32 || uint8_t(c) > 126; }, '?');
  if (message.size() > 300) message = message.substr(0, 297) + "...";
  return message;
}

}  // namespace convoke
