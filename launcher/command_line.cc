#include "launcher/command_line.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <optional>

#include "kernels/check.h"
#include "launcher/command_flags.h"
#include "launcher/config_file.h"
#include "launcher/flag_values.h"
#include "launcher/version.h"

namespace convoke {

namespace {

constexpr const char* kDescription =
    "Convoke generates text with large language models, several tokens per pass of the model\n"
    "(speculative decoding), over as many processes as a model needs, and never changes a token.";

constexpr const char* kFooter =
    "Start alone, or under mpirun / srun: every rank is given the same command, and takes its "
    "role.\n"
    "\n"
    "  convoke inspect demo/model\n"
    "  convoke generate --model demo/model --drafter ngram --stats 'def main():'\n"
    "  mpirun -np 3 convoke batch --model demo/model --tp 2 --drafter ngram \\\n"
    "      -i demo/prompts.jsonl -o results.jsonl\n"
    "\n"
    "convoke COMMAND --help tells more. Exit codes: 0 done, 1 failure, 2 wrong usage.";

constexpr char kTrain[] = "train";

/// The commands and where their flags lead.
struct Program {
  CLI::App app{kDescription, "convoke"};
  GenerateOptions generate;
  BatchOptions batch;
  BenchOptions bench;
  InspectOptions inspect;
  CommonFlags common;  ///< of whichever command runs
  std::vector<CLI::App*> commands;
};

std::vector<std::string> command_names(const Program& program) {
  std::vector<std::string> names;
  for (const CLI::App* command : program.commands) names.push_back(command->get_name());
  names.push_back(kTrain);
  return names;
}

void build(Program& program) {
  program.app.footer(kFooter);
  program.app.set_version_flag("--version", std::string("convoke ") + version());
  program.app.require_subcommand(0, 1);
  program.app.get_formatter()->column_width(34);
  program.commands = {
      add_generate(program.app, program.generate, program.common),
      add_batch(program.app, program.batch, program.common),
      add_bench(program.app, program.bench, program.common),
      add_inspect(program.app, program.inspect),
  };
  // Listed here; its arguments are read by the program that it starts.
  program.app.add_subcommand(kTrain, "Train a drafter for a model (eagle, eagle3, pass, medusa).");
}

[[noreturn]] void refuse_unknown(const Program& program, const CLI::App* command) {
  const auto left = (command ? command : &program.app)->remaining();
  const std::string first = left.empty() ? "" : left.front();
  if (!command) {
    const auto names = command_names(program);
    throw_error(ErrorKind::kUsage, "'{}' is not a command; there are {}", first,
                fmt::join(names, ", "));
  }
  refuse_argument(first, *command, command->get_name());
}

const CLI::App* chosen(const Program& program) {
  for (const CLI::App* command : program.commands) {
    if (command->parsed()) return command;
  }
  return nullptr;
}

/// nullopt when a command is to be run.
std::optional<ShowText> parse_flags(Program& program, const std::vector<std::string>& arguments) {
  try {
    program.app.parse(
        std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // as it asks
  } catch (const CLI::CallForHelp&) {
    const CLI::App* command = chosen(program);
    return ShowText{command ? command->help("convoke") : program.app.help(), kExitOk};
  } catch (const CLI::CallForVersion& call) {
    return ShowText{std::string(call.what()) + '\n', kExitOk};
  } catch (const CLI::ExtrasError&) {
    refuse_unknown(program, chosen(program));
  } catch (const CLI::ParseError& error) {
    throw_error(ErrorKind::kUsage, "{}", error.what());
  }
  if (!chosen(program)) return ShowText{program.app.help(), kExitUsage};
  return std::nullopt;
}

void collect(Program& program, const CLI::App& command, const std::vector<std::string>& arguments,
             ParsedCommand& parsed) {
  if (&command == program.commands[0]) {
    finish_generate(program.generate, program.common, parsed.warnings);
    parsed.command = program.generate;
  } else if (&command == program.commands[1]) {
    finish_batch(program.batch, program.common, parsed.warnings);
    parsed.command = program.batch;
  } else if (&command == program.commands[2]) {
    finish_bench(program.bench, program.common, parsed.warnings);
    program.bench.command = command_text("convoke", arguments);
    parsed.command = program.bench;
  } else {
    if (program.inspect.directory.empty()) {
      throw_error(ErrorKind::kUsage, "DIR: the model directory to look at is missing");
    }
    parsed.command = program.inspect;
  }
}

int run_engine_command(const EngineOptions& engine, CommandContext& context, bool verbose,
                       const std::function<int()>& run) {
  if (context.set_verbose) context.set_verbose(verbose);
  // The one place where ranks part: only the first of a job goes on to the command itself.
  if (context.run_as_worker_rank) {
    if (const auto code = context.run_as_worker_rank(engine)) return *code;
  }
  return run();
}

struct Runner {
  CommandContext& context;

  int operator()(const ShowText& show) const {
    (show.exit_code == 0 ? context.out : context.err) << show.text << std::flush;
    return show.exit_code;
  }
  int operator()(const GenerateOptions& options) const {
    return run_engine_command(options.engine, context, options.verbose,
                              [&] { return run_generate(options, context); });
  }
  int operator()(const BatchOptions& options) const {
    return run_engine_command(options.engine, context, options.verbose,
                              [&] { return run_batch(options, context); });
  }
  int operator()(const BenchOptions& options) const {
    return run_engine_command(options.engine, context, options.verbose,
                              [&] { return run_bench(options, context); });
  }
  int operator()(const InspectOptions& command) const {
    return context.run_inspect(command, context.out, context.err);
  }
  int operator()(const DrafterWorkerCommand& command) const {
    if (!context.run_drafter_worker)
      throw_error(ErrorKind::kUsage, "this is not a program to call");
    return context.run_drafter_worker(command.arguments);
  }
  int operator()(const TrainCommand& command) const {
    return context.run_trainer(command.arguments);
  }
};

}  // namespace

std::string command_text(const std::string& program, const std::vector<std::string>& arguments) {
  std::string text = program;
  for (const std::string& argument : arguments) {
    const bool plain =
        !argument.empty() && argument.find_first_not_of(
                                 "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                 "0123456789-_=+:,./@%") == std::string::npos;
    text += ' ';
    if (plain) {
      text += argument;
      continue;
    }
    text += '\'';
    for (const char c : argument) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
    text += '\'';
  }
  return text;
}

void parse_command_line(const std::vector<std::string>& arguments, ParsedCommand& parsed) {
  parsed.name = "convoke";
  if (!arguments.empty() && arguments.front() == "drafter-worker") {
    parsed.name = "convoke drafter-worker";
    parsed.command = DrafterWorkerCommand{{arguments.begin() + 1, arguments.end()}};
    return;
  }
  if (!arguments.empty() && arguments.front() == kTrain) {
    parsed.name = "convoke train";
    parsed.command = TrainCommand{{arguments.begin() + 1, arguments.end()}};
    return;
  }
  Program program;
  build(program);
  if (!arguments.empty() && std::ranges::count(command_names(program), arguments.front()) > 0) {
    parsed.name += " " + arguments.front();
  }
  if (auto show = parse_flags(program, arguments)) {
    parsed.command = std::move(*show);
    return;
  }
  CLI::App* command = const_cast<CLI::App*>(chosen(program));
  if (!program.common.config.empty()) {
    apply_config_file(program.common.config, program.commands, *command);
  }
  collect(program, *command, arguments, parsed);
}

int run_command_line(const std::vector<std::string>& arguments, CommandContext& context) {
  ParsedCommand parsed;
  // Every rank of a job is given the same command line; one of them says what is wrong with it.
  bool tell = context.first_rank;
  try {
    parse_command_line(arguments, parsed);
    if (const auto* show = std::get_if<ShowText>(&parsed.command); show && !tell) {
      return show->exit_code;
    }
    for (const std::string& warning : parsed.warnings) {
      if (tell) context.err << parsed.name << ": " << warning << '\n';
    }
    tell = true;
    return std::visit(Runner{context}, parsed.command);
  } catch (const Error& error) {
    if (tell) context.err << parsed.name << ": " << error.what() << '\n' << std::flush;
    if (context.interrupted() != 0) return 128 + context.interrupted();
    return error.kind() == ErrorKind::kUsage ? kExitUsage : kExitFailure;
  } catch (const std::bad_alloc&) {
    context.err << parsed.name << ": out of memory\n" << std::flush;
    return kExitFailure;
  } catch (const std::exception& error) {
    context.err << parsed.name << ": unexpected: " << error.what() << '\n' << std::flush;
    return kExitFailure;
  }
}

}  // namespace convoke
