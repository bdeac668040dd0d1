// One group of a command's flags, as --help shows it.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "launcher/flag_values.h"

namespace convoke {

/// Adds flags of one group of --help. Values are read by our own parsers, whose errors name the
/// flag by the first of its long names.
class FlagGroup {
 public:
  FlagGroup(CLI::App& app, std::string name) : app_(app), name_(std::move(name)) {}

  CLI::Option* text(const char* names, const char* type, const char* help,
                    std::function<void(const std::string& flag, const std::string& value)> take) {
    const std::string flag = main_name(names);
    return app_
        .add_option_function<std::string>(
            names, [flag, take](const std::string& value) { take(flag, value); }, help)
        ->type_name(type)
        ->group(name_);
  }

  /// May be given several times, with one value each.
  CLI::Option* texts(
      const char* names, const char* type, const char* help,
      std::function<void(const std::string& flag, const std::vector<std::string>& values)> take) {
    const std::string flag = main_name(names);
    return app_
        .add_option_function<std::vector<std::string>>(
            names, [flag, take](const std::vector<std::string>& values) { take(flag, values); },
            help)
        ->type_name(type)
        ->type_size(1)
        ->allow_extra_args(false)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->group(name_);
  }

  template <typename T>
  CLI::Option* integer(const char* names, T& target, int64_t low, int64_t high, const char* help) {
    return text(names, "N", help, [&target, low, high](const auto& flag, const auto& value) {
      using Value = typename Target<T>::type;
      target = Value(parse_int(flag, value, low, high));
    });
  }

  template <typename T>
  CLI::Option* number(const char* names, T& target, double low, double high, const char* help,
                      bool open_low = false) {
    return text(names, "X", help,
                [&target, low, high, open_low](const auto& flag, const auto& value) {
                  using Value = typename Target<T>::type;
                  target = Value(parse_number(flag, value, low, high, open_low));
                });
  }

  CLI::Option* choice(const char* names, std::string& target,
                      std::initializer_list<const char*> choices, const char* help) {
    const std::vector<const char*> list(choices);
    std::string type = fmt::format("{}", fmt::join(list, "|"));
    const std::string flag = main_name(names);
    return app_
        .add_option_function<std::string>(
            names,
            [flag, list, &target](const std::string& value) {
              target = parse_choice(flag, value, list);
            },
            help)
        ->type_name(type)
        ->group(name_);
  }

  CLI::Option* path(const char* names, std::filesystem::path& target, const char* type,
                    const char* help) {
    return text(names, type, help, [&target](const auto& flag, const auto& value) {
      if (value.empty()) throw_error(ErrorKind::kUsage, "{}: is empty", flag);
      target = value;
    });
  }

  CLI::Option* flag(const char* names, bool& target, const char* help) {
    return app_.add_flag(names, target, help)->group(name_);
  }

 private:
  template <typename T>
  struct Target {
    using type = T;
  };
  template <typename T>
  struct Target<std::optional<T>> {
    using type = T;
  };

  static std::string main_name(const std::string& names) {
    std::istringstream parts(names);
    std::string name;
    while (std::getline(parts, name, ',')) {
      if (name.starts_with("--")) return name;
    }
    return names;
  }

  CLI::App& app_;
  std::string name_;
};

}  // namespace convoke
