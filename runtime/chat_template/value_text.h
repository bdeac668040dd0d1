// Values as text: Python's str() and repr(), and JSON as transformers' tojson filter writes it.
#pragma once

#include <string>

#include "runtime/chat_template/value.h"

namespace convoke::jinja {

std::string to_text(Heap& heap, const Value& value);  ///< str(); "" for undefined
std::string to_repr(Heap& heap, const Value& value);

struct JsonStyle {
  bool indented = false;
  std::string indent;  ///< of one level
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ascii = false;
  bool sort_keys = false;
};

/// json.dumps(); faults on values that JSON has not.
std::string to_json(Heap& heap, const Value& value, const JsonStyle& style);

}  // namespace convoke::jinja
