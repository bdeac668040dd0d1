#include "runtime/verifier.h"

#include "kernels/check.h"

namespace convoke {

Verification verify(const DraftTree& tree, std::span<const int32_t> picks) {
  CONVOKE_CHECK_EQ(picks.size(), tree.nodes.size() + 1);
  Verification result;
  result.next_token = picks[0];
  int current = -1;
  // Topological order: the children of `current` come after it, so one pass over the nodes finds
  // the whole path.
  for (int i = 0; i < tree.size(); ++i) {
    const DraftNode& node = tree.nodes[i];
    if (node.probe || node.parent != current || node.token != result.next_token) continue;
    current = i;
    result.accepted.push_back(i);
    result.next_token = picks[1 + i];
  }
  return result;
}

}  // namespace convoke
