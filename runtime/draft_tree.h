// The one format for drafts: EAGLE trees, chains, n-gram continuations, Medusa paths, look-ahead
// rows, and the empty tree of plain decoding.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace convoke {

struct DraftNode {
  int32_t parent = -1;  ///< index of an earlier node; -1 = the last committed token
  int32_t token = 0;    ///< >= 0 vocabulary id; negative: look-ahead embedding -1 - token
  bool probe = false;   ///< evaluated but never accepted; its pick goes back to the drafter

  bool operator==(const DraftNode&) const = default;
};

/// Nodes in topological order (parents first). With L committed tokens (prompt and output), a child
/// of the root stands at absolute position L, its children at L + 1, and so on.
struct DraftTree {
  std::vector<DraftNode> nodes;
  /// What each node is expected to gain, in tokens, as the drafter sees it: for a candidate the
  /// probability that it is accepted (never more than its parent's), for a probe what its answer
  /// is worth in the next pass. Nodes come in descending order of it as far as topological order
  /// lets them, so every prefix is the best tree of its size. Empty: unknown.
  std::vector<float> gains;

  bool empty() const { return nodes.empty(); }
  int size() const { return int(nodes.size()); }
  /// Depth of every node, children of the root having depth 0.
  std::vector<int> depths() const;
  bool operator==(const DraftTree&) const = default;
};

/// The first thing wrong with a tree from a peer (parent not before child, token outside the
/// vocabulary, candidate with a look-ahead token or under a probe), or empty.
std::string find_defect(const DraftTree& tree, int vocabulary, int lookahead_count);

/// Keeps the first `max_nodes` nodes that are no deeper than `max_depth` levels. Topological order
/// makes every prefix a tree. Returns the former index of each kept node.
std::vector<int32_t> truncate(DraftTree& tree, int max_nodes, int max_depth);

/// Merges token paths into a tree; common prefixes become one node. At most `max_nodes` nodes,
/// paths taken in order.
DraftTree tree_from_paths(const std::vector<std::vector<int32_t>>& paths, int max_nodes);

}  // namespace convoke
