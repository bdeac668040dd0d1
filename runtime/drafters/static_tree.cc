#include "runtime/drafters/static_tree.h"

#include <algorithm>
#include <array>

namespace convoke {
namespace {

struct StaticNode {
  int parent = -1;
  int rank = 0;
};

// By depth: [0..3]; [00 01 02 10 11 20 21 30]; [000 001 002 010 011 020 021 100];
// [0000 0001 0002]; [00000 00001]. Nodes are numbered from 0 in this order.
constexpr std::array<StaticNode, kStaticTreeNodes> kTree{{
    {-1, 0}, {-1, 1}, {-1, 2}, {-1, 3},                                  // 0-3
    {0, 0},  {0, 1},  {0, 2},  {1, 0},  {1, 1}, {2, 0}, {2, 1}, {3, 0},  // 4-11
    {4, 0},  {4, 1},  {4, 2},  {5, 0},  {5, 1}, {6, 0}, {6, 1}, {7, 0},  // 12-19
    {12, 0}, {12, 1}, {12, 2},                                           // 20-22
    {20, 0}, {20, 1},                                                    // 23-24
}};

int find_static(int parent, int rank) {
  const auto found = std::ranges::find_if(
      kTree, [=](const StaticNode& n) { return n.parent == parent && n.rank == rank; });
  return found == kTree.end() ? -1 : int(found - kTree.begin());
}

}  // namespace

StaticPlaces find_static_places(std::span<const LivingTree::Node> nodes) {
  std::vector<int> place(nodes.size(), -1);
  StaticPlaces result{std::vector<char>(nodes.size(), 0), std::vector<char>(nodes.size(), 0)};
  for (size_t i = 0; i < nodes.size(); ++i) {
    const int32_t parent = nodes[i].parent;
    if (parent != LivingTree::kRoot && place[size_t(parent)] < 0) continue;
    place[i] = find_static(parent == LivingTree::kRoot ? -1 : place[size_t(parent)], nodes[i].rank);
    result.member[i] = place[i] >= 0;
    result.parent[i] = place[i] >= 0 && find_static(place[i], 0) >= 0;
  }
  return result;
}

}  // namespace convoke
