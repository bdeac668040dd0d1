#include "runtime/drafters/ngram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "kernels/check.h"

namespace convoke {
namespace {

using Match = NgramIndex::Match;

/// The same answer by reading the whole context: for each length, longest first, the `most` latest
/// places where the last n tokens stood, without those that match one token further, too.
std::vector<Match> scan(const std::vector<int32_t>& tokens, const NgramOptions& options, int most) {
  std::vector<Match> found;
  const int size = int(tokens.size());
  const auto alike = [&](int end, int n) {
    if (end < n || size < n) return false;
    for (int i = 1; i <= n; ++i) {
      if (tokens[size_t(end - i)] != tokens[size_t(size - i)]) return false;
    }
    return true;
  };
  for (int n = options.max_n; n >= options.min_n; --n) {
    int looked_at = 0;
    for (int end = size - 1; end >= 1 && looked_at < most; --end) {
      if (!alike(end, n)) continue;
      ++looked_at;
      if (n < options.max_n && alike(end, n + 1)) continue;
      found.push_back({end, n});
    }
  }
  return found;
}

TEST(NgramIndex, FindsWhatAScanOfTheContextFinds) {
  std::mt19937 random(1);
  for (int round = 0; round < 60; ++round) {
    NgramOptions options;
    options.max_n = 1 + int(random() % 5);
    options.min_n = 1 + int(random() % unsigned(options.max_n));
    const int most = 1 + int(random() % 6);
    const unsigned vocabulary = 1 + random() % 6;
    NgramIndex index(options);
    std::vector<Match> found;
    index.matches(most, found);
    EXPECT_TRUE(found.empty());
    for (int i = 0; i < 150; ++i) {
      index.append(int32_t(random() % vocabulary));
      index.matches(most, found);
      const auto expected = scan(index.tokens(), options, most);
      ASSERT_TRUE(found == expected) << "round " << round << " length " << i + 1;
    }
  }
}

TEST(NgramIndex, ManyDifferentTokensGrowTheTable) {
  std::mt19937 random(2);
  NgramIndex index({});
  std::vector<Match> found;
  for (int i = 0; i < 5000; ++i) index.append(int32_t(random() % 3000));
  for (int i = 0; i < 50; ++i) {
    index.append(index.tokens()[random() % 4000]);
    index.matches(8, found);
    const auto expected = scan(index.tokens(), {}, 8);
    ASSERT_TRUE(found == expected);
  }
}

std::vector<int32_t> path_to(const DraftTree& tree, int node) {
  std::vector<int32_t> path;
  for (; node >= 0; node = tree.nodes[size_t(node)].parent) {
    path.insert(path.begin(), tree.nodes[size_t(node)].token);
  }
  return path;
}

DraftTree propose(const std::vector<int32_t>& tokens, DraftLimits limits = {},
                  NgramOptions options = {}) {
  NgramDrafter drafter(options);
  drafter.open({7, tokens, int32_t(tokens.size()), {}});
  const SequenceId id = 7;
  return drafter.propose({&id, 1}, limits).at(0);
}

TEST(NgramDrafter, NothingIsGuessedWhereNothingWasSeenBefore) {
  EXPECT_TRUE(propose({}).empty());
  EXPECT_TRUE(propose({1}).empty());
  EXPECT_TRUE(propose({1, 2, 3}).empty());
  EXPECT_TRUE(propose({1, 2, 1}, {0, 8}).empty());
  EXPECT_TRUE(propose({1, 2, 1}, {8, 0}).empty());
}

TEST(NgramDrafter, TheContinuationOfTheLongestMatchComesFirst) {
  // "2 3" was followed by 4 5; the later "9 3" by 8.
  const auto tree = propose({1, 2, 3, 4, 5, 9, 3, 8, 2, 3}, {3, 2});
  EXPECT_EQ(tree, (DraftTree{{{-1, 4, false}, {0, 5, false}, {-1, 8, false}}}));
}

TEST(NgramDrafter, OfEquallyLongMatchesTheFrequentThenTheRecentComeFirst) {
  const std::vector<int32_t> tokens{1, 5, 1, 6, 1, 7, 1, 6, 2, 1};
  const auto tree = propose(tokens, {8, 1});
  EXPECT_EQ(tree, (DraftTree{{{-1, 6, false}, {-1, 7, false}, {-1, 5, false}}}));
}

TEST(NgramDrafter, ALoopIsContinuedBeyondTheEnd) {
  const auto tree = propose({9, 1, 2, 1, 2}, {6, 6});
  EXPECT_EQ(path_to(tree, 5), (std::vector<int32_t>{1, 2, 1, 2, 1, 2}));
}

TEST(NgramDrafter, EveryPathIsWhatFollowedSomewhereAndLimitsHold) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> tokens(random() % 80);
    for (int32_t& t : tokens) t = int32_t(random() % 4);
    const DraftLimits limits{int32_t(random() % 20), int32_t(random() % 7)};
    const auto tree = propose(tokens, limits);
    EXPECT_EQ(find_defect(tree, 4, 0), "");
    EXPECT_LE(tree.size(), limits.max_nodes);
    for (int depth : tree.depths()) EXPECT_LT(depth, limits.max_depth);
    for (int node = 0; node < tree.size(); ++node) {
      // With the last token before it, it stood in the context, or runs over its end.
      auto path = path_to(tree, node);
      path.insert(path.begin(), tokens.back());
      auto looped = tokens;
      bool found = false;
      for (size_t at = 0; at + 1 < tokens.size() && !found; ++at) {
        looped.resize(tokens.size());
        while (looped.size() < at + path.size()) {
          looped.push_back(looped[looped.size() - tokens.size() + at + 1]);
        }
        found = std::equal(path.begin(), path.end(), looped.begin() + ptrdiff_t(at));
      }
      EXPECT_TRUE(found) << "round " << round << " node " << node;
    }
  }
}

TEST(NgramDrafter, AdvancingEqualsOpeningWithEverything) {
  std::mt19937 random(4);
  std::vector<int32_t> tokens(200);
  for (int32_t& t : tokens) t = int32_t(random() % 5);
  NgramDrafter drafter({});
  drafter.open({1, {tokens.begin(), tokens.begin() + 20}, 20, {}});
  const SequenceId id = 1;
  for (size_t at = 20; at < tokens.size();) {
    const size_t count = std::min<size_t>(1 + random() % 4, tokens.size() - at);
    drafter.advance({1,
                     int32_t(at),
                     {tokens.begin() + ptrdiff_t(at), tokens.begin() + ptrdiff_t(at + count)},
                     {}});
    at += count;
    EXPECT_EQ(drafter.propose({&id, 1}, {}).at(0),
              propose({tokens.begin(), tokens.begin() + ptrdiff_t(at)}));
  }
}

TEST(NgramDrafter, SequencesAreApartAndUnknownOnesAreEmpty) {
  NgramDrafter drafter({});
  drafter.open({1, {1, 2, 1}, 3, {}});
  drafter.open({2, {1, 3, 1}, 3, {}});
  drafter.advance({9, 0, {4}, {}});  // never opened: ignored
  const std::vector<SequenceId> ids{2, 9, 1, 2};
  auto trees = drafter.propose(ids, {1, 1});
  ASSERT_EQ(trees.size(), 4u);
  EXPECT_EQ(trees[0], (DraftTree{{{-1, 3, false}}}));
  EXPECT_TRUE(trees[1].empty());
  EXPECT_EQ(trees[2], (DraftTree{{{-1, 2, false}}}));
  EXPECT_EQ(trees[3], trees[0]);
  drafter.open({1, {5, 6, 5}, 3, {}});  // opened again: starts afresh
  drafter.close(2);
  trees = drafter.propose(ids, {1, 1});
  EXPECT_TRUE(trees[0].empty());
  EXPECT_EQ(trees[2], (DraftTree{{{-1, 6, false}}}));
}

// --- the adversary ------------------------------------------------------------------------------

TEST(RandomDrafter, TreesAreValidVariedAndSometimesRight) {
  constexpr int kVocabulary = 50;
  const auto drafter = make_drafter(DrafterSpec::parse("random:7"), {.vocabulary = kVocabulary});
  std::mt19937 random(5);
  std::vector<int32_t> tokens(30);
  for (int32_t& t : tokens) t = int32_t(random() % 6);
  drafter->open({1, tokens, 30, {}});
  const SequenceId id = 1;
  int empty = 0, deep = 0, wide = 0, probes = 0, twins = 0, known = 0;
  for (int round = 0; round < 300; ++round) {
    const DraftLimits limits{1 + int32_t(random() % 32), 1 + int32_t(random() % 9)};
    const DraftTree tree = drafter->propose({&id, 1}, limits).at(0);
    ASSERT_EQ(find_defect(tree, kVocabulary, 0), "");
    ASSERT_LE(tree.size(), limits.max_nodes);
    const auto depths = tree.depths();
    for (int depth : depths) ASSERT_LT(depth, limits.max_depth);
    empty += tree.empty();
    deep += !depths.empty() && *std::ranges::max_element(depths) >= 5;
    wide += std::ranges::count(depths, 0) >= 8;
    for (int i = 0; i < tree.size(); ++i) {
      const DraftNode& node = tree.nodes[size_t(i)];
      probes += node.probe;
      known += node.parent < 0 && !node.probe && node.token < 6;
      for (int j = 0; j < i; ++j) twins += tree.nodes[size_t(j)] == node;
    }
    const auto token = int32_t(random() % 6);
    drafter->advance({1, 30 + round, {token}, {}});
  }
  for (int count : {empty, deep, wide, probes, twins, known}) EXPECT_GT(count, 10);
}

TEST(RandomDrafter, TheTreeDependsOnSeedSequenceAndLengthOnly) {
  const auto tree = [](const char* spec, SequenceId id, std::vector<int32_t> head, int32_t tail) {
    const auto drafter = make_drafter(DrafterSpec::parse(spec), {.vocabulary = 1000});
    drafter->open({id, std::move(head), 0, {}});
    drafter->advance({id, 0, {tail}, {}});
    drafter->propose({&id, 1}, {16, 8});
    return drafter->propose({&id, 1}, {16, 8}).at(0);
  };
  int different = 0;
  for (SequenceId id = 0; id < 20; ++id) {
    EXPECT_EQ(tree("random:1", id, {1, 2}, 3), tree("random:1", id, {1, 2}, 3));
    different += tree("random:1", id, {1, 2}, 3) != tree("random:2", id, {1, 2}, 3);
  }
  EXPECT_GT(different, 10);
}

// --- the command line ---------------------------------------------------------------------------

std::string complaint(const std::string& text) {
  try {
    DrafterSpec::parse(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "";
}

TEST(DrafterSpec, ParsesMethodAndArgument) {
  EXPECT_EQ(DrafterSpec::parse("none").method, "none");
  EXPECT_EQ(DrafterSpec::parse("ngram").text(), "ngram");
  const auto spec = DrafterSpec::parse("ngram:max_n=3,min_n=2");
  EXPECT_EQ(spec.method, "ngram");
  EXPECT_EQ(spec.argument, "max_n=3,min_n=2");
  EXPECT_EQ(spec.text(), "ngram:max_n=3,min_n=2");
  EXPECT_EQ(DrafterSpec::parse("random:18446744073709551615").method, "random");
}

TEST(DrafterSpec, MakesWhatItNames) {
  EXPECT_EQ(make_drafter(DrafterSpec::parse("none"), {.vocabulary = 10}), nullptr);
  EXPECT_EQ(make_drafter(DrafterSpec::parse("ngram"), {.vocabulary = 10})->name(), "ngram");
  EXPECT_EQ(make_drafter(DrafterSpec::parse("random"), {.vocabulary = 10})->name(), "random");
}

TEST(DrafterSpec, ErrorsSayWhatIsWrong) {
  const std::string unknown = complaint("eagel:dir");
  for (const char* part : {"eagel", "none", "ngram", "random"}) {
    EXPECT_NE(unknown.find(part), std::string::npos) << unknown;
  }
  EXPECT_NE(complaint("").find("unknown method ''"), std::string::npos);
  EXPECT_NE(complaint("none:x").find("takes no argument"), std::string::npos);
  EXPECT_NE(complaint("ngram:max_n").find("name=value"), std::string::npos);
  EXPECT_NE(complaint("ngram:max_m=3").find("max_m"), std::string::npos);
  EXPECT_NE(complaint("ngram:max_n=0").find("max_n is '0'"), std::string::npos);
  EXPECT_NE(complaint("ngram:max_n=17").find("'17'"), std::string::npos);
  EXPECT_NE(complaint("ngram:max_n=2x").find("'2x'"), std::string::npos);
  EXPECT_NE(complaint("ngram:min_n=4,max_n=2").find("greater"), std::string::npos);
  EXPECT_NE(complaint("random:-1").find("'-1'"), std::string::npos);
  EXPECT_NE(complaint("random:18446744073709551616").find("seed"), std::string::npos);
}

}  // namespace
}  // namespace convoke
