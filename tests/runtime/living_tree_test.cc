#include "runtime/drafters/living_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace convoke {
namespace {

using Path = std::vector<int32_t>;
using Children = std::vector<LivingTree::Child>;

TEST(LivingTree, StartsUnranked) {
  LivingTree tree(4);
  EXPECT_FALSE(tree.root_ranked());
  EXPECT_FALSE(tree.has_children());
  EXPECT_TRUE(tree.frontier(3, 8).empty());
  EXPECT_TRUE(tree.best_part(5, 5).tree.empty());
  EXPECT_FALSE(tree.reroot(Path{1}));
  tree.rank_root({});
  EXPECT_TRUE(tree.root_ranked());
  EXPECT_FALSE(tree.has_children());
}

TEST(LivingTree, GrowsAtItsBestNodesAndSendsThePrefixes) {
  LivingTree tree(4);
  tree.rank_root(Children{{5, 0.6f, 0.6f}, {6, 0.3f, 0.3f}});
  EXPECT_EQ(tree.frontier(8, 8), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(tree.frontier(8, 8, 0.5f), (std::vector<int32_t>{0}));
  tree.expand(0);
  tree.add_children(0, Children{{7, 0.9f, 0.9f}, {8, 0.1f, 0.1f}});
  const auto part = tree.best_part(3, 8);
  EXPECT_EQ(part.tree.nodes,
            (std::vector<DraftNode>{{-1, 5, false}, {0, 7, false}, {-1, 6, false}}));
  EXPECT_FLOAT_EQ(part.tree.gains[1], 0.54f);
  EXPECT_EQ(part.origin, (std::vector<int32_t>{0, 2, 1}));
  EXPECT_EQ(tree.best_part(9, 1).tree.size(), 2);
  EXPECT_FLOAT_EQ(tree.threshold(3, 8), 0.3f);
  EXPECT_LT(tree.threshold(5, 8), 0.0f);
}

TEST(LivingTree, RerootsAtExpandedNodesOnly) {
  LivingTree tree(4);
  tree.rank_root(Children{{5, 0.6f, 0.6f}, {6, 0.3f, 0.3f}});
  tree.expand(0);
  tree.add_children(0, Children{{7, 0.5f, 0.5f}});
  tree.expand(2);
  tree.add_children(2, Children{{9, 0.5f, 0.5f}});
  EXPECT_EQ(tree.free_slots(), 2);
  LivingTree other = tree;
  EXPECT_TRUE(tree.reroot(Path{5, 7}));
  EXPECT_EQ(tree.best_part(9, 9).tree.nodes, (std::vector<DraftNode>{{-1, 9, false}}));
  EXPECT_FLOAT_EQ(tree.nodes()[0].gain, 0.5f);
  EXPECT_EQ(tree.free_slots(), 4);
  EXPECT_FALSE(other.reroot(Path{6})) << "not expanded: its children are unknown";
  EXPECT_FALSE(other.has_children());
  EXPECT_EQ(other.free_slots(), 4);
}

/// The same tree in the plainest way: a map from paths.
struct NaiveTree {
  struct Entry {
    double probability = 0;
    int32_t slot = -1;
  };
  std::map<Path, Entry> nodes;

  double gain(const Path& path) const {
    double g = 1;
    for (size_t n = 1; n <= path.size(); ++n) {
      g *= nodes.at(Path(path.begin(), path.begin() + long(n))).probability;
    }
    return g;
  }
  void rank_root(const Children& children) {
    std::map<Path, Entry> kept;
    for (const auto& child : children) {
      for (const auto& [path, entry] : nodes) {
        if (path[0] == child.token) kept[path] = entry;
      }
      kept[{child.token}].probability = child.probability;
    }
    nodes = kept;
  }
  bool reroot(const Path& tokens) {
    const auto found = nodes.find(tokens);
    const bool expanded = found != nodes.end() && found->second.slot >= 0;
    std::map<Path, Entry> kept;
    for (const auto& [path, entry] : nodes) {
      if (expanded && path.size() > tokens.size() &&
          std::equal(tokens.begin(), tokens.end(), path.begin())) {
        kept[Path(path.begin() + long(tokens.size()), path.end())] = entry;
      }
    }
    nodes = kept;
    return expanded;
  }
  int used_slots() const {
    return int(std::ranges::count_if(nodes, [](const auto& n) { return n.second.slot >= 0; }));
  }
};

Path path_of(const LivingTree& tree, int32_t node) {
  Path slots, tokens;
  tree.path(node, slots, tokens);
  return tokens;
}

void expect_same(const LivingTree& tree, const NaiveTree& naive, int slots) {
  ASSERT_EQ(tree.nodes().size(), naive.nodes.size());
  std::set<int32_t> used;
  for (int32_t i = 0; i < int32_t(tree.nodes().size()); ++i) {
    const auto& n = tree.nodes()[size_t(i)];
    const Path path = path_of(tree, i);
    ASSERT_TRUE(naive.nodes.contains(path));
    EXPECT_LT(n.parent, i);
    EXPECT_EQ(n.depth + 1, int(path.size()));
    EXPECT_EQ(n.slot, naive.nodes.at(path).slot);
    EXPECT_NEAR(n.gain, naive.gain(path), 1e-5);
    EXPECT_TRUE(n.slot < 0 || used.insert(n.slot).second) << "one slot, two nodes";
  }
  EXPECT_EQ(tree.free_slots(), slots - naive.used_slots());
}

void expect_best_part(const LivingTree& tree, const NaiveTree& naive, int max_nodes,
                      int max_depth) {
  const auto part = tree.best_part(max_nodes, max_depth);
  EXPECT_EQ(find_defect(part.tree, 1000, 0), "");
  std::vector<double> gains;
  for (const auto& [path, entry] : naive.nodes) {
    if (int(path.size()) <= max_depth) gains.push_back(naive.gain(path));
  }
  std::ranges::sort(gains, std::greater<>());
  ASSERT_EQ(part.tree.size(), std::min(max_nodes, int(gains.size())));
  for (int i = 0; i < part.tree.size(); ++i) {
    EXPECT_NEAR(part.tree.gains[size_t(i)], gains[size_t(i)], 1e-5);
    EXPECT_EQ(part.tree.nodes[size_t(i)].token, tree.nodes()[size_t(part.origin[size_t(i)])].token);
  }
}

Children random_children(std::mt19937& random) {
  Children children;
  float rest = 1.0f;
  for (int token = int(random() % 3); token < 8; token += 1 + int(random() % 3)) {
    const float p = rest * float(random() % 1000) / 1000.0f;
    rest -= p;
    children.push_back({token, p, p});
  }
  std::ranges::stable_sort(children, std::greater<>(), &LivingTree::Child::probability);
  return children;
}

TEST(LivingTree, AgreesWithANaiveModelUnderRandomUse) {
  constexpr int kSlots = 24;
  for (uint32_t seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    LivingTree tree(kSlots);
    NaiveTree naive;
    for (int step = 0; step < 200; ++step) {
      const int action = int(random() % 10);
      if (action < 6 && tree.root_ranked()) {
        for (int32_t node : tree.frontier(1 + int(random() % 4), 6)) {
          const Path path = path_of(tree, node);
          naive.nodes[path].slot = tree.expand(node);
          const Children children = random_children(random);
          tree.add_children(node, children);
          for (const auto& child : children) {
            Path below = path;
            below.push_back(child.token);
            naive.nodes[below].probability = child.probability;
          }
        }
      } else if (action < 8) {
        const Children children = random_children(random);
        tree.rank_root(children);
        naive.rank_root(children);
      } else {
        Path tokens;
        if (!tree.nodes().empty()) tokens = path_of(tree, int32_t(random() % tree.nodes().size()));
        if (tokens.empty() || random() % 4 == 0) tokens.push_back(int32_t(random() % 8));
        EXPECT_EQ(tree.reroot(tokens), naive.reroot(tokens));
      }
      expect_same(tree, naive, kSlots);
      expect_best_part(tree, naive, int(random() % 30), 1 + int(random() % 6));
      if (HasFatalFailure()) return;
    }
    tree.clear();
    EXPECT_EQ(tree.free_slots(), kSlots);
  }
}

}  // namespace
}  // namespace convoke
