#include "runtime/drafters/pass_tree.h"

#include <algorithm>
#include <numeric>
#include <queue>

namespace convoke {
namespace {

// What gains less is not worth a row at any price.
constexpr double kLeastGain = 1e-3;

struct Guess {
  double probability = 0;  ///< that it is accepted
  int32_t parent = -1;     ///< index of an earlier guess
  int depth = 0;
  int rank = 0;
};

/// The likeliest guesses in descending order, so that every prefix is the best of its size. Of one
/// path its siblings' sums and its continuations never exceed it.
std::vector<Guess> likeliest(const PassTreeInput& input) {
  const auto probability = [&](int depth, int rank) {
    const bool exists = depth < input.max_depth && depth < int(input.conditional.size()) &&
                        rank < int(input.conditional[size_t(depth)].size());
    return exists ? double(input.conditional[size_t(depth)][size_t(rank)]) : 0.0;
  };
  std::vector<Guess> guesses;
  const auto less = [](const Guess& a, const Guess& b) {
    if (a.probability != b.probability) return a.probability < b.probability;
    return std::tie(a.depth, a.rank, a.parent) > std::tie(b.depth, b.rank, b.parent);
  };
  std::priority_queue<Guess, std::vector<Guess>, decltype(less)> next(less);
  const auto offer = [&](int32_t parent, int depth, int rank) {
    const double before = parent < 0 ? 1.0 : guesses[size_t(parent)].probability;
    const Guess guess{before * probability(depth, rank), parent, depth, rank};
    if (guess.probability >= kLeastGain) next.push(guess);
  };
  offer(-1, 0, 0);
  while (!next.empty() && int(guesses.size()) < input.max_nodes) {
    const Guess guess = next.top();
    next.pop();
    guesses.push_back(guess);
    offer(guess.parent, guess.depth, guess.rank + 1);
    offer(int32_t(guesses.size()) - 1, guess.depth + 1, 0);
  }
  return guesses;
}

/// A node of the tree to be: a guess, or a look-ahead row below one (-1: the root).
struct Item {
  double gain = 0;
  int32_t guess = -1;
  int32_t row = -1;  ///< index of the look-ahead embedding; -1: the guess itself
};

/// Appends the look-ahead rows that pay if the first `count` guesses are verified.
void offer_rows(std::span<const Guess> guesses, std::span<const double> hit_rates,
                std::vector<Item>& items) {
  std::vector<double> last(guesses.size() + 1);  // that a guess is the last accepted; [0]: the root
  last[0] = 1.0;
  for (size_t g = 0; g < guesses.size(); ++g) {
    last[g + 1] = guesses[g].probability;
    last[size_t(guesses[g].parent + 1)] -= guesses[g].probability;
  }
  for (size_t anchor = 0; anchor < last.size(); ++anchor) {
    double gain = last[anchor];
    for (size_t row = 0; row < hit_rates.size(); ++row) {
      gain *= hit_rates[row];
      if (gain < kLeastGain) break;
      items.push_back({gain, int32_t(anchor) - 1, int32_t(row)});
    }
  }
}

/// The best tree that verifies exactly these guesses; parents come before their children.
std::vector<Item> items_for(std::span<const Guess> guesses, const PassTreeInput& input) {
  std::vector<Item> rows;
  offer_rows(guesses, input.hit_rates, rows);
  const auto by_gain = [](const Item& a, const Item& b) { return a.gain > b.gain; };
  std::ranges::stable_sort(rows, by_gain);
  rows.resize(std::min(rows.size(), size_t(input.max_nodes) - guesses.size()));
  std::vector<Item> items;
  for (size_t g = 0; g < guesses.size(); ++g) {
    items.push_back({guesses[g].probability, int32_t(g), -1});
  }
  items.insert(items.end(), rows.begin(), rows.end());
  // A node gains no more than its parent and stands behind it here, so a stable sort keeps order.
  std::ranges::stable_sort(items, by_gain);
  return items;
}

double total_gain(const std::vector<Item>& items) {
  return std::accumulate(items.begin(), items.end(), 0.0,
                         [](double sum, const Item& item) { return sum + item.gain; });
}

/// Numbers of guesses that are tried: near ones hardly differ.
std::vector<size_t> counts_to_try(size_t most) {
  std::vector<size_t> counts;
  for (size_t count = 0; count < most; count += 1 + count / 4) counts.push_back(count);
  counts.push_back(most);
  return counts;
}

PassTree lay_out(std::span<const Guess> guesses, const std::vector<Item>& items,
                 const PassTreeInput& input) {
  PassTree made;
  std::vector<int32_t> node_of(guesses.size(), -1);
  std::vector<int32_t> chain_end(guesses.size() + 1, -1);  // last look-ahead row; [0]: the root's
  for (const Item& item : items) {
    const int32_t node = made.tree.size();
    made.tree.gains.push_back(float(item.gain));
    if (item.row < 0) {
      const Guess& guess = guesses[size_t(item.guess)];
      const RankedToken& token = input.rankings[size_t(guess.depth)][size_t(guess.rank)];
      const int32_t parent = guess.parent < 0 ? -1 : node_of[size_t(guess.parent)];
      made.tree.nodes.push_back({parent, token.token, false});
      node_of[size_t(item.guess)] = node;
      continue;
    }
    const int32_t anchor = item.guess < 0 ? -1 : node_of[size_t(item.guess)];
    int32_t& end = chain_end[size_t(item.guess + 1)];
    made.tree.nodes.push_back({item.row == 0 ? anchor : end, -1 - item.row, true});
    made.probes.push_back({node, anchor, item.row});
    end = node;
  }
  return made;
}

}  // namespace

PassTree make_pass_tree(const PassTreeInput& input) {
  const std::vector<Guess> guesses = likeliest(input);
  std::vector<Item> best;
  size_t best_count = 0;
  double best_gain = -1.0;
  for (size_t count : counts_to_try(guesses.size())) {
    std::vector<Item> items = items_for(std::span(guesses).first(count), input);
    const double gain = total_gain(items);
    if (gain <= best_gain) continue;
    best_gain = gain;
    best_count = count;
    best = std::move(items);
  }
  return lay_out(std::span(guesses).first(best_count), best, input);
}

}  // namespace convoke
