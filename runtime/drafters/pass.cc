#include "runtime/drafters/pass.h"

#include <algorithm>

#include "kernels/check.h"
#include "runtime/drafters/registry.h"
#include "runtime/lookahead_table.h"

namespace convoke {
namespace {

// Look-ahead rows of random embeddings if their number is not given.
constexpr int kRandomLookahead = 8;
// So many trials are remembered; before the first ones a row is taken to hit every other time.
constexpr double kMemory = 200.0;
constexpr double kPriorTrials = 4.0;
constexpr double kPriorRate = 0.5;

/// The accepted node that `token` names below `parent`.
int32_t child(const DraftTree& tree, int32_t parent, int32_t token) {
  for (int32_t n = parent + 1; n < tree.size(); ++n) {
    const DraftNode& node = tree.nodes[size_t(n)];
    if (node.parent == parent && node.token == token && !node.probe) return n;
  }
  return -1;
}

}  // namespace

PassOptions PassOptions::parse(const std::string& argument) {
  PassOptions options;
  const size_t comma = std::min(argument.find(','), argument.size());
  const std::string directory = argument.substr(0, comma);
  if (directory.empty()) {
    throw_error(ErrorKind::kUsage,
                "--drafter pass needs the directory of its embeddings: pass:DIR[,OPTIONS] "
                "(pass:random measures costs)");
  }
  if (directory != "random") options.directory = directory;
  const std::string rest = comma < argument.size() ? argument.substr(comma + 1) : "";
  for (const auto& [key, value] : parse_options("pass", rest)) {
    if (key == "mode") {
      if (value != "one-pass" && value != "two-pass") {
        throw_error(ErrorKind::kUsage,
                    "--drafter pass: mode is '{}', expected one-pass or two-pass", value);
      }
      options.two_pass = value == "two-pass";
    } else if (key == "lookahead") {
      options.lookahead = int(parse_number("pass", key, value, 1, kMaxLookahead));
    } else if (key == "candidates") {
      options.candidates = int(parse_number("pass", key, value, 1, kMaxRanked));
    } else {
      throw_error(ErrorKind::kUsage,
                  "--drafter pass: unknown option '{}'; there are mode, lookahead, candidates",
                  key);
    }
  }
  return options;
}

int pass_lookahead(const PassOptions& options, const ModelConfig& target) {
  if (options.directory.empty()) {
    return options.lookahead > 0 ? options.lookahead : kRandomLookahead;
  }
  const int count = lookahead_count(options.directory, target);
  if (options.lookahead > count) {
    throw_error(ErrorKind::kModel,
                "--drafter pass: lookahead is {}, but {} has {} look-ahead embeddings",
                options.lookahead, options.directory.string(), count);
  }
  return options.lookahead > 0 ? options.lookahead : count;
}

PassDrafter::PassDrafter(const PassOptions& options, int lookahead)
    : options_(options), lookahead_(lookahead) {
  for (auto& hits : hits_) hits.resize(size_t(lookahead));
}

double PassDrafter::hit_rate(int lookahead, bool sampled) const {
  const Hits& h = hits_[sampled ? 1 : 0].at(size_t(lookahead));
  return (h.hits + kPriorTrials * kPriorRate) / (h.trials + kPriorTrials);
}

std::span<const PassDrafter::Ranking> PassDrafter::Sequence::rankings() const {
  const auto past = std::min(size_t(distance()), stock.rankings.size());
  return std::span(stock.rankings).subspan(past);
}

void PassDrafter::open(const DraftSequence& sequence) {
  Sequence& s = sequences_[sequence.id];
  s = {};
  s.length = int32_t(sequence.tokens.size());
  s.temperature = sequence.sampling.temperature;
}

void PassDrafter::advance(const DraftVerdict& verdict) {
  const auto found = sequences_.find(verdict.id);
  if (found == sequences_.end() || verdict.tokens.empty()) return;
  Sequence& sequence = found->second;
  learn(sequence, verdict);
  const bool fresh = restock(sequence, verdict);
  // As published, a pass of look-ahead rows follows every pass that verifies.
  if (options_.two_pass && verdict.verified > 0 && !fresh) sequence.stock = {};
  sequence.length = verdict.base_length + int32_t(verdict.tokens.size());
  sequence.last = {};
  if (verdict.verified > 0) {
    ++counts_.outcomes;
    counts_.outcomes_in_tree += fresh ? 1 : 0;
  }
}

void PassDrafter::learn(const Sequence& sequence, const DraftVerdict& verdict) {
  const auto rankings = sequence.rankings();
  // The rows' drafts up to and including the one that failed were put to the test.
  const size_t tested = std::min(verdict.tokens.size(), rankings.size());
  for (size_t d = 0; d < tested; ++d) {
    const int index = sequence.distance() + int(d);
    raw_probabilities(rankings[d], sequence.temperature, raw_);
    for (size_t r = 0; r < rankings[d].size(); ++r) {
      calibration_.learn({.raw = raw_[r],
                          .rank = int(r),
                          .depth = index,
                          .hit = rankings[d][r].token == verdict.tokens[d]},
                         sequence.sampled());
    }
    if (verdict.verified == 0) continue;
    Hits& h = hits_[sequence.sampled() ? 1 : 0].at(size_t(index));
    h.hits += (d + 1 < verdict.tokens.size()) - h.hits / kMemory;
    h.trials += 1.0 - h.trials / kMemory;
  }
}

/// Takes what the look-ahead rows of the last accepted node say. Without any (they were cut, or the
/// tree came late) what is left of the older stock still holds for its positions.
bool PassDrafter::restock(Sequence& sequence, const DraftVerdict& verdict) {
  if (verdict.verified == 0) return false;
  int32_t last = -1;
  for (size_t i = 0; i + 1 < verdict.tokens.size(); ++i) {
    last = child(sequence.last.tree, last, verdict.tokens[i]);
    if (last < 0) return false;
  }
  std::vector<Ranking> rankings;
  auto result = verdict.probes.begin();
  for (const PassProbe& probe : sequence.last.probes) {
    if (probe.anchor != last || probe.index != int32_t(rankings.size())) continue;
    result = std::find_if(result, verdict.probes.end(),
                          [&](const ProbeResult& r) { return r.node == probe.node; });
    if (result == verdict.probes.end()) break;
    Ranking& ranking = rankings.emplace_back(result->ranked);
    if (ranking.empty()) ranking.push_back({0.0f, result->pick});
    std::erase_if(ranking, [](const RankedToken& r) { return r.token < 0; });
  }
  if (rankings.empty()) return false;
  sequence.stock = {verdict.base_length + int32_t(verdict.tokens.size()), std::move(rankings)};
  return true;
}

PassTree PassDrafter::make_tree(const Sequence& sequence, const DraftLimits& limits) {
  const auto rankings = sequence.rankings();
  const int most =
      limits.top_k > 0 ? std::min(options_.candidates, limits.top_k) : options_.candidates;
  std::vector<std::vector<float>> conditional(rankings.size());
  for (size_t d = 0; d < rankings.size(); ++d) {
    raw_probabilities(rankings[d], sequence.temperature, raw_);
    conditional[d].resize(raw_.size());
    calibration_.estimate(raw_, sequence.distance() + int(d), sequence.sampled(), conditional[d]);
    conditional[d].resize(std::min(conditional[d].size(), size_t(most)));
  }
  std::vector<double> rates;
  const bool verify_only = options_.two_pass && !rankings.empty();
  for (int i = 0; i < lookahead_ && !verify_only; ++i) {
    rates.push_back(hit_rate(i, sequence.sampled()));
  }
  return make_pass_tree({.rankings = rankings,
                         .conditional = conditional,
                         .hit_rates = rates,
                         .max_nodes = limits.max_nodes,
                         .max_depth = limits.max_depth});
}

std::vector<DraftTree> PassDrafter::propose(std::span<const SequenceId> ids,
                                            const DraftLimits& limits) {
  std::vector<DraftTree> trees(ids.size());
  if (limits.max_nodes <= 0 || limits.max_depth <= 0) return trees;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto found = sequences_.find(ids[i]);
    if (found == sequences_.end()) continue;
    found->second.last = make_tree(found->second, limits);
    trees[i] = found->second.last.tree;
  }
  return trees;
}

}  // namespace convoke
