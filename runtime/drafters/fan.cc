#include "runtime/drafters/fan.h"

#include "runtime/drafters/registry.h"

namespace convoke {

int FanDrafter::parse_nodes(const std::string& argument) {
  return int(parse_number("fan", "the number of nodes", argument, 1, 4095));
}

std::vector<DraftTree> FanDrafter::propose(std::span<const SequenceId> ids, const DraftLimits&) {
  // The limits are the user's wish for real drafters; here the count is the whole point.
  DraftTree tree;
  for (int i = 0; i < nodes_; ++i) tree.nodes.push_back({-1, i % vocabulary_, false});
  return std::vector<DraftTree>(ids.size(), tree);
}

}  // namespace convoke
