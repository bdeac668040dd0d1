// The flags of every command: what --help says and where the values go.
#pragma once

#include <CLI/App.hpp>
#include <optional>
#include <string>
#include <vector>

#include "launcher/command_line.h"

namespace convoke {

/// Flags that several commands share, before they are put together into EngineOptions.
struct CommonFlags {
  EngineOptions engine;
  std::optional<DrafterSpec> drafter, speculative_config;
  std::optional<int> draft_tokens, draft_depth, draft_top_k;
  std::string draft_ahead = "auto";
  bool unshared_noise = false;
  std::vector<DrafterSpec> drafters;
  SamplingFlags sampling;
  std::string generation_config = "auto";
  std::string config;
  std::vector<std::string> ignored_speculative;
  bool json = false, verbose = false, quiet = false;
};

CLI::App* add_generate(CLI::App& app, GenerateOptions& options, CommonFlags& common);
CLI::App* add_batch(CLI::App& app, BatchOptions& options, CommonFlags& common);
CLI::App* add_bench(CLI::App& app, BenchOptions& options, CommonFlags& common);
CLI::App* add_inspect(CLI::App& app, InspectOptions& options);

/// Once flags and configuration file are read: checks what belongs together and fills the options.
void finish_generate(GenerateOptions& options, CommonFlags& common,
                     std::vector<std::string>& warnings);
void finish_batch(BatchOptions& options, CommonFlags& common, std::vector<std::string>& warnings);
void finish_bench(BenchOptions& options, CommonFlags& common, std::vector<std::string>& warnings);

/// Throws Error(kUsage) for an argument that a command does not know: one too many, or a flag, with
/// the flag that may have been meant. `name` is the command's as it is called: "generate".
[[noreturn]] void refuse_argument(const std::string& argument, const CLI::App& command,
                                  const std::string& name);

/// "--model", ...: the long names.
std::vector<std::string> flag_names(const CLI::App& command);

}  // namespace convoke
