// One growing tree of guesses for one sequence. Its root is the last committed token. It is grown
// node by node, the best part of it is sent for verification, and what the target says re-roots
// it: the subtree under the committed tokens lives on, the rest is pruned.
//
// A node that was expanded (evaluated by the draft model, which yields its children) occupies a
// scratch slot of the model's cache until it is pruned or becomes the root.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/draft_tree.h"

namespace convoke {

class LivingTree {
 public:
  static constexpr int32_t kRoot = -1;

  struct Node {
    int32_t parent = kRoot;
    int32_t token = 0;
    float raw = 0.0f;          ///< the draft's own conditional probability
    float probability = 0.0f;  ///< estimated, given that the parent is accepted
    float gain = 0.0f;         ///< probability that the node is accepted
    int32_t slot = -1;         ///< >= 0 once expanded
    int16_t rank = 0;          ///< among its siblings, as the draft ranked them
    int16_t guesses = 0;       ///< between the ranking and the last true token it knew
    int16_t depth = 0;         ///< children of the root have 0
  };
  /// A child as it is added: in order of rank.
  struct Child {
    int32_t token = 0;
    float raw = 0.0f;
    float probability = 0.0f;  ///< in [0, 1]
  };

  explicit LivingTree(int slots);

  /// Parents come before their children. Indices are valid until reroot() or rank_root().
  std::span<const Node> nodes() const { return nodes_; }
  bool root_ranked() const { return root_ranked_; }  ///< its children are known (perhaps none)
  bool has_children() const { return root_ranked_ && !nodes_.empty(); }
  int free_slots() const { return int(free_slots_.size()); }

  /// Gives a node its slot: it is about to be evaluated. The node is unexpanded, its parent is
  /// expanded or the root, and there is a free slot.
  int32_t expand(int32_t node);
  /// The children of an expanded node without any.
  void add_children(int32_t node, std::span<const Child> children);
  /// The root's children from a new ranking. Nodes that are still ranked keep their subtrees.
  void rank_root(std::span<const Child> children);

  /// Unexpanded nodes of depth < max_depth and gain >= min_gain, best first, at most `count` and
  /// no more than there are free slots.
  std::vector<int32_t> frontier(int count, int max_depth, float min_gain = 0.0f) const;

  /// Slots of the node's ancestors and its own, the root's child first; and the tokens along them.
  void path(int32_t node, std::vector<int32_t>& slots, std::vector<int32_t>& tokens) const;

  /// The best `max_nodes` nodes of depth < max_depth; every prefix is the best tree of its size.
  /// `allowed`, if not empty, tells for each node whether it may take part (then its parent may).
  struct Part {
    DraftTree tree;
    std::vector<int32_t> origin;  ///< node of each tree node
  };
  Part best_part(int max_nodes, int max_depth, std::span<const char> allowed = {}) const;

  /// The gain that a further node has to beat to be among the best `count` of best_part(); less
  /// than 0 when there are fewer.
  float threshold(int count, int max_depth, std::span<const char> allowed = {}) const;

  /// Committed tokens walk down from the root. True if they lead to an expanded node: its subtree
  /// is all that stays. Otherwise the tree is empty and the root is not ranked.
  bool reroot(std::span<const int32_t> tokens);
  void clear();

 private:
  int32_t find_child(int32_t parent, int32_t token) const;
  void keep_subtree(int32_t root);
  void compact(std::span<const char> keep, int32_t root);
  void refresh_gains();
  std::vector<int32_t> best_nodes(int count, int max_depth, std::span<const char> allowed) const;

  std::vector<Node> nodes_;
  std::vector<int32_t> free_slots_;
  bool root_ranked_ = false;
};

}  // namespace convoke
