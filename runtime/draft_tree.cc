#include "runtime/draft_tree.h"

#include <algorithm>

#include "kernels/check.h"

namespace convoke {

std::vector<int> DraftTree::depths() const {
  std::vector<int> depth(nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i) {
    depth[i] = nodes[i].parent < 0 ? 0 : depth[nodes[i].parent] + 1;
  }
  return depth;
}

std::string find_defect(const DraftTree& tree, int vocabulary, int lookahead_count) {
  if (!tree.gains.empty() && tree.gains.size() != tree.nodes.size()) {
    return fmt::format("{} gains for {} nodes", tree.gains.size(), tree.nodes.size());
  }
  for (int i = 0; i < tree.size(); ++i) {
    const DraftNode& node = tree.nodes[i];
    if (node.parent < -1 || node.parent >= i) {
      return fmt::format("node {} has parent {}, which is not an earlier node", i, node.parent);
    }
    if (node.token >= vocabulary || node.token < -lookahead_count) {
      return fmt::format(
          "node {} has token {}; the vocabulary has {} and there are {} look-ahead "
          "embeddings",
          i, node.token, vocabulary, lookahead_count);
    }
    if (!node.probe && node.token < 0) {
      return fmt::format("candidate node {} names a look-ahead embedding", i);
    }
    if (!node.probe && node.parent >= 0 && tree.nodes[node.parent].probe) {
      return fmt::format("candidate node {} hangs below probe {}", i, node.parent);
    }
  }
  return "";
}

std::vector<int32_t> truncate(DraftTree& tree, int max_nodes, int max_depth) {
  const std::vector<int> depth = tree.depths();
  std::vector<int32_t> new_index(tree.nodes.size(), -1);
  std::vector<int32_t> origin;
  for (int i = 0; i < tree.size() && int(origin.size()) < max_nodes; ++i) {
    if (depth[i] >= max_depth) continue;
    DraftNode node = tree.nodes[i];
    if (node.parent >= 0) node.parent = new_index[node.parent];
    new_index[i] = int32_t(origin.size());
    tree.nodes[origin.size()] = node;
    if (!tree.gains.empty()) tree.gains[origin.size()] = tree.gains[size_t(i)];
    origin.push_back(i);
  }
  tree.nodes.resize(origin.size());
  if (!tree.gains.empty()) tree.gains.resize(origin.size());
  return origin;
}

DraftTree tree_from_paths(const std::vector<std::vector<int32_t>>& paths, int max_nodes) {
  DraftTree tree;
  for (const auto& path : paths) {
    int32_t current = -1;
    for (int32_t token : path) {
      const auto same = std::find_if(tree.nodes.begin(), tree.nodes.end(), [&](const DraftNode& n) {
        return n.parent == current && n.token == token && !n.probe;
      });
      if (same != tree.nodes.end()) {
        current = int32_t(same - tree.nodes.begin());
        continue;
      }
      if (tree.size() >= max_nodes) break;
      tree.nodes.push_back({current, token, false});
      current = tree.size() - 1;
    }
  }
  return tree;
}

}  // namespace convoke
