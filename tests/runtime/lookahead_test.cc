#include "runtime/drafters/lookahead.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "kernels/check.h"
#include "tests/support/scripted_target.h"

namespace convoke {
namespace {

using testing::ScriptedStep;
using testing::ScriptedTarget;
using Tokens = std::vector<int32_t>;

// --- the pool -----------------------------------------------------------------------------------

TEST(NgramPool, KeepsTheMostRecentOfEveryToken) {
  NgramPool pool(2, 100);
  EXPECT_TRUE(pool.after(1).empty());
  pool.add(1, {2, 3});
  pool.add(1, {4, 5});
  EXPECT_EQ(pool.after(1), (std::vector<Tokens>{{4, 5}, {2, 3}}));
  pool.add(1, {2, 3});  // seen again: the most recent, and still there once
  EXPECT_EQ(pool.after(1), (std::vector<Tokens>{{2, 3}, {4, 5}}));
  pool.add(1, {6, 7});
  EXPECT_EQ(pool.after(1), (std::vector<Tokens>{{6, 7}, {2, 3}}));
  EXPECT_TRUE(pool.after(2).empty());
}

TEST(NgramPool, ForgetsTokensNotAddedToForLong) {
  NgramPool pool(4, 3);
  for (int32_t token : {1, 2, 3}) pool.add(token, {0});
  pool.add(1, {9});
  pool.add(4, {0});
  EXPECT_EQ(pool.tokens(), 3u);
  EXPECT_TRUE(pool.after(2).empty()) << "the one added to least recently";
  EXPECT_EQ(pool.after(1).size(), 2u);
  for (int32_t token = 10; token < 1000; ++token) pool.add(token, {0});
  EXPECT_EQ(pool.tokens(), 3u);
}

// --- the window ---------------------------------------------------------------------------------

constexpr LookaheadOptions kSmall{.window = 4, .ngram = 4, .guesses = 3};  // 3 levels

std::vector<Tokens> columns_of(const JacobiWindow& window) {
  std::vector<Tokens> columns;
  for (int i = 0; i < kSmall.window; ++i) {
    columns.push_back({window.token(0, i), window.token(1, i), window.token(2, i)});
  }
  return columns;
}

TEST(JacobiWindow, StartsWithTokensOfTheContext) {
  const Tokens context{5, 6, 7, 8};
  const JacobiWindow window(kSmall, context), same(kSmall, context);
  EXPECT_EQ(columns_of(window), columns_of(same));
  std::set<int32_t> seen;
  for (const Tokens& column : columns_of(window)) {
    for (int32_t token : column) {
      EXPECT_NE(std::ranges::find(context, token), context.end());
      seen.insert(token);
    }
  }
  EXPECT_GT(seen.size(), 1u);
  // A column guesses for the positions of the next one, and one more.
  const auto columns = columns_of(window);
  for (size_t i = 1; i < columns.size(); ++i) {
    EXPECT_TRUE(std::equal(columns[i - 1].begin() + 1, columns[i - 1].end(), columns[i].begin()));
  }
  EXPECT_EQ(columns_of(JacobiWindow(kSmall, {})).front(), (Tokens{0, 0, 0}));
}

TEST(JacobiWindow, ColumnsMoveOnByALevel) {
  JacobiWindow window(kSmall, {5, 6, 7, 8});
  auto want = columns_of(window);
  EXPECT_EQ(window.completed(2, 33), (Tokens{want[2][0], want[2][1], want[2][2], 33}));
  window.advance(2, 33);
  want[2] = {want[2][1], want[2][2], 33};
  EXPECT_EQ(columns_of(window), want) << "the others were not computed and stay";
}

// --- the drafter --------------------------------------------------------------------------------

ScriptedTarget::Options scripted(int nodes, std::function<int32_t(const Tokens&)> next) {
  ScriptedTarget::Options options;
  options.vocabulary = 1000;
  options.limits = {.max_nodes = nodes, .max_depth = 8};
  options.next = std::move(next);
  return options;
}

int32_t successor(const Tokens& tokens) {
  return (tokens.back() + 1) % 40;
}

TEST(LookaheadDrafter, TheWindowIsAChainWithColumnsBelow) {
  LookaheadDrafter drafter(kSmall);
  ScriptedTarget target(drafter, scripted(12, successor), {5, 6, 7, 8});
  const DraftTree tree = target.step().proposed;
  ASSERT_EQ(tree.size(), 12);
  const JacobiWindow window(kSmall, {5, 6, 7, 8});
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(tree.nodes[size_t(3 * i)].parent, i == 0 ? -1 : 3 * (i - 1)) << "level 0";
    EXPECT_EQ(tree.nodes[size_t(3 * i + 1)].parent, 3 * i);
    EXPECT_EQ(tree.nodes[size_t(3 * i + 2)].parent, 3 * i + 1);
    for (int l = 0; l < 3; ++l) {
      EXPECT_TRUE(tree.nodes[size_t(3 * i + l)].probe);
      EXPECT_EQ(tree.nodes[size_t(3 * i + l)].token, window.token(l, i));
    }
  }
}

TEST(LookaheadDrafter, NgramsOfTheWindowBecomeDrafts) {
  // One column of one level: the n-grams are pairs. The target counts upwards.
  LookaheadDrafter drafter({.window = 1, .ngram = 2, .guesses = 2});
  ScriptedTarget target(drafter, scripted(8, successor), {3, 3});
  // The window is {3}; the target picks 4 after it: the pair 3 4. The sequence is 3 3 4.
  EXPECT_EQ(target.step().proposed.nodes, (std::vector<DraftNode>{{-1, 3, true}}));
  // The window is {4}, a guess for the position behind the root's successor: the pair 4 5.
  EXPECT_EQ(target.step().proposed.nodes, (std::vector<DraftNode>{{-1, 4, true}}));
  // Nothing is known about 5 yet; 5 6 is next, when 6 is the root.
  EXPECT_EQ(target.step().proposed.nodes, (std::vector<DraftNode>{{-1, 5, true}}));
  EXPECT_EQ(target.tokens(), (Tokens{3, 3, 4, 5, 6}));
}

TEST(LookaheadDrafter, ATextOfHabitsIsGuessed) {
  for (int nodes : {64, 24, 12}) {
    LookaheadDrafter drafter({});
    ScriptedTarget target(drafter, scripted(nodes, successor), {5, 6, 7, 8});
    int accepted = 0, steps = 0;
    while (target.tokens().size() < 400) {
      accepted += target.step().accepted;
      ++steps;
    }
    // After one round of the forty tokens, their n-grams are in the pool.
    EXPECT_GT(accepted, 2 * steps) << nodes << " nodes";
  }
}

TEST(LookaheadDrafter, AnyCutAndAnyLossChangesNothingButSpeed) {
  uint32_t state = 1;
  const auto draw = [&](uint32_t below) {
    state = state * 1664525u + 1013904223u;
    return int((state >> 8) % below);
  };
  const testing::FakeTarget chaos(1000);
  const auto next = [&](const Tokens& tokens) {
    // Mostly a habit, now and then a surprise that depends on everything before.
    const int32_t noise = chaos.next(tokens, 3);
    return noise % 7 == 0 ? noise % 40 : successor(tokens);
  };
  for (int nodes : {1, 3, 5, 17, 40}) {
    LookaheadDrafter drafter(kSmall);
    ScriptedTarget target(drafter, scripted(nodes, next), {5});
    int accepted = 0;
    for (int step = 0; step < 300; ++step) {
      const int keep = draw(3) == 0 ? draw(uint32_t(nodes) + 1) : nodes;
      const int depth = draw(4) == 0 ? draw(5) : 1 << 20;
      accepted += target.step(keep, depth).accepted;
    }
    if (nodes >= 17) {
      EXPECT_GT(accepted, 50) << nodes << " nodes";
    }
  }
}

TEST(LookaheadDrafter, SequencesComeAndGo) {
  LookaheadDrafter drafter(kSmall);
  drafter.open({.id = 1, .tokens = {1, 2, 3}, .prompt_tokens = 3});
  drafter.open({.id = 2, .tokens = {}, .prompt_tokens = 0});
  const std::vector<SequenceId> ids{2, 9, 1};
  auto trees = drafter.propose(ids, {});
  ASSERT_EQ(trees.size(), 3u);
  EXPECT_FALSE(trees[0].empty());
  EXPECT_TRUE(trees[1].empty());
  EXPECT_FALSE(trees[2].empty());
  EXPECT_TRUE(drafter.propose(ids, {.max_nodes = 0})[2].empty());
  drafter.advance({.id = 1, .base_length = 3});
  drafter.advance({.id = 9, .base_length = 3, .tokens = {4}});
  // Probes that no tree had are passed over.
  drafter.advance({.id = 1,
                   .base_length = 3,
                   .tokens = {4},
                   .verified = 3,
                   .probes = {{.node = 1000, .pick = 5}, {.node = -1, .pick = 5}}});
  EXPECT_FALSE(drafter.propose(ids, {})[2].empty());
  drafter.close(2);
  EXPECT_TRUE(drafter.propose(ids, {})[0].empty());
}

TEST(LookaheadOptions, AreParsed) {
  const LookaheadOptions plain = LookaheadOptions::parse("");
  EXPECT_EQ(plain.window, 7);
  EXPECT_EQ(plain.ngram, 5);
  EXPECT_EQ(plain.guesses, 7);
  const LookaheadOptions all = LookaheadOptions::parse("window=15,ngram=4,guesses=9");
  EXPECT_EQ(all.window, 15);
  EXPECT_EQ(all.ngram, 4);
  EXPECT_EQ(all.guesses, 9);
  for (const char* bad : {"window=0", "ngram=1", "guesses=65", "levels=3", "window"}) {
    EXPECT_THROW(LookaheadOptions::parse(bad), Error) << bad;
  }
}

}  // namespace
}  // namespace convoke
