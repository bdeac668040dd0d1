// `convoke batch`: the requests of a file in, their results out, as they finish.
#pragma once

#include <filesystem>
#include <string>

#include "launcher/command_context.h"
#include "launcher/engine.h"
#include "launcher/sampling_flags.h"

namespace convoke {

struct BatchOptions {
  EngineOptions engine;
  SamplingFlags sampling;  ///< for what bodies leave out; with `override_bodies` over them
  bool override_bodies = false;
  bool use_generation_config = true;
  std::string served_model_name;
  std::filesystem::path input, output;
  bool resume = false;
  bool quiet = false;  ///< no progress
  bool json = false;   ///< the summary as one JSON object
  bool verbose = false;
};

/// Returns the exit code: failure if a request was not answered; error lines of bad requests are
/// answers. Throws Error if the job cannot go on; what was finished by then is in the file.
int run_batch(const BatchOptions& options, CommandContext& context);

}  // namespace convoke
