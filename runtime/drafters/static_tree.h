// EAGLE-1's fixed tree: 25 candidates, named by the ranks of the children on their path.
#pragma once

#include <span>
#include <vector>

#include "runtime/drafters/living_tree.h"

namespace convoke {

inline constexpr int kStaticTreeNodes = 25;
inline constexpr int kStaticTreeDepth = 5;
inline constexpr int kStaticTreeChildren = 4;  ///< most children of one node

/// For each of the nodes whether it belongs to the fixed tree below the current root, and whether
/// it has children there.
struct StaticPlaces {
  std::vector<char> member;
  std::vector<char> parent;
};
StaticPlaces find_static_places(std::span<const LivingTree::Node> nodes);

}  // namespace convoke
