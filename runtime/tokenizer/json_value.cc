#include "runtime/tokenizer/json_value.h"

#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

constexpr size_t kLargestFile = size_t{1} << 30;

const char* type_name(const nlohmann::json& value) {
  if (value.is_number_integer()) return "an integer";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a string";
  if (value.is_boolean()) return "a boolean";
  if (value.is_array()) return "an array";
  if (value.is_object()) return "an object";
  return "null";
}

}  // namespace

nlohmann::json read_json_file(const std::filesystem::path& path) {
  return parse_json(read_text_file(path, kLargestFile), path.string());
}

std::string JsonValue::where() const {
  return path_.empty() ? file_ : file_ + ": " + path_;
}

void JsonValue::fail(const std::string& what) const {
  throw_error(ErrorKind::kModel, "{}: {}", where(), what);
}

void JsonValue::require_object() const {
  if (!value_->is_object()) fail(fmt::format("expected an object, found {}", type_name(*value_)));
}

void JsonValue::require_array() const {
  if (!value_->is_array()) fail(fmt::format("expected an array, found {}", type_name(*value_)));
}

bool JsonValue::has(const char* key) const {
  return find(key).has_value();
}

std::optional<JsonValue> JsonValue::find(const char* key) const {
  require_object();
  const auto it = value_->find(key);
  if (it == value_->end() || it->is_null()) return std::nullopt;
  return JsonValue(*it, file_, path_.empty() ? key : path_ + "." + key);
}

JsonValue JsonValue::at(const char* key) const {
  auto value = find(key);
  if (!value) fail(fmt::format("key \"{}\" is missing", key));
  return *value;
}

JsonValue JsonValue::at(size_t index) const {
  require_array();
  return JsonValue((*value_)[index], file_, fmt::format("{}[{}]", path_, index));
}

const std::string& JsonValue::string() const {
  if (!value_->is_string()) fail(fmt::format("expected a string, found {}", type_name(*value_)));
  return value_->get_ref<const std::string&>();
}

bool JsonValue::boolean() const {
  if (!value_->is_boolean()) {
    fail(fmt::format("expected true or false, found {}", type_name(*value_)));
  }
  return value_->get<bool>();
}

bool JsonValue::boolean(const char* key, bool otherwise) const {
  const auto value = find(key);
  return value ? value->boolean() : otherwise;
}

int64_t JsonValue::integer(int64_t low, int64_t high) const {
  if (!value_->is_number_integer()) {
    fail(fmt::format("expected an integer, found {}", type_name(*value_)));
  }
  const bool fits = value_->is_number_unsigned()
                        ? value_->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)
                        : true;
  if (!fits || value_->get<int64_t>() < low || value_->get<int64_t>() > high) {
    fail(fmt::format("{} is not between {} and {}", value_->dump(), low, high));
  }
  return value_->get<int64_t>();
}

uint32_t JsonValue::character(const char* key) const {
  const JsonValue value = at(key);
  const std::string& text = value.string();
  size_t end = 0;
  uint32_t code_point = 0;
  if (!text.empty()) code_point = unicode::next_code_point(text, end);
  if (text.empty() || end != text.size()) {
    value.fail(fmt::format("expected one character, found \"{}\"", text));
  }
  return code_point;
}

}  // namespace convoke
