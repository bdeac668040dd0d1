#include "runtime/draft_tree.h"

#include <gtest/gtest.h>

#include "runtime/verifier.h"

namespace convoke {
namespace {

DraftTree sample() {
  // root -> 0:'5' -> 2:'7' ; root -> 1:'6' -> 3:'7' ; 1 -> 4: probe
  return {{{-1, 5, false}, {-1, 6, false}, {0, 7, false}, {1, 7, false}, {1, -1, true}}};
}

TEST(DraftTree, DepthsCountFromTheRootsChildren) {
  EXPECT_EQ(sample().depths(), (std::vector<int>{0, 0, 1, 1, 1}));
  EXPECT_TRUE(DraftTree{}.depths().empty());
}

TEST(DraftTree, FindsEachDefect) {
  EXPECT_EQ(find_defect(sample(), 10, 1), "");
  EXPECT_NE(find_defect({{{0, 1, false}}}, 10, 0), "");                 // own parent
  EXPECT_NE(find_defect({{{-2, 1, false}}}, 10, 0), "");                // before the root
  EXPECT_NE(find_defect({{{-1, 10, false}}}, 10, 0), "");               // outside vocabulary
  EXPECT_NE(find_defect({{{-1, -1, true}}}, 10, 0), "");                // no such look-ahead
  EXPECT_NE(find_defect({{{-1, -1, false}}}, 10, 1), "");               // candidate look-ahead
  EXPECT_NE(find_defect({{{-1, 1, true}, {0, 2, false}}}, 10, 0), "");  // below a probe
}

TEST(DraftTree, TruncateKeepsATree) {
  DraftTree tree = sample();
  truncate(tree, 100, 1);
  EXPECT_EQ(tree, (DraftTree{{{-1, 5, false}, {-1, 6, false}}}));
  tree = sample();
  truncate(tree, 3, 100);
  EXPECT_EQ(tree.size(), 3);
  EXPECT_EQ(find_defect(tree, 10, 1), "");
  truncate(tree, 0, 100);
  EXPECT_TRUE(tree.empty());
}

TEST(DraftTree, PathsWithCommonPrefixesShareNodes) {
  const DraftTree tree = tree_from_paths({{1, 2, 3}, {1, 4}, {1, 2, 5}, {}}, 10);
  EXPECT_EQ(
      tree,
      (DraftTree{{{-1, 1, false}, {0, 2, false}, {1, 3, false}, {0, 4, false}, {1, 5, false}}}));
  EXPECT_EQ(tree_from_paths({{1, 2, 3}, {4}}, 2).size(), 2);
}

TEST(Verifier, DescendsWhileThePickIsACandidateChild) {
  // picks: after root 6, after node0 -, node1 -> 7, node2 -, node3 -> 9
  const Verification v = verify(sample(), std::vector<int32_t>{6, 0, 7, 0, 9, 0});
  EXPECT_EQ(v.accepted, (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(v.next_token, 9);
}

TEST(Verifier, NothingAcceptedStillGainsAToken) {
  const Verification v = verify(sample(), std::vector<int32_t>{8, 0, 7, 0, 9, 0});
  EXPECT_TRUE(v.accepted.empty());
  EXPECT_EQ(v.next_token, 8);
  EXPECT_EQ(verify({}, std::vector<int32_t>{3}).next_token, 3);
}

TEST(Verifier, ProbesAreNeverAccepted) {
  const DraftTree tree{{{-1, 4, true}, {-1, 4, false}}};
  EXPECT_EQ(verify(tree, std::vector<int32_t>{4, 1, 2}).accepted, (std::vector<int32_t>{1}));
}

TEST(Verifier, WithEqualSiblingsTheFirstWins) {
  const DraftTree tree{{{-1, 4, false}, {-1, 4, false}, {1, 5, false}}};
  const Verification v = verify(tree, std::vector<int32_t>{4, 5, 5, 6});
  EXPECT_EQ(v.accepted, (std::vector<int32_t>{0}));
  EXPECT_EQ(v.next_token, 5);
}

}  // namespace
}  // namespace convoke
