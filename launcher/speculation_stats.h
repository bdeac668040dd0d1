// What speculation did, summed over requests: the counters and ratios people of this field expect.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "actors/messages.h"

namespace convoke {

/// `sum` += `stats`, field by field.
void add_stats(RequestStats& sum, const RequestStats& stats);

/// Accepted drafts ÷ drafts sent for verification; 0 without drafts.
double acceptance_rate(const RequestStats& stats);
/// Tokens gained by a pass with a draft: 1 + accepted ÷ drafts (the next token counts).
double mean_acceptance_length(const RequestStats& stats);
/// Tokens after the first of each request ÷ target passes that picked them, drafts or not.
double tokens_per_pass(const RequestStats& stats, int64_t requests = 1);
/// Of the time spent drafting, the share that the target did not wait for.
double hidden_share(const RequestStats& stats);
/// Of the verdicts that came while a tree had grown on, the share whose outcome lay in it.
double outcomes_in_tree(const RequestStats& stats);
/// [depth] of the passes whose tree reached that depth, the share that accepted a node there.
std::vector<double> acceptance_by_depth(const RequestStats& stats);
/// Tokens after the first ÷ time after the first, of requests that ran one after another.
double decode_tokens_per_second(const RequestStats& stats);

/// Milliseconds of an average decoding step.
struct StepTime {
  double draft = 0, target = 0, communication = 0, rest = 0;
  double total() const { return draft + target + communication + rest; }
};
StepTime step_time(const RequestStats& stats);

/// num_drafts, num_draft_tokens, num_accepted_tokens, num_accepted_tokens_per_pos,
/// acceptance_rate, mean_acceptance_length, acceptance_by_depth, step_ms and the rest.
nlohmann::ordered_json stats_json(const RequestStats& stats);
/// The same for people: a few lines, each ending with '\n'.
std::string stats_table(const RequestStats& stats);

}  // namespace convoke
