// Small JSON files of a model directory, read with care: what is wrong is named by file and key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/check.h"

namespace convoke {

/// The bytes of a regular file of at most `limit` bytes. Throws Error(kModel) if there is none or
/// it is too large, Error(kResource) if it cannot be read.
std::string read_text_file(const std::filesystem::path& path, size_t limit);

/// Throws Error(kModel) naming `file` for anything but one JSON value whose objects have no key
/// twice (JSON leaves open which would count).
nlohmann::json parse_json(std::string_view text, const std::string& file);

/// Values of one JSON object, with what is wrong gathered in `problems` (each names file and key)
/// instead of thrown, so that a user sees all of it at once. A null value counts as absent unless
/// stated. After a problem the fallback (or the least value) is returned.
class JsonObject {
 public:
  /// `prefix` is put before keys in messages: "rope_scaling.". `object` and `problems` must outlive
  /// this.
  JsonObject(const nlohmann::json& object, std::string file, std::vector<std::string>& problems,
             std::string prefix = "");

  bool has(const char* key) const;                    ///< there and not null
  bool is_null(const char* key) const;                ///< there and null
  const nlohmann::json* find(const char* key) const;  ///< nullptr if absent or null

  /// Without a fallback the key must be there. min <= result <= max.
  int64_t integer(const char* key, std::optional<int64_t> fallback, int64_t min, int64_t max);
  double number(const char* key, std::optional<double> fallback, double min, double max);
  bool boolean(const char* key, bool fallback);
  std::string text(const char* key, const std::string& fallback);
  /// One integer or a list of them; empty if absent.
  std::vector<int64_t> integers(const char* key, int64_t min, int64_t max);
  std::vector<std::string> texts(const char* key);
  /// The object under `key`, or an empty one.
  JsonObject object(const char* key);

  template <typename... Args>
  void problem(const char* key, fmt::format_string<Args...> format, Args&&... args) {
    problems_.push_back(fmt::format("{}: key '{}{}': {}", file_, prefix_, key,
                                    fmt::format(format, std::forward<Args>(args)...)));
  }

 private:
  std::optional<int64_t> checked_integer(const char* key, const nlohmann::json& value, int64_t min,
                                         int64_t max);

  const nlohmann::json& object_;
  std::string file_;
  std::vector<std::string>& problems_;
  std::string prefix_;
};

/// A JSON value for a message, cut short.
std::string shown(const nlohmann::json& value);

/// Throws Error(kModel) with `problems` (the first few of many) if there are any.
void throw_problems(const std::vector<std::string>& problems);

}  // namespace convoke
