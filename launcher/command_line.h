// From argv to a command and its options.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "launcher/batch.h"
#include "launcher/bench.h"
#include "launcher/command_context.h"
#include "launcher/generate.h"
#include "launcher/inspect.h"

namespace convoke {

struct DrafterWorkerCommand {
  std::vector<std::string> arguments;
};

/// `convoke train`, which is another program's to read.
struct TrainCommand {
  std::vector<std::string> arguments;  ///< behind "train"
};

/// Text to print and a code to leave with: --help, --version, or nothing to do.
struct ShowText {
  std::string text;
  int exit_code = 0;
};

struct ParsedCommand {
  std::string name;  ///< "convoke generate"
  std::variant<ShowText, GenerateOptions, BatchOptions, BenchOptions, InspectOptions,
               DrafterWorkerCommand, TrainCommand>
      command;
  std::vector<std::string> warnings;
};

/// Reads the configuration file that --config names, too. Flags go over the file. Throws
/// Error(kUsage) in one line that names the flag (or file and key), what was given and what is
/// allowed; `name` of the result is set even then.
void parse_command_line(const std::vector<std::string>& arguments, ParsedCommand& parsed);

/// What was typed, as a shell would take it again.
std::string command_text(const std::string& program, const std::vector<std::string>& arguments);

/// Parses and runs: what main() does. Errors end in one line on `context.err`.
int run_command_line(const std::vector<std::string>& arguments, CommandContext& context);

}  // namespace convoke
