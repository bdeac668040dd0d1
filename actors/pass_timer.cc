#include "actors/pass_timer.h"

#include <algorithm>
#include <numeric>

#include "runtime/kv_cache.h"

namespace convoke {
namespace {

constexpr int kPromptTokens = 32;
constexpr int kLargest = 64;
constexpr int kRounds = 3;
/// Large models are measured in fewer rounds: their passes vary less, and start-up counts.
constexpr double kPatience = 1.0;

StepPlan first_plan(int prompt, int32_t blocks, int vocabulary) {
  StepPlan plan;
  plan.opened.push_back({.place = 0, .prompt_tokens = prompt});
  SequenceRows& rows = plan.sequences.emplace_back();
  rows.new_blocks.resize(size_t(blocks));
  std::iota(rows.new_blocks.begin(), rows.new_blocks.end(), 0);
  for (int i = 0; i < prompt; ++i) rows.chain.push_back((7 + 13 * i) % vocabulary);
  return plan;
}

/// One committed token and `nodes` guesses at what follows it.
StepPlan fan_plan(int prompt, int nodes, int vocabulary) {
  StepPlan plan;
  SequenceRows& rows = plan.sequences.emplace_back();
  rows.context = prompt;
  rows.chain = {1 % vocabulary};
  for (int i = 0; i < nodes; ++i) rows.tree.nodes.push_back({-1, (3 + 5 * i) % vocabulary, false});
  rows.pick = true;
  return plan;
}

}  // namespace

std::vector<PassCost::Point> time_passes(StepRunner& runner, const SchedulerOptions& options) {
  const int prompt = std::min({kPromptTokens, options.max_rows, options.max_model_len / 2});
  const int largest = std::min({kLargest, options.max_rows, options.max_model_len - prompt});
  const int32_t blocks = blocks_for(prompt + largest);
  if (prompt < 1 || largest < 1 || blocks > options.kv_blocks) return {};
  StepResult result;
  runner.run(first_plan(prompt, blocks, options.vocabulary), result);
  // In rounds over all row counts, of which the fastest pass of each counts: a hiccup, or a slow
  // stretch of the machine, must not make one row count look dear beside the others.
  std::vector<PassCost::Point> points;
  double spent = 0;
  for (int round = 0; round < kRounds && (round < 1 || spent < kPatience); ++round) {
    for (int rows = 1; rows <= largest; rows *= 2) {
      const StepPlan plan = fan_plan(prompt, rows - 1, options.vocabulary);
      // The pass before had other rows; only the next one finds its own footing.
      if (spent < kPatience) runner.run(plan, result);
      runner.run(plan, result);
      points.push_back({rows, result.compute_seconds});
      spent += result.compute_seconds;
    }
  }
  StepPlan last;
  last.closed = {0};
  runner.run(last, result);
  return points;
}

}  // namespace convoke
