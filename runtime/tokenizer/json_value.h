// JSON with the path of every value at hand, so that an error names file and key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/check.h"
#include "runtime/model_files/json_file.h"

namespace convoke {

/// Reads and parses a file. Throws Error for an unreadable file, malformed JSON, deep nesting or
/// more than 1 GiB.
nlohmann::json read_json_file(const std::filesystem::path& path);

/// A view of one value and where it stands. Getters throw Error(kModel) "file: key.path: ...".
class JsonValue {
 public:
  JsonValue(const nlohmann::json& value, std::string file, std::string path = "")
      : value_(&value), file_(std::move(file)), path_(std::move(path)) {}

  const nlohmann::json& raw() const { return *value_; }
  bool is_null() const { return value_->is_null(); }
  bool is_string() const { return value_->is_string(); }
  bool is_object() const { return value_->is_object(); }
  bool is_array() const { return value_->is_array(); }
  size_t size() const { return value_->size(); }
  const std::string& file() const { return file_; }
  std::string where() const;  ///< "file: key.path"

  bool has(const char* key) const;  ///< an object that has `key` with a value other than null
  JsonValue at(const char* key) const;
  JsonValue at(size_t index) const;  ///< of an array; the caller checks the size
  std::optional<JsonValue> find(const char* key) const;  ///< nullopt: absent or null

  void require_object() const;
  void require_array() const;
  const std::string& string() const;
  bool boolean() const;
  int64_t integer(int64_t low, int64_t high) const;

  std::string string(const char* key) const { return at(key).string(); }
  bool boolean(const char* key, bool otherwise) const;
  int64_t integer(const char* key, int64_t low, int64_t high) const {
    return at(key).integer(low, high);
  }
  uint32_t character(const char* key) const;  ///< a string of exactly one character

  [[noreturn]] void fail(const std::string& what) const;

 private:
  const nlohmann::json* value_;
  std::string file_;
  std::string path_;
};

}  // namespace convoke
