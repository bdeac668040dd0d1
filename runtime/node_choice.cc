#include "runtime/node_choice.h"

#include <algorithm>
#include <limits>

namespace convoke {
namespace {

/// Nodes of one tree that are best taken together.
struct Block {
  size_t tree = 0;
  int begin = 0, end = 0;
  double gain = 0.0;  ///< of all its nodes
  double merit() const { return gain / (end - begin); }
};

/// A tree in blocks of descending merit.
void append_blocks(const std::vector<float>& gains, size_t tree, std::vector<Block>& blocks) {
  const size_t first = blocks.size();
  for (int i = 0; i < int(gains.size()); ++i) {
    blocks.push_back({tree, i, i + 1, double(gains[size_t(i)])});
    while (blocks.size() > first + 1 && blocks.back().merit() > blocks.end()[-2].merit()) {
      const Block last = blocks.back();
      blocks.pop_back();
      blocks.back().end = last.end;
      blocks.back().gain += last.gain;
    }
  }
}

/// Trees by number of nodes, in the order in which they are taken.
std::vector<size_t> order_of_nodes(std::span<const std::vector<float>> gains) {
  std::vector<Block> blocks;
  for (size_t tree = 0; tree < gains.size(); ++tree) append_blocks(gains[tree], tree, blocks);
  std::ranges::stable_sort(blocks, std::greater<>(), &Block::merit);
  std::vector<size_t> order;
  for (const Block& block : blocks) {
    order.insert(order.end(), size_t(block.end - block.begin), block.tree);
  }
  return order;
}

}  // namespace

std::vector<int> choose_nodes(std::span<const std::vector<float>> gains, int other_rows,
                              int row_budget, double draft_seconds, const PassCost& cost) {
  std::vector<int> counts(gains.size(), 0);
  if (gains.empty()) return counts;
  std::vector<size_t> order = order_of_nodes(gains);
  order.resize(std::min(order.size(), size_t(std::max(row_budget, 0))));
  // tokens[n]: what a pass over the first n nodes yields.
  const int trees = int(gains.size());
  std::vector<double> tokens{double(trees)};
  for (size_t tree : order) {
    tokens.push_back(tokens.back() + gains[tree][size_t(counts[tree]++)]);
  }
  const auto best_by = [&](auto&& value) {
    size_t best = 0;
    double most = -std::numeric_limits<double>::infinity();
    for (size_t n = 0; n < tokens.size(); ++n) {
      const double v = value(n);
      if (v > most) best = n, most = v;
    }
    return best;
  };
  const auto rate = [&](size_t n) {
    return tokens[n] / (draft_seconds + cost.seconds(trees + int(n)));
  };
  size_t best = best_by(rate);
  if (other_rows > 0) {
    const double earned = rate(best);
    best = best_by(
        [&](size_t n) { return tokens[n] - earned * cost.seconds(other_rows + trees + int(n)); });
  }
  std::ranges::fill(counts, 0);
  for (size_t n = 0; n < best; ++n) ++counts[order[n]];
  return counts;
}

}  // namespace convoke
