#include "runtime/drafters/lookahead.h"

#include <algorithm>
#include <span>

#include "kernels/check.h"
#include "runtime/drafters/registry.h"

namespace convoke {
namespace {

constexpr int kMostColumns = 64;
constexpr int kMostNgram = 16;
constexpr int kMostGuesses = 64;
constexpr size_t kPoolTokens = size_t{1} << 14;  ///< first tokens remembered per sequence
constexpr size_t kRecent = 1024;                 ///< tokens that the first guesses are drawn from
// Rates before anything was measured: of drafts, and of tokens gained per column computed.
constexpr double kPriorHit = 0.2;
constexpr double kPriorYield = 0.1;
constexpr double kMemory = 200.0;

uint64_t mix(uint64_t x) {  // the finalizer of splitmix64
  x = (x + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

LookaheadOptions LookaheadOptions::parse(const std::string& argument) {
  LookaheadOptions options;
  for (const auto& [key, value] : parse_options("lookahead", argument)) {
    if (key == "window") {
      options.window = int(parse_number("lookahead", key, value, 1, kMostColumns));
    } else if (key == "ngram") {
      options.ngram = int(parse_number("lookahead", key, value, 2, kMostNgram));
    } else if (key == "guesses") {
      options.guesses = int(parse_number("lookahead", key, value, 1, kMostGuesses));
    } else {
      throw_error(ErrorKind::kUsage,
                  "--drafter lookahead: unknown option '{}'; there are window, ngram, guesses",
                  key);
    }
  }
  return options;
}

// --- the pool -----------------------------------------------------------------------------------

void NgramPool::add(int32_t first, std::vector<int32_t> rest) {
  const auto [entry, is_new] = entries_.try_emplace(first);
  if (is_new) {
    entry->second.place = order_.insert(order_.end(), first);
  } else {
    order_.splice(order_.end(), order_, entry->second.place);
  }
  auto& followers = entry->second.followers;
  auto at = std::ranges::find(followers, rest);
  if (at == followers.end()) {
    if (followers.size() == per_token_) followers.pop_back();
    at = followers.insert(followers.end(), std::move(rest));
  }
  std::rotate(followers.begin(), at, at + 1);
  if (entries_.size() > most_tokens_) {
    entries_.erase(order_.front());
    order_.pop_front();
  }
}

const std::vector<std::vector<int32_t>>& NgramPool::after(int32_t token) const {
  static const std::vector<std::vector<int32_t>> none;
  const auto entry = entries_.find(token);
  return entry == entries_.end() ? none : entry->second.followers;
}

// --- the window ---------------------------------------------------------------------------------

JacobiWindow::JacobiWindow(const LookaheadOptions& options, const std::vector<int32_t>& context) {
  const size_t count = std::min(context.size(), kRecent);
  const auto recent = std::span(context).last(count);
  uint64_t draws = 0;
  const auto draw = [&] { return recent.empty() ? 0 : recent[mix(draws++) % recent.size()]; };
  for (int i = 0; i < options.window; ++i) {
    // Level l of a column and level l + 1 of the one before guess for the same position.
    Column column;
    if (i > 0) column.assign(columns_.back().begin() + 1, columns_.back().end());
    while (int(column.size()) + 1 < options.ngram) column.push_back(draw());
    columns_.push_back(std::move(column));
  }
}

std::vector<int32_t> JacobiWindow::completed(int column, int32_t pick) const {
  Column ngram = columns_[size_t(column)];
  ngram.push_back(pick);
  return ngram;
}

void JacobiWindow::advance(int column, int32_t pick) {
  Column& levels = columns_[size_t(column)];
  levels.erase(levels.begin());
  levels.push_back(pick);
}

// --- the drafter --------------------------------------------------------------------------------

void LookaheadDrafter::Rate::add(double x) {
  sum += x - sum / kMemory;
  weight += 1.0 - weight / kMemory;
}

void LookaheadDrafter::open(const DraftSequence& sequence) {
  sequences_.insert_or_assign(
      sequence.id, Sequence{.pool = NgramPool(options_.guesses, kPoolTokens),
                            .window = JacobiWindow(options_, sequence.tokens),
                            .last_token = sequence.tokens.empty() ? 0 : sequence.tokens.back()});
}

void LookaheadDrafter::advance(const DraftVerdict& verdict) {
  const auto found = sequences_.find(verdict.id);
  if (found == sequences_.end() || verdict.tokens.empty()) return;
  Sequence& sequence = found->second;
  learn(sequence, verdict);
  for (const ProbeResult& probe : verdict.probes) {
    if (size_t(probe.node) >= sequence.column_of_node.size() || probe.pick < 0) continue;
    const int32_t column = sequence.column_of_node[size_t(probe.node)];
    if (column < 0) continue;
    std::vector<int32_t> ngram = sequence.window.completed(column, probe.pick);
    const int32_t first = ngram.front();
    ngram.erase(ngram.begin());
    sequence.pool.add(first, std::move(ngram));
    sequence.window.advance(column, probe.pick);
  }
  sequence.last_token = verdict.tokens.back();
  sequence.tree = {};
  sequence.column_of_node.clear();
}

double LookaheadDrafter::hit_rate(size_t depth, size_t rank) const {
  return hits_[depth][std::min(rank, kRanks - 1)].value(kPriorHit);
}

void LookaheadDrafter::learn(const Sequence& sequence, const DraftVerdict& verdict) {
  if (verdict.verified == 0) return;
  int32_t parent = -1;
  for (size_t depth = 0; depth < verdict.tokens.size() && depth < hits_.size(); ++depth) {
    int32_t next = -1;
    size_t rank = 0;
    for (int32_t n = parent + 1; n < std::min(verdict.verified, sequence.tree.size()); ++n) {
      const DraftNode& node = sequence.tree.nodes[size_t(n)];
      if (node.parent != parent || node.probe) continue;
      const bool hit = node.token == verdict.tokens[depth];
      hits_[depth][std::min(rank++, kRanks - 1)].add(hit ? 1.0 : 0.0);
      if (hit) next = n;
    }
    if (next < 0) break;
    parent = next;
  }
  const auto columns = std::ranges::count_if(verdict.probes, [&](const ProbeResult& probe) {
    return size_t(probe.node) < sequence.column_of_node.size() &&
           sequence.column_of_node[size_t(probe.node)] >= 0;
  });
  if (columns > 0) yield_.add(double(verdict.tokens.size() - 1) / double(columns));
}

/// The pool's n-grams as a tree, with the gains that such drafts have had.
DraftTree LookaheadDrafter::guess(const Sequence& sequence, int max_nodes, int max_depth) const {
  std::vector<std::vector<int32_t>> paths = sequence.pool.after(sequence.last_token);
  for (auto& path : paths) path.resize(std::min(path.size(), size_t(max_depth)));
  DraftTree tree = tree_from_paths(paths, max_nodes);
  const std::vector<int> depth = tree.depths();
  std::vector<size_t> children(tree.nodes.size() + 1);
  for (int32_t n = 0; n < tree.size(); ++n) {
    const int32_t parent = tree.nodes[size_t(n)].parent;
    const double before = parent < 0 ? 1.0 : double(tree.gains[size_t(parent)]);
    const size_t rank = children[size_t(parent + 1)]++;
    tree.gains.push_back(float(before * hit_rate(size_t(depth[size_t(n)]), rank)));
  }
  return tree;
}

void LookaheadDrafter::append_window(Sequence& sequence, int columns, double gain) const {
  DraftTree& tree = sequence.tree;
  // Column by column: of a tree that is cut, the first columns are still whole.
  int32_t level_0 = -1;
  for (int i = 0; i < columns; ++i) {
    int32_t parent = level_0;
    for (int l = 0; l + 1 < options_.ngram; ++l) {
      tree.nodes.push_back({parent, sequence.window.token(l, i), true});
      tree.gains.push_back(float(gain));
      parent = tree.size() - 1;
      if (l == 0) level_0 = parent;
    }
    sequence.column_of_node.resize(tree.nodes.size(), -1);
    sequence.column_of_node.back() = i;
  }
}

void LookaheadDrafter::propose_one(Sequence& sequence, const DraftLimits& limits) const {
  const int levels = options_.ngram - 1;
  // The window has its rows, unless that leaves less than half for drafts.
  const int for_drafts =
      std::max(limits.max_nodes - options_.window * levels, (limits.max_nodes + 1) / 2);
  const DraftTree drafts = guess(sequence, for_drafts, limits.max_depth);
  const int columns = std::min(options_.window, (limits.max_nodes - drafts.size()) / levels);
  const double window_gain = yield_.value(kPriorYield) / levels;

  std::vector<int32_t> order(drafts.nodes.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = int32_t(i);
  std::ranges::stable_sort(order, std::greater(),
                           [&](int32_t n) { return drafts.gains[size_t(n)]; });
  sequence.tree = {};
  sequence.column_of_node.clear();
  std::vector<int32_t> place(drafts.nodes.size());
  bool window_done = false;
  const auto window = [&] {
    if (!std::exchange(window_done, true)) append_window(sequence, columns, window_gain);
  };
  for (int32_t n : order) {
    const float gain = drafts.gains[size_t(n)];
    if (double(gain) < window_gain) window();
    DraftNode node = drafts.nodes[size_t(n)];
    if (node.parent >= 0) node.parent = place[size_t(node.parent)];
    place[size_t(n)] = sequence.tree.size();
    sequence.tree.nodes.push_back(node);
    sequence.tree.gains.push_back(gain);
  }
  window();
  sequence.column_of_node.resize(sequence.tree.nodes.size(), -1);
}

std::vector<DraftTree> LookaheadDrafter::propose(std::span<const SequenceId> ids,
                                                 const DraftLimits& limits) {
  std::vector<DraftTree> trees(ids.size());
  if (limits.max_nodes <= 0 || limits.max_depth <= 0) return trees;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto found = sequences_.find(ids[i]);
    if (found == sequences_.end()) continue;
    propose_one(found->second, limits);
    trees[i] = found->second.tree;
  }
  return trees;
}

}  // namespace convoke
