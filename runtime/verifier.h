#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/draft_tree.h"

namespace convoke {

/// What the target made of a tree.
struct Verification {
  std::vector<int32_t> accepted;  ///< node indices, root's child first
  int32_t next_token = -1;        ///< the last pick: not a draft, always gained
};

/// Start at the root; while the pick at the current node is one of its candidate children, descend;
/// the last pick is the next token. `picks[0]` is the pick after the root, `picks[1 + i]` after
/// node i. With equal siblings the first wins.
Verification verify(const DraftTree& tree, std::span<const int32_t> picks);

}  // namespace convoke
