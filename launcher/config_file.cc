#include "launcher/config_file.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <set>
#include <string>

#include "kernels/check.h"
#include "launcher/command_flags.h"
#include "launcher/flag_values.h"

namespace convoke {

namespace {

std::vector<CLI::ConfigItem> read_items(const std::filesystem::path& path) {
  std::error_code ignored;
  std::ifstream file(path);
  if (!file || std::filesystem::is_directory(path, ignored)) {
    throw_error(ErrorKind::kUsage, "--config: cannot read {}", path.string());
  }
  try {
    return CLI::ConfigTOML().from_config(file);
  } catch (const std::exception& error) {
    throw_error(ErrorKind::kUsage, "--config: {}: {}", path.string(), error.what());
  }
}

CLI::Option* find_option(CLI::App& command, const std::string& key) {
  CLI::Option* option = command.get_option_no_throw("--" + key);
  return option && option->get_configurable() ? option : nullptr;
}

void apply(const std::filesystem::path& path, CLI::Option& option, const CLI::ConfigItem& item) {
  try {
    for (const std::string& value : item.inputs) option.add_result(value);
    option.run_callback();
  } catch (const std::exception& error) {
    throw_error(ErrorKind::kUsage, "{}: {}", path.string(), error.what());
  }
}

[[noreturn]] void refuse_key(const std::filesystem::path& path, const std::string& key,
                             const std::string& where, const CLI::App& command) {
  const std::string guess = closest("--" + key, flag_names(command));
  throw_error(ErrorKind::kUsage, "{}: there is no key '{}'{}{}", path.string(), key, where,
              guess.empty() ? "" : ", perhaps '" + guess.substr(2) + "'");
}

}  // namespace

void apply_config_file(const std::filesystem::path& path, const std::vector<CLI::App*>& commands,
                       CLI::App& command) {
  // A section goes over what stands before it, wherever it is in the file; the command line goes
  // over both.
  std::set<const CLI::Option*> given;
  for (const CLI::Option* option : command.get_options()) {
    if (option->count() > 0) given.insert(option);
  }
  std::vector<CLI::ConfigItem> items = read_items(path);
  std::erase_if(items, [](const auto& item) { return item.name == "++" || item.name == "--"; });
  std::ranges::stable_sort(items, std::greater{},
                           [](const auto& item) { return item.parents.size(); });
  for (CLI::ConfigItem& item : items) {
    std::ranges::replace(item.name, '_', '-');
    CLI::App* section = &command;
    if (!item.parents.empty()) {
      const auto named = [&](const CLI::App* app) { return app->get_name() == item.parents[0]; };
      const auto it = std::ranges::find_if(commands, named);
      if (it == commands.end() || item.parents.size() > 1) {
        throw_error(ErrorKind::kUsage, "{}: there is no section [{}]", path.string(),
                    item.parents[0]);
      }
      section = *it;
    }
    CLI::Option* option = find_option(*section, item.name);
    if (!option && !item.parents.empty()) {
      refuse_key(path, item.name, " in section [" + item.parents[0] + "]", *section);
    }
    if (!option) {
      const auto knows = [&](CLI::App* app) { return find_option(*app, item.name) != nullptr; };
      if (std::ranges::none_of(commands, knows)) refuse_key(path, item.name, "", command);
    }
    if (!option || section != &command || !given.insert(option).second) continue;
    apply(path, *option, item);
  }
}

}  // namespace convoke
