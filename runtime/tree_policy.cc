#include "runtime/tree_policy.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/check.h"
#include "runtime/node_choice.h"

namespace convoke {
namespace {

constexpr int kFirstPause = 4;
constexpr int kLongestPause = 128;
// Of all time, for trials of drafts that cannot pay: at first, when it may have been the machine's
// mood, and in the long run.
constexpr double kFirstTrialShare = 0.1, kTrialShare = 0.01;
constexpr int kTrialRounds = 2;
constexpr int kFirstRounds = 6;  // before a sequence's own figures count
constexpr double kSequenceRate = 0.05;
constexpr double kDraftShare = 0.5;  // of drafting time that is spent per sequence, not per round
constexpr double kLeastGain = 0.02;  // drafts per round for which it is worth the messages
constexpr int kProvenRounds = 16;
constexpr int kTrialNodes = 4;              // verified in a trial, whatever is expected of them
constexpr int kDeeperEvery = 16;            // rounds between two that go a level deeper
constexpr double kExpectationShare = 0.75;  // in what a round counts for, beside its outcome
constexpr double kTextMemory = 24, kTextDoubt = 4;  // in drafts expected
constexpr double kDraftMemory = 32;
constexpr double kNodesRate = 0.1;
constexpr double kFirstNodes = 8;
// More nodes than were used lately are asked for, so that there is a choice.
constexpr double kNodesSlack = 2.0;
constexpr int kMoreNodes = 8;
// A tree of n nodes is grown n / 3 wide: wider levels cost the drafter rows of its own passes, and
// bring nodes that are not verified in the end.
constexpr double kNodesPerWidth = 3.0;
constexpr int kLeastWidth = 3, kMostWidth = 10;

}  // namespace

TreePolicy::TreePolicy(const TreePolicyOptions& options, PassCost cost)
    : options_(options), cost_(std::move(cost)), nodes_(kFirstNodes) {
  const auto refuse = [](const char* flag, int value) {
    throw_error(ErrorKind::kUsage, "{} is {}, expected 0 or more", flag, value);
  };
  if (options_.fixed_nodes && *options_.fixed_nodes < 0) {
    refuse("--draft-tokens", *options_.fixed_nodes);
  }
  if (options_.max_depth < 0) refuse("--draft-depth", options_.max_depth);
  if (options_.top_k < 0) refuse("--draft-top-k", options_.top_k);
}

TreePolicy::Round TreePolicy::fixed_round(std::span<const SequenceId> decoding) const {
  Round round;
  round.limits = {*options_.fixed_nodes, options_.max_depth, options_.top_k};
  if (round.limits.max_nodes > 0 && round.limits.max_depth > 0) {
    round.wanted.assign(decoding.begin(), decoding.end());
  }
  return round;
}

TreePolicy::Round TreePolicy::next_round(std::span<const SequenceId> decoding) {
  if (options_.fixed_nodes) return fixed_round(decoding);
  Round round;
  for (SequenceId id : decoding) sequences_[id].asked_depth = 0;
  if (decoding.empty() || options_.max_nodes <= 0 || options_.max_depth <= 0) return round;
  const int count = int(decoding.size());
  const Plan plan = best_plan(count);
  const PauseRule rule = pauses(count);
  const Ask batch = ask(batch_pause_, plan.depth > 0, rule);
  if (batch == Ask::kNo) return round;

  int depth = plan.depth > 0 ? plan.depth : could_pay(count) ? options_.max_depth : 1;
  if (++rounds_ % kDeeperEvery == 0) ++depth;
  depth = std::min(depth, options_.max_depth);
  if (batch == Ask::kFirstTrial) {
    acceptance_.doubt_rounds();
    draft_fit_ = {};  // what drafts took before the pause counts no longer
  }
  for (SequenceId id : decoding) {
    SequenceState& s = sequences_[id];
    const Ask one = batch == Ask::kYes ? ask(s.pause, pays(plan, count, s), rule) : batch;
    if (one == Ask::kNo) continue;
    if (one == Ask::kFirstTrial) s.doubt();
    s.asked_depth = depth;
    s.trial = one != Ask::kYes;
    round.wanted.push_back(id);
  }
  const int nodes = int(std::ceil(kNodesSlack * nodes_)) + kMoreNodes;
  round.limits = {std::min(nodes, options_.max_nodes), depth, width()};
  return round;
}

/// Continuations to look at after each draft token: as asked for, or as many as pay.
int TreePolicy::width() const {
  if (options_.top_k > 0) return options_.top_k;
  return std::clamp(int(std::lround(nodes_ / kNodesPerWidth)), kLeastWidth, kMostWidth);
}

void TreePolicy::SequenceState::doubt() {
  rounds = 0;
  if (expected <= 1.0) return;
  accepted /= expected;
  expected = 1.0;
}

TreePolicy::Ask TreePolicy::ask(Pause& pause, bool pays, const PauseRule& rule) {
  if (pays) {
    // A trial that was lucky once does not make up for all that failed.
    if (++pause.paid >= kProvenRounds) pause.length = 0;
    pause.left = pause.length;
    pause.trial = 0;
    return Ask::kYes;
  }
  pause.paid = 0;
  if (pause.trial > 0 && rule.trial_rounds > 1) {
    --pause.trial;
    return Ask::kTrial;
  }
  if (pause.length == 0) pause.length = pause.left = rule.first;
  pause.left = std::min(pause.left, rule.longest);
  if (pause.left-- > 0) return Ask::kNo;
  pause.length = std::min(2 * pause.length, rule.longest);
  pause.left = pause.length;
  pause.trial = rule.trial_rounds - 1;
  return Ask::kFirstTrial;
}

double TreePolicy::leaning(const SequenceState& state) const {
  return std::clamp((state.accepted + kTextDoubt) / (state.expected + kTextDoubt), 0.05, 3.0);
}

double TreePolicy::rate(int sequences, int depth, double drafts, double nodes) const {
  const int rows = sequences + int(std::lround(sequences * nodes));
  return sequences * (1.0 + drafts) / (draft_seconds(depth) + cost_.seconds(rows));
}

/// Nodes of a tree of so many levels. What such trees gain is known from those that were verified,
/// so their number must be, too: the mean over all depths would make deep trees look cheap.
double TreePolicy::expected_nodes(int depth) const {
  const double seen = nodes_at_depth_[size_t(std::min(depth, Acceptance::kDepths))];
  return seen > 0.0 ? seen : std::max(nodes_, double(depth));
}

/// Trees as they were lately, or chains: the least that each depth can do with.
TreePolicy::Plan TreePolicy::best_plan(int sequences) const {
  Plan best{0, 0.0, rate(sequences, 0, 0.0, 0.0)};
  double chain = 0.0, reach = 1.0;
  for (int depth = 1; depth <= options_.max_depth; ++depth) {
    reach *= acceptance_.conditional(depth - 1, 0);
    chain += reach;
    const double gained = acceptance_.drafts_gained(depth);
    const auto consider = [&](double nodes, double expected) {
      const double drafts = std::min(expected, double(depth));
      const double r = rate(sequences, depth, drafts, nodes);
      if (drafts > kLeastGain && r > best.rate) best = {depth, nodes, r};
    };
    consider(expected_nodes(depth), gained);
    consider(depth, std::min(chain, gained));
  }
  return best;
}

/// Drafts that could not pay even if all were accepted are tried, too, for what they take can have
/// been the machine's mood, or one hiccup: one level, the sooner the less that costs.
TreePolicy::PauseRule TreePolicy::pauses(int sequences) const {
  if (could_pay(sequences)) return {kFirstPause, kLongestPause, kTrialRounds};
  const double passes = draft_seconds(1) / cost_.seconds(sequences);
  const auto rounds = [&](double share, int least) {
    return int(std::clamp(passes / share, double(least), 1e6));
  };
  return {rounds(kFirstTrialShare, kFirstPause), rounds(kTrialShare, kLongestPause), 1};
}

/// Whether drafting would pay if every draft of a chain were accepted.
bool TreePolicy::could_pay(int sequences) const {
  const double plain = rate(sequences, 0, 0.0, 0.0);
  for (int depth = 1; depth <= options_.max_depth; ++depth) {
    if (rate(sequences, depth, depth, depth) > plain) return true;
  }
  return false;
}

/// Whether a sequence's drafts bring more than its rows, and its part in the drafting, cost.
bool TreePolicy::pays(const Plan& plan, int sequences, const SequenceState& state) const {
  if (sequences == 1 || state.rounds < kFirstRounds) return plan.depth > 0;
  const int rows = sequences + int(std::lround(sequences * plan.nodes));
  const double row = (cost_.seconds(rows) - cost_.seconds(sequences)) / (rows - sequences);
  const double draft = kDraftShare * draft_seconds(plan.depth) / sequences;
  return state.gained > plan.rate * (state.nodes * row + draft) + kLeastGain;
}

std::vector<int> TreePolicy::share_fixed(std::span<const Offer> offers, int row_budget) const {
  std::vector<int> counts(offers.size(), 0);
  int left = std::max(row_budget, 0);
  for (bool more = true; more && left > 0;) {
    more = false;
    for (size_t i = 0; i < offers.size() && left > 0; ++i) {
      const int size = offers[i].tree != nullptr ? offers[i].tree->size() : 0;
      if (counts[i] >= std::min(size, *options_.fixed_nodes)) continue;
      ++counts[i];
      --left;
      more = true;
    }
  }
  return counts;
}

std::vector<int> TreePolicy::choose(std::span<const Offer> offers, int other_rows, int row_budget,
                                    double draft_seconds) {
  if (options_.fixed_nodes) return share_fixed(offers, row_budget);
  std::vector<std::vector<float>> gains(offers.size());
  std::vector<int> least(offers.size(), 0);
  for (size_t i = 0; i < offers.size(); ++i) {
    if (offers[i].tree == nullptr) continue;
    const SequenceState& s = sequences_[offers[i].id];
    gains[i] = acceptance_.gains(*offers[i].tree);
    gains[i].resize(std::min(gains[i].size(), size_t(std::max(options_.max_nodes, 0))));
    const auto factor = float(leaning(s));
    for (size_t k = 0; k < gains[i].size(); ++k) {
      if (!offers[i].tree->nodes[k].probe) gains[i][k] = std::min(1.0f, gains[i][k] * factor);
    }
    if (s.trial && s.asked_depth > 0) least[i] = std::min(kTrialNodes, int(gains[i].size()));
  }
  std::vector<int> counts = choose_nodes(gains, other_rows, row_budget, draft_seconds, cost_);
  int used = std::accumulate(counts.begin(), counts.end(), 0);
  for (size_t i = 0; i < offers.size(); ++i) {
    while (counts[i] < least[i] && used < row_budget) ++counts[i], ++used;
    if (!gains[i].empty()) observe_nodes(sequences_[offers[i].id].asked_depth, counts[i]);
  }
  return counts;
}

void TreePolicy::observe_nodes(int asked_depth, int nodes) {
  nodes_ += kNodesRate * (nodes - nodes_);
  if (asked_depth <= 0) return;
  double& mean = nodes_at_depth_[size_t(std::min(asked_depth, Acceptance::kDepths))];
  mean = mean == 0.0 ? nodes : mean + kNodesRate * (nodes - mean);
}

void TreePolicy::observe_draft(const DraftLimits& limits, double seconds) {
  if (!(seconds >= 0.0) || !std::isfinite(seconds)) return;
  auto& f = draft_fit_;
  const double x = limits.max_depth;
  if (f.n > 4.0) seconds = std::min(seconds, 4.0 * draft_seconds(limits.max_depth) + 1e-4);
  seconds /= cost_.slowness();
  const double kept = 1.0 - 1.0 / kDraftMemory;
  f = {f.n * kept + 1, f.x * kept + x, f.y * kept + seconds, f.xx * kept + x * x,
       f.xy * kept + x * seconds};
}

double TreePolicy::draft_seconds(int depth) const {
  const auto& f = draft_fit_;
  if (depth <= 0 || f.n == 0.0) return 0.0;
  const double mean_x = f.x / f.n, mean_y = f.y / f.n;
  const double spread = f.xx - f.x * mean_x;
  // With one depth known, the time is taken as proportional to the levels.
  const double through_origin = mean_x > 0.0 ? mean_y / mean_x : 0.0;
  const double doubt = 0.5;  // of one level, squared
  const double slope = (f.xy - f.x * mean_y + doubt * through_origin) / (spread + doubt);
  const double bounded = std::clamp(slope, 0.0, through_origin);
  return cost_.slowness() * (mean_y + bounded * (depth - mean_x));
}

/// Which levels a round reached: as it turned out, and, where the drafter says what its drafts are
/// worth, as was to be expected of their `gains`. One round's luck says little about the next.
std::vector<double> TreePolicy::reached(const SequenceState& state, const DraftTree& tree,
                                        std::span<const float> gains,
                                        std::span<const int32_t> accepted) const {
  std::vector<double> levels(accepted.size(), 1.0);
  if (tree.empty() || tree.gains.size() != tree.nodes.size()) return levels;
  const std::vector<int> depths = tree.depths();
  std::vector<double> expected(size_t(std::ranges::max(depths)) + 1, 0.0);
  for (size_t i = 0; i < gains.size(); ++i) {
    if (!tree.nodes[i].probe) expected[size_t(depths[i])] += gains[i];
  }
  levels.resize(expected.size());
  for (size_t k = 0; k < levels.size(); ++k) {
    const double hoped = std::min(1.0, leaning(state) * expected[k]);
    levels[k] += kExpectationShare * (hoped - levels[k]);
  }
  return levels;
}

void TreePolicy::observe_outcome(SequenceId id, const DraftTree& tree,
                                 std::span<const int32_t> accepted) {
  SequenceState& s = sequences_[id];
  const std::vector<float> gains = acceptance_.gains(tree);
  if (s.asked_depth > 0) {
    acceptance_.observe_round(s.asked_depth, reached(s, tree, gains, accepted));
    const double share = std::max(kSequenceRate, 1.0 / ++s.rounds);
    s.gained += share * (double(accepted.size()) - s.gained);
    s.nodes += share * (double(tree.size()) - s.nodes);
  }
  s.asked_depth = 0;
  s.trial = false;
  if (tree.empty()) return;
  double expected = 0.0;
  for (int i = 0; i < tree.size(); ++i) {
    if (!tree.nodes[size_t(i)].probe) expected += gains[size_t(i)];
  }
  const double kept = std::max(0.0, 1.0 - expected / kTextMemory);
  s.accepted = s.accepted * kept + double(accepted.size());
  s.expected = s.expected * kept + expected;
  acceptance_.observe(tree, accepted);
}

}  // namespace convoke
