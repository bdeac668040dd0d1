#include "runtime/drafters/living_tree.h"

#include <algorithm>

#include "kernels/check.h"

namespace convoke {

LivingTree::LivingTree(int slots) {
  // The lowest slot is handed out first.
  for (int slot = slots; slot-- > 0;) free_slots_.push_back(slot);
}

int32_t LivingTree::expand(int32_t node) {
  Node& n = nodes_[size_t(node)];
  CONVOKE_CHECK(n.slot < 0 && !free_slots_.empty());
  CONVOKE_CHECK(n.parent == kRoot || nodes_[size_t(n.parent)].slot >= 0);
  n.slot = free_slots_.back();
  free_slots_.pop_back();
  return n.slot;
}

void LivingTree::add_children(int32_t node, std::span<const Child> children) {
  const Node parent = nodes_[size_t(node)];
  CONVOKE_CHECK(parent.slot >= 0);
  for (size_t i = 0; i < children.size(); ++i) {
    Node child;
    child.parent = node;
    child.token = children[i].token;
    child.raw = children[i].raw;
    child.probability = children[i].probability;
    child.gain = parent.gain * child.probability;
    child.rank = int16_t(i);
    child.depth = int16_t(parent.depth + 1);
    child.guesses = child.depth;
    nodes_.push_back(child);
  }
}

void LivingTree::rank_root(std::span<const Child> children) {
  std::vector<char> keep(nodes_.size(), 0);
  std::vector<Node> added;
  for (size_t i = 0; i < children.size(); ++i) {
    const int32_t known = find_child(kRoot, children[i].token);
    Node& node = known != kRoot ? nodes_[size_t(known)] : added.emplace_back();
    if (known != kRoot) keep[size_t(known)] = 1;
    node.token = children[i].token;
    node.raw = children[i].raw;
    node.probability = children[i].probability;
    node.rank = int16_t(i);
    node.guesses = 0;
  }
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].parent != kRoot) keep[i] = keep[size_t(nodes_[i].parent)];
  }
  compact(keep, kRoot);
  nodes_.insert(nodes_.end(), added.begin(), added.end());
  root_ranked_ = true;
  refresh_gains();
}

std::vector<int32_t> LivingTree::frontier(int count, int max_depth, float min_gain) const {
  std::vector<int32_t> open;
  for (int32_t i = 0; i < int32_t(nodes_.size()); ++i) {
    const Node& n = nodes_[size_t(i)];
    if (n.slot < 0 && n.depth < max_depth && n.gain >= min_gain) open.push_back(i);
  }
  const size_t kept = size_t(std::clamp(count, 0, std::min(int(open.size()), free_slots())));
  std::ranges::partial_sort(open, open.begin() + ptrdiff_t(kept), [this](int32_t a, int32_t b) {
    const float x = nodes_[size_t(a)].gain, y = nodes_[size_t(b)].gain;
    return x != y ? x > y : a < b;
  });
  open.resize(kept);
  return open;
}

void LivingTree::path(int32_t node, std::vector<int32_t>& slots,
                      std::vector<int32_t>& tokens) const {
  slots.clear();
  tokens.clear();
  for (int32_t i = node; i != kRoot; i = nodes_[size_t(i)].parent) {
    slots.push_back(nodes_[size_t(i)].slot);
    tokens.push_back(nodes_[size_t(i)].token);
  }
  std::ranges::reverse(slots);
  std::ranges::reverse(tokens);
}

std::vector<int32_t> LivingTree::best_nodes(int count, int max_depth,
                                            std::span<const char> allowed) const {
  std::vector<int32_t> order;
  for (int32_t i = 0; i < int32_t(nodes_.size()); ++i) {
    if (nodes_[size_t(i)].depth >= max_depth) continue;
    if (allowed.empty() || allowed[size_t(i)]) order.push_back(i);
  }
  // A child never has more than its parent and comes after it, so this is topological, too.
  const size_t kept = size_t(std::clamp(count, 0, int(order.size())));
  std::ranges::partial_sort(order, order.begin() + ptrdiff_t(kept), [this](int32_t a, int32_t b) {
    const float x = nodes_[size_t(a)].gain, y = nodes_[size_t(b)].gain;
    return x != y ? x > y : a < b;
  });
  order.resize(kept);
  return order;
}

LivingTree::Part LivingTree::best_part(int max_nodes, int max_depth,
                                       std::span<const char> allowed) const {
  Part part;
  part.origin = best_nodes(max_nodes, max_depth, allowed);
  std::vector<int32_t> place(nodes_.size(), -1);
  for (int32_t i : part.origin) {
    const Node& n = nodes_[size_t(i)];
    place[size_t(i)] = int32_t(part.tree.nodes.size());
    const int32_t parent = n.parent == kRoot ? -1 : place[size_t(n.parent)];
    part.tree.nodes.push_back({parent, n.token, false});
    part.tree.gains.push_back(n.gain);
  }
  return part;
}

float LivingTree::threshold(int count, int max_depth, std::span<const char> allowed) const {
  if (count <= 0) return 1.0f;
  const std::vector<int32_t> best = best_nodes(count, max_depth, allowed);
  return int(best.size()) < count ? -1.0f : nodes_[size_t(best.back())].gain;
}

bool LivingTree::reroot(std::span<const int32_t> tokens) {
  if (tokens.empty()) return root_ranked_;
  int32_t node = kRoot;
  for (int32_t token : tokens) {
    node = find_child(node, token);
    if (node == kRoot) break;
  }
  if (node == kRoot || nodes_[size_t(node)].slot < 0) {
    clear();
    return false;
  }
  keep_subtree(node);
  return true;
}

void LivingTree::clear() {
  compact(std::vector<char>(nodes_.size(), 0), kRoot);
  root_ranked_ = false;
}

int32_t LivingTree::find_child(int32_t parent, int32_t token) const {
  for (int32_t i = parent + 1; i < int32_t(nodes_.size()); ++i) {
    if (nodes_[size_t(i)].parent == parent && nodes_[size_t(i)].token == token) return i;
  }
  return kRoot;
}

void LivingTree::keep_subtree(int32_t root) {
  std::vector<char> keep(nodes_.size(), 0);
  const auto levels = int16_t(nodes_[size_t(root)].depth + 1);
  for (size_t i = size_t(root) + 1; i < nodes_.size(); ++i) {
    const int32_t parent = nodes_[i].parent;
    keep[i] = parent == root || (parent != kRoot && keep[size_t(parent)]);
    nodes_[i].depth = int16_t(nodes_[i].depth - levels);
  }
  compact(keep, root);
  refresh_gains();
}

/// Drops what is not kept; kept children of `root` become the root's.
void LivingTree::compact(std::span<const char> keep, int32_t root) {
  std::vector<int32_t> moved(nodes_.size(), kRoot);
  size_t count = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (!keep[i]) {
      if (nodes_[i].slot >= 0) free_slots_.push_back(nodes_[i].slot);
      continue;
    }
    Node node = nodes_[i];
    node.parent = node.parent == root || node.parent == kRoot ? kRoot : moved[size_t(node.parent)];
    moved[i] = int32_t(count);
    nodes_[count++] = node;
  }
  nodes_.resize(count);
}

void LivingTree::refresh_gains() {
  for (Node& n : nodes_) {
    n.gain = (n.parent == kRoot ? 1.0f : nodes_[size_t(n.parent)].gain) * n.probability;
  }
}

}  // namespace convoke
