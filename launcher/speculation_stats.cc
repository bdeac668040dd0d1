#include "launcher/speculation_stats.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "launcher/table.h"

namespace convoke {

namespace {

void add_per_depth(std::vector<int64_t>& sum, const std::vector<int64_t>& counts) {
  if (sum.size() < counts.size()) sum.resize(counts.size());
  for (size_t i = 0; i < counts.size(); ++i) sum[i] += counts[i];
}

}  // namespace

void add_stats(RequestStats& sum, const RequestStats& stats) {
  sum.prompt_tokens += stats.prompt_tokens;
  sum.output_tokens += stats.output_tokens;
  sum.decode_steps += stats.decode_steps;
  sum.drafts += stats.drafts;
  sum.draft_tokens += stats.draft_tokens;
  sum.accepted_tokens += stats.accepted_tokens;
  add_per_depth(sum.accepted_by_depth, stats.accepted_by_depth);
  add_per_depth(sum.drafted_by_depth, stats.drafted_by_depth);
  sum.draft_outcomes += stats.draft_outcomes;
  sum.draft_outcomes_in_tree += stats.draft_outcomes_in_tree;
  sum.draft_passes += stats.draft_passes;
  sum.draft_hidden_seconds += stats.draft_hidden_seconds;
  sum.late_drafts += stats.late_drafts;
  sum.preemptions += stats.preemptions;
  sum.queue_seconds += stats.queue_seconds;
  sum.first_token_seconds += stats.first_token_seconds;
  sum.total_seconds += stats.total_seconds;
  sum.draft_seconds += stats.draft_seconds;
  sum.target_seconds += stats.target_seconds;
  sum.communication_seconds += stats.communication_seconds;
  sum.other_seconds += stats.other_seconds;
}

double acceptance_rate(const RequestStats& stats) {
  return stats.draft_tokens > 0 ? double(stats.accepted_tokens) / double(stats.draft_tokens) : 0.0;
}

double mean_acceptance_length(const RequestStats& stats) {
  return 1.0 + (stats.drafts > 0 ? double(stats.accepted_tokens) / double(stats.drafts) : 0.0);
}

std::vector<double> acceptance_by_depth(const RequestStats& stats) {
  std::vector<double> shares;
  for (size_t d = 0; d < stats.drafted_by_depth.size(); ++d) {
    const double accepted =
        d < stats.accepted_by_depth.size() ? double(stats.accepted_by_depth[d]) : 0.0;
    const double drafted = double(stats.drafted_by_depth[d]);
    shares.push_back(drafted > 0 ? accepted / drafted : 0.0);
  }
  return shares;
}

double hidden_share(const RequestStats& stats) {
  const double all = stats.draft_hidden_seconds + stats.draft_seconds;
  return stats.draft_hidden_seconds > 0 ? stats.draft_hidden_seconds / all : 0.0;
}

double outcomes_in_tree(const RequestStats& stats) {
  return stats.draft_outcomes > 0
             ? double(stats.draft_outcomes_in_tree) / double(stats.draft_outcomes)
             : 0.0;
}

double tokens_per_pass(const RequestStats& stats, int64_t requests) {
  return stats.decode_steps > 0
             ? double(stats.output_tokens - requests) / double(stats.decode_steps)
             : 0.0;
}

double decode_tokens_per_second(const RequestStats& stats) {
  const double seconds = stats.total_seconds - stats.first_token_seconds;
  return stats.output_tokens > 1 && seconds > 0 ? double(stats.output_tokens - 1) / seconds : 0.0;
}

StepTime step_time(const RequestStats& stats) {
  if (stats.decode_steps <= 0) return {};
  const double scale = 1000.0 / double(stats.decode_steps);
  return {stats.draft_seconds * scale, stats.target_seconds * scale,
          stats.communication_seconds * scale, stats.other_seconds * scale};
}

nlohmann::ordered_json stats_json(const RequestStats& stats) {
  const StepTime step = step_time(stats);
  return {
      {"prompt_tokens", stats.prompt_tokens},
      {"generation_tokens", stats.output_tokens},
      {"steps", stats.decode_steps},
      {"num_drafts", stats.drafts},
      {"num_draft_tokens", stats.draft_tokens},
      {"num_accepted_tokens", stats.accepted_tokens},
      {"num_accepted_tokens_per_pos", stats.accepted_by_depth},
      {"acceptance_rate", acceptance_rate(stats)},
      {"mean_acceptance_length", mean_acceptance_length(stats)},
      {"acceptance_by_depth", acceptance_by_depth(stats)},
      {"draft_passes", stats.draft_passes},
      {"hidden_draft_share", hidden_share(stats)},
      {"outcomes_in_tree", outcomes_in_tree(stats)},
      {"late_drafts", stats.late_drafts},
      {"preemptions", stats.preemptions},
      {"step_ms",
       {{"draft", step.draft},
        {"target", step.target},
        {"communication", step.communication},
        {"rest", step.rest}}},
  };
}

std::string stats_table(const RequestStats& stats) {
  std::string text;
  const auto line = [&](const char* label, const std::string& value) {
    text += fmt::format("  {:<24}{}\n", label, value);
  };
  line("prompt tokens", fmt::format("{}", stats.prompt_tokens));
  line("generated tokens", fmt::format("{}", stats.output_tokens));
  line("target passes", fmt::format("{}", stats.decode_steps));
  if (stats.drafts > 0) {
    line("drafts", fmt::format("{}, {} tokens", stats.drafts, stats.draft_tokens));
    line("accepted tokens", fmt::format("{} ({:.1f} % of those drafted)", stats.accepted_tokens,
                                        100 * acceptance_rate(stats)));
    line("mean acceptance length", fmt::format("{:.2f}", mean_acceptance_length(stats)));
    std::string depths;
    for (const double share : acceptance_by_depth(stats)) depths += fmt::format("{:.2f} ", share);
    if (!depths.empty()) line("acceptance by depth", depths.substr(0, depths.size() - 1));
  } else {
    line("drafts", "none");
  }
  if (stats.draft_hidden_seconds > 0) {
    line(
        "drafted ahead",
        fmt::format("{:.0f} % of the drafting time was hidden, {:.0f} % of the outcomes were ready",
                    100 * hidden_share(stats), 100 * outcomes_in_tree(stats)));
  }
  if (stats.late_drafts > 0) line("late drafts", fmt::format("{}", stats.late_drafts));
  if (stats.preemptions > 0) line("preemptions", fmt::format("{}", stats.preemptions));
  const StepTime step = step_time(stats);
  if (step.total() > 0) {
    const double total = step.total();
    line("time of a step",
         fmt::format("{:.2f} ms: draft {}, target {}, communication {}, rest {}", total,
                     format_share(step.draft, total), format_share(step.target, total),
                     format_share(step.communication, total), format_share(step.rest, total)));
  }
  return text;
}

}  // namespace convoke
