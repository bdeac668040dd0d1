// `convoke generate`: one prompt, its continuation as it comes.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "launcher/command_context.h"
#include "launcher/engine.h"
#include "launcher/sampling_flags.h"

namespace convoke {

struct GenerateOptions {
  EngineOptions engine;
  SamplingFlags sampling;
  bool use_generation_config = true;
  std::optional<std::string> prompt;                 ///< "-" = standard input
  std::optional<std::filesystem::path> prompt_file;  ///< "-" = standard input
  bool echo = false;
  bool stats = false;
  bool json = false;
  bool verbose = false;
};

int run_generate(const GenerateOptions& options, CommandContext& context);

/// A few lines on what was put together: `-v` of every command.
std::string describe_engine(const Engine& engine, const EngineOptions& options);

}  // namespace convoke
