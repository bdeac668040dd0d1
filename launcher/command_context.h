// What a command has of the outside world. main() fills it with the real things, tests with others.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <istream>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "launcher/engine.h"

namespace convoke {

struct InspectOptions;

/// Exit codes of every command. An interrupted command ends with 128 + the signal's number.
enum ExitCode : int { kExitOk = 0, kExitFailure = 1, kExitUsage = 2 };

struct CommandContext {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  bool in_is_terminal = false;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  bool color = false;        ///< colour what goes to `out`
  bool first_rank = true;    ///< or started alone
  int terminal_columns = 0;  ///< of `err`; 0 = unknown

  /// Starts the engine, on the first rank of a job or alone.
  std::function<std::unique_ptr<Engine>(const EngineOptions&)> start_engine = {};
  /// Plays this process's part if it is not the first rank of its job, and returns its exit code;
  /// nullopt on the first rank and alone. May be empty: always the first.
  std::function<std::optional<int>(const EngineOptions&)> run_as_worker_rank = {};

  std::function<int(const InspectOptions&, std::ostream& out, std::ostream& err)> run_inspect = {};
  /// The hidden command that a drafter's rank starts as its child; it gets the arguments behind
  /// its name. May be empty.
  std::function<int(const std::vector<std::string>& arguments)> run_drafter_worker = {};
  /// `convoke train`, with the arguments behind it.
  std::function<int(const std::vector<std::string>& arguments)> run_trainer = {};
  /// Called once the flags are known, before anything is logged.
  std::function<void(bool verbose)> set_verbose = {};

  /// The signal that asks for an orderly end; 0 = none so far. May be null.
  const std::atomic<int>* interrupt = nullptr;

  int interrupted() const { return interrupt ? interrupt->load(std::memory_order_relaxed) : 0; }
};

}  // namespace convoke
