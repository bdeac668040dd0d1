// --config FILE.toml: the flags of a command, by their long names.
#pragma once

#include <CLI/App.hpp>
#include <filesystem>
#include <vector>

namespace convoke {

/// Keys before the first section are for every command that has such a flag, those of a section
/// [batch] for that command only. A key may be written with '_' for '-'. What the command line gave
/// stays. Throws Error(kUsage) naming file and key.
void apply_config_file(const std::filesystem::path& path, const std::vector<CLI::App*>& commands,
                       CLI::App& command);

}  // namespace convoke
