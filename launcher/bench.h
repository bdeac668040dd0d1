// `convoke bench`: drafters beside each other on the same prompts, and the machine's floor.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "launcher/bench_report.h"
#include "launcher/bench_sweep.h"
#include "launcher/command_context.h"
#include "launcher/engine.h"
#include "launcher/sampling_flags.h"

namespace convoke {

struct BenchOptions {
  EngineOptions engine;
  SamplingFlags sampling;  ///< over what the prompts' bodies say
  bool use_generation_config = true;
  std::filesystem::path prompts;
  std::vector<DrafterSpec> drafters;  ///< `none` is put in front if it is missing
  int limit = 0;                      ///< prompts taken from the file; 0 = all
  std::vector<Sweep> sweeps;          ///< two at most
  int repeat = 1;
  int turn = 4;  ///< prompts that a drafter runs before the next has its turn
  bool compare_logits = false;
  bool floor = true;
  std::vector<int> floor_rows = {1, 4, 8, 16, 32};
  std::filesystem::path report;  ///< an HTML page; empty = none
  std::string command;           ///< as it was typed, for the report
  bool quiet = false;
  bool json = false;
  bool verbose = false;
};

/// Starts the engine, measures and ends it.
BenchReport measure_drafters(const BenchOptions& options, CommandContext& context);

/// Measures, and prints or writes what was found. Exit code failure if a drafter's output differs
/// from plain decoding, but for --gpu-matmul fast.
int run_bench(const BenchOptions& options, CommandContext& context);

}  // namespace convoke
