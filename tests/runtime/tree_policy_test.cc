#include "runtime/tree_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>

#include "kernels/check.h"
#include "runtime/node_choice.h"

namespace convoke {
namespace {

using Points = std::vector<PassCost::Point>;

PassCost cost_of(const std::function<double(int)>& seconds) {
  Points points;
  for (int rows = 1; rows <= 1024; rows *= 2) points.push_back({rows, seconds(rows)});
  return PassCost(points);
}
double memory_bound(int rows) {
  return 0.010 + 1e-6 * rows;
}
double compute_bound(int rows) {
  return 0.001 * rows;
}
double in_between(int rows) {
  return std::max(0.010, 0.0005 * rows);
}

TEST(PassCost, InterpolatesAndContinuesBeyondTheEnds) {
  const PassCost cost(Points{{16, 0.020}, {4, 0.010}, {8, 0.012}});
  EXPECT_EQ(cost.seconds(0), 0.0);
  EXPECT_DOUBLE_EQ(cost.seconds(1), 0.010);
  EXPECT_DOUBLE_EQ(cost.seconds(4), 0.010);
  EXPECT_DOUBLE_EQ(cost.seconds(6), 0.011);
  EXPECT_DOUBLE_EQ(cost.seconds(16), 0.020);
  EXPECT_DOUBLE_EQ(cost.seconds(24), 0.028);
  EXPECT_DOUBLE_EQ(PassCost(Points{{4, 0.010}}).seconds(100), 0.010);
  EXPECT_GT(PassCost().seconds(1), 0.0);
}

TEST(PassCost, NeverCostsLessForMoreRows) {
  const PassCost cost(Points{{1, 0.010}, {2, 0.008}, {4, 0.009}, {8, 0.020}});
  for (int rows = 1; rows < 30; ++rows) EXPECT_LE(cost.seconds(rows), cost.seconds(rows + 1));
}

TEST(PassCost, ADisturbedPointDoesNotMakeOthersDear) {
  const PassCost cost(Points{{1, 0.010}, {2, 0.023}, {4, 0.012}, {8, 0.020}});
  EXPECT_DOUBLE_EQ(cost.seconds(1), 0.010);
  EXPECT_DOUBLE_EQ(cost.seconds(2), 0.012);
  EXPECT_DOUBLE_EQ(cost.seconds(4), 0.012);
  EXPECT_DOUBLE_EQ(cost.seconds(8), 0.020);
}

TEST(PassCost, RefusesWhatCannotBe) {
  EXPECT_THROW(PassCost(Points{{0, 1.0}}), Error);
  EXPECT_THROW(PassCost(Points{{1, 0.0}}), Error);
  EXPECT_THROW(PassCost(Points{{1, std::nan("")}}), Error);
}

TEST(PassCost, FollowsWhatPassesTake) {
  PassCost cost = cost_of(memory_bound);
  for (int i = 0; i < 400; ++i) {
    for (int rows : {1, 7, 24, 100}) cost.observe(rows, 0.004 * std::sqrt(rows));
  }
  for (int rows : {1, 7, 24, 100}) {
    EXPECT_NEAR(cost.seconds(rows) / (0.004 * std::sqrt(rows)), 1.0, 0.15) << rows;
  }
}

TEST(PassCost, ForgetsAHiccup) {
  PassCost cost = cost_of(memory_bound);
  cost.observe(8, 100.0);
  EXPECT_LT(cost.seconds(8), 1.06 * memory_bound(8));
  cost.observe(8, -1.0);
  cost.observe(8, std::nan(""));
  cost.observe(0, 1.0);
  EXPECT_LT(cost.seconds(8), 1.06 * memory_bound(8));
}

TEST(PassCost, LearnsWithoutMeasurements) {
  PassCost cost;
  for (int i = 0; i < 200; ++i) {
    for (int rows : {1, 4, 16, 64}) cost.observe(rows, compute_bound(rows));
  }
  for (int rows : {1, 4, 16, 64}) EXPECT_NEAR(cost.seconds(rows) / compute_bound(rows), 1, 0.1);
}

// ---- choice of nodes -------------------------------------------------------------------------

using Gains = std::vector<std::vector<float>>;

double rate(const Gains& gains, const std::vector<int>& counts, double draft,
            const PassCost& cost) {
  double tokens = double(gains.size());
  int rows = int(gains.size());
  for (size_t i = 0; i < gains.size(); ++i) {
    for (int k = 0; k < counts[i]; ++k) tokens += gains[i][size_t(k)];
    rows += counts[i];
  }
  return tokens / (draft + cost.seconds(rows));
}

double best_rate(const Gains& gains, int budget, double draft, const PassCost& cost) {
  std::vector<int> counts(gains.size(), 0);
  double best = 0;
  while (true) {
    if (std::accumulate(counts.begin(), counts.end(), 0) <= budget) {
      best = std::max(best, rate(gains, counts, draft, cost));
    }
    size_t i = 0;
    while (i < counts.size() && counts[i] == int(gains[i].size())) counts[i++] = 0;
    if (i == counts.size()) return best;
    ++counts[i];
  }
}

Gains random_gains(std::mt19937& random, bool descending) {
  Gains gains(1 + random() % 4);
  for (auto& tree : gains) {
    tree.resize(random() % 6);
    for (float& g : tree) g = float(random() % 1000) / 1000.0f;
    if (descending) std::ranges::sort(tree, std::greater<>());
  }
  return gains;
}

TEST(ChooseNodes, IsAsGoodAsTryingEverything) {
  std::mt19937 random(3);
  const auto steps = [](int rows) { return 0.005 * ((rows + 3) / 4) + 0.002; };
  for (int i = 0; i < 2000; ++i) {
    const bool descending = i % 2 == 0;
    const Gains gains = random_gains(random, descending);
    const int budget = int(random() % 16);
    const double draft = double(random() % 5) * 0.002;
    Points points;
    for (int rows = 1; rows <= 32; ++rows) {
      points.push_back({rows, i % 3 == 0   ? memory_bound(rows)
                              : i % 3 == 1 ? compute_bound(rows)
                                           : steps(rows)});
    }
    const PassCost cost(points);
    const auto counts = choose_nodes(gains, 0, budget, draft, cost);
    ASSERT_EQ(counts.size(), gains.size());
    EXPECT_LE(std::accumulate(counts.begin(), counts.end(), 0), budget);
    const double best = best_rate(gains, budget, draft, cost);
    const double found = rate(gains, counts, draft, cost);
    if (descending || gains.size() == 1) {
      EXPECT_NEAR(found, best, 1e-9 * best);
    } else {
      EXPECT_GT(found, 0.9 * best) << "gains that ascend: blocks may not fill the budget";
    }
  }
}

TEST(ChooseNodes, KnowsWhatRowsCost) {
  const Gains gains{{0.9f, 0.7f, 0.4f, 0.1f}, {0.5f, 0.2f}};
  EXPECT_EQ(choose_nodes(gains, 0, 100, 0.0, cost_of(memory_bound)), (std::vector<int>{4, 2}));
  EXPECT_EQ(choose_nodes(gains, 0, 100, 0.0, cost_of(compute_bound)), (std::vector<int>{0, 0}));
  EXPECT_EQ(choose_nodes(gains, 0, 3, 0.0, cost_of(memory_bound)), (std::vector<int>{2, 1}));
  EXPECT_EQ(choose_nodes(gains, 0, 0, 0.0, cost_of(memory_bound)), (std::vector<int>{0, 0}));
  EXPECT_TRUE(choose_nodes({}, 0, 10, 0.0, cost_of(memory_bound)).empty());
}

TEST(ChooseNodes, APromptInThePassMakesNodesNeitherFreeNorDear) {
  const Gains gains{{0.9f, 0.5f, 0.02f}};
  const PassCost cost = cost_of(in_between);
  EXPECT_EQ(choose_nodes(gains, 0, 9, 0.0, cost), (std::vector<int>{3})) << "below 20 rows: free";
  // With 200 rows of prompt each node costs 0.5 ms, when 10 ms bring about 2.4 tokens.
  EXPECT_EQ(choose_nodes(gains, 200, 9, 0.0, cost), (std::vector<int>{2}));
}

// ---- the whole policy in a small world -------------------------------------------------------

/// A target and a drafter whose chains (and second guesses) are right at fixed rates.
struct World {
  std::function<double(int)> cost = memory_bound;
  std::vector<double> right{.7, .7, .7, .7, .7, .7, .7, .7};
  double draft_level = 0.0005;
  bool gains = true;
  int sequences = 1;

  /// Every level: the first guess, and a second one that is right in an eighth of the rest.
  DraftTree tree(int depth, int max_nodes) const {
    DraftTree t;
    double reach = 1;
    int32_t parent = -1;
    for (int d = 0; d < depth; ++d) {
      const double p = right[size_t(d)];
      t.nodes.push_back({parent, 0, false});
      t.gains.push_back(float(reach * p));
      t.nodes.push_back({parent, 1, false});
      t.gains.push_back(float(reach * (1 - p) / 8));
      parent = int32_t(t.nodes.size()) - 2;
      reach *= p;
    }
    return sorted(t, max_nodes);
  }
  DraftTree sorted(const DraftTree& t, int max_nodes) const {
    std::vector<int32_t> order(t.nodes.size()), place(t.nodes.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, std::greater<>(),
                             [&](int32_t i) { return t.gains[size_t(i)]; });
    DraftTree result;
    for (int32_t i : order) {
      DraftNode node = t.nodes[size_t(i)];
      if (node.parent >= 0) node.parent = place[size_t(node.parent)];
      place[size_t(i)] = int32_t(result.nodes.size());
      result.nodes.push_back(node);
      result.gains.push_back(t.gains[size_t(i)]);
    }
    truncate(result, max_nodes, 100);
    if (!gains) result.gains.clear();
    return result;
  }
  std::vector<int32_t> accepted(const DraftTree& t, std::mt19937& random) const {
    std::vector<int32_t> path;
    int32_t parent = -1;
    for (size_t d = 0;; ++d) {
      const double dice = double(random()) / 4294967296.0;
      const double p = d < right.size() ? right[d] : 0;
      const int32_t token = dice < p ? 0 : dice < p + (1 - p) / 8 ? 1 : 2;
      const auto hit = std::ranges::find_if(
          t.nodes, [&](const DraftNode& n) { return n.parent == parent && n.token == token; });
      if (hit == t.nodes.end()) return path;
      parent = int32_t(hit - t.nodes.begin());
      path.push_back(parent);
    }
  }
};

/// Runs and returns tokens per second. `asked` counts rounds with drafts.
double run(const World& world, TreePolicy& policy, int steps, std::mt19937& random,
           int* asked = nullptr) {
  double tokens = 0, seconds = 0;
  std::vector<SequenceId> ids;
  for (int i = 0; i < world.sequences; ++i) ids.push_back(SequenceId(i + 1));
  for (int step = 0; step < steps; ++step) {
    const auto round = policy.next_round(ids);
    const double draft = round.wanted.empty() ? 0 : world.draft_level * round.limits.max_depth;
    if (!round.wanted.empty()) policy.observe_draft(round.limits, draft);
    if (asked != nullptr && !round.wanted.empty()) ++*asked;
    std::vector<DraftTree> trees(ids.size());
    std::vector<TreePolicy::Offer> offers;
    for (size_t i = 0; i < ids.size(); ++i) {
      const bool wanted = std::ranges::find(round.wanted, ids[i]) != round.wanted.end();
      if (wanted) trees[i] = world.tree(round.limits.max_depth, round.limits.max_nodes);
      offers.push_back({ids[i], wanted ? &trees[i] : nullptr});
    }
    const auto counts = policy.choose(offers, 0, 1000, draft);
    int rows = world.sequences + std::accumulate(counts.begin(), counts.end(), 0);
    const double pass = world.cost(rows);
    policy.observe_pass(rows, pass);
    for (size_t i = 0; i < ids.size(); ++i) {
      truncate(trees[i], counts[i], 100);
      const auto path = world.accepted(trees[i], random);
      policy.observe_outcome(ids[i], trees[i], path);
      tokens += 1 + double(path.size());
    }
    seconds += draft + pass;
  }
  return tokens / seconds;
}

/// The best that a fixed number of nodes at a fixed depth can do.
double best_fixed(const World& world) {
  double best = 0;
  for (int depth = 1; depth <= 8; ++depth) {
    for (int nodes : {0, 1, 2, 4, 6, 8, 12, 16}) {
      TreePolicy policy({.fixed_nodes = nodes, .max_depth = depth}, cost_of(world.cost));
      std::mt19937 random(9);
      best = std::max(best, run(world, policy, 800 / world.sequences, random));
    }
  }
  return best;
}

double automatic(const World& world, int* asked = nullptr) {
  TreePolicy policy({}, cost_of(world.cost));
  std::mt19937 random(9);
  run(world, policy, 300, random);
  return run(world, policy, 4000 / world.sequences, random, asked);
}

TEST(TreePolicy, ComesCloseToTheBestFixedTree) {
  const std::vector<double> fading{.8, .6, .4, .3, .2, .2, .1, .1};
  const std::vector<double> poor(8, .1);
  int index = 0;
  for (const auto& cost : {memory_bound, in_between, compute_bound}) {
    for (const auto& right : {World{}.right, fading, poor}) {
      for (double level : {0.0, 0.002}) {
        for (int sequences : {1, 8}) {
          for (bool gains : {true, false}) {
            SCOPED_TRACE(index++);
            const World world{cost, right, level, gains, sequences};
            EXPECT_GT(automatic(world), (gains ? 0.93 : 0.9) * best_fixed(world));
          }
        }
      }
    }
  }
}

TEST(TreePolicy, DeepTreesAreNotTakenForAsSmallAsShallowOnes) {
  // Rows cost much and levels little: every further level gains, but brings nodes to verify.
  const World world{.cost = [](int rows) { return 0.0002 + 0.0003 * rows; },
                    .right = std::vector<double>(8, .85),
                    .draft_level = 0.00025};
  EXPECT_GT(automatic(world), 0.96 * best_fixed(world));
}

TEST(TreePolicy, DraftsAgainAfterASlowStretch) {
  World world{.right = std::vector<double>(8, .6), .draft_level = .0005};
  TreePolicy policy({}, cost_of(world.cost));
  std::mt19937 random(5);
  run(world, policy, 200, random);
  World slow = world;  // the drafter's cores are taken away for a while
  slow.draft_level = 0.05;
  run(slow, policy, 100, random);
  // A trial of a drafter that slow is a hundredth of the time between two of them.
  run(world, policy, 1200, random);
  int asked = 0;
  run(world, policy, 100, random, &asked);
  EXPECT_EQ(asked, 100);
}

TEST(TreePolicy, OneSlowDraftAtTheStartCostsFewRounds) {
  const World world{.right = std::vector<double>(8, .6), .draft_level = .0005};
  for (double hiccup : {0.01, 0.015, 0.02}) {  // such drafts pay not even if all are accepted
    TreePolicy policy({}, cost_of(world.cost));
    std::mt19937 random(5);
    World slow = world;
    slow.draft_level = hiccup;
    run(slow, policy, 1, random);
    int asked = 0;
    run(world, policy, 60, random, &asked);
    EXPECT_GT(asked, 35) << hiccup;
  }
}

TEST(TreePolicy, BadLuckAtTheStartDoesNotEndDraftsThatPayALittle) {
  const World world{.cost = [](int rows) { return 0.0003 + 0.0003 * std::max(rows, 2); },
                    .right = std::vector<double>(8, .54),
                    .draft_level = 0.0004};
  const double plain = 1 / world.cost(1);
  EXPECT_GT(best_fixed(world), 1.05 * plain);
  EXPECT_LT(best_fixed(world), 1.1 * plain);
  int given_up = 0;
  for (unsigned seed = 0; seed < 40; ++seed) {
    TreePolicy policy({}, cost_of(world.cost));
    std::mt19937 random(seed);
    int asked = 0;
    run(world, policy, 400, random, &asked);
    given_up += asked < 200 ? 1 : 0;
  }
  EXPECT_LE(given_up, 5);  // judged by outcomes alone: 8
}

TEST(TreePolicy, PlainDecodingRunsAtPlainSpeedWhereDraftsDoNotPay) {
  // Poor drafts; a compute-bound target; a slow drafter.
  for (const World& world : {World{.right = std::vector<double>(8, .02), .draft_level = .002},
                             World{.cost = compute_bound, .sequences = 32},
                             World{.draft_level = 0.1}, World{.draft_level = 0.5}}) {
    int asked = 0;
    const double plain = world.sequences / world.cost(world.sequences);
    // Drafts as long as fifty passes cost something even if few are tried.
    EXPECT_GT(automatic(world, &asked), (world.draft_level < 0.2 ? 0.97 : 0.95) * plain);
    EXPECT_LT(asked, 200 / world.sequences);
  }
}

TEST(TreePolicy, TriesAgainAndNoticesThatDraftsPay) {
  World world{.right = std::vector<double>(8, .02), .draft_level = .002};
  TreePolicy policy({}, cost_of(world.cost));
  std::mt19937 random(4);
  run(world, policy, 500, random);
  int asked = 0;
  run(world, policy, 100, random, &asked);
  EXPECT_LT(asked, 20);
  world.right.assign(8, .9);
  run(world, policy, 700, random);
  asked = 0;
  run(world, policy, 100, random, &asked);
  EXPECT_EQ(asked, 100);
}

TEST(TreePolicy, LeavesOutTheSequenceThatDraftsBadly) {
  // Half of the texts are guessed well, the others hardly. A row costs as much as 0.3 tokens.
  TreePolicy policy({}, cost_of([](int rows) { return 0.010 + 0.0001 * rows; }));
  const World good{.right = std::vector<double>(8, .9)}, bad{.right = std::vector<double>(8, .0)};
  std::mt19937 random(8);
  std::vector<SequenceId> all(40);
  std::iota(all.begin(), all.end(), 1);
  int asked_good = 0, asked_bad = 0;
  for (int step = 0; step < 300; ++step) {
    const auto round = policy.next_round(all);
    std::vector<DraftTree> trees(all.size());
    std::vector<TreePolicy::Offer> offers;
    for (size_t i = 0; i < all.size(); ++i) {
      const bool wanted = std::ranges::find(round.wanted, all[i]) != round.wanted.end();
      if (wanted) trees[i] = good.tree(round.limits.max_depth, round.limits.max_nodes);
      offers.push_back({all[i], &trees[i]});
      if (step >= 100 && wanted) ++(i < 20 ? asked_good : asked_bad);
    }
    const auto counts = policy.choose(offers, 0, 1000, 0.0);
    for (size_t i = 0; i < all.size(); ++i) {
      truncate(trees[i], counts[i], 100);
      policy.observe_outcome(all[i], trees[i], (i < 20 ? good : bad).accepted(trees[i], random));
    }
  }
  EXPECT_GT(asked_good, 20 * 180);
  EXPECT_LT(asked_bad, asked_good / 5);
}

/// How wide trees are asked for after many rounds.
int settled_width(const std::function<double(int)>& cost, int top_k) {
  TreePolicy policy({.max_nodes = 64, .max_depth = 8, .top_k = top_k}, cost_of(cost));
  std::mt19937 random(3);
  const std::vector<SequenceId> all{1};
  int width = 0;
  for (int i = 0; i < 300; ++i) {
    const TreePolicy::Round round = policy.next_round(all);
    if (round.wanted.empty()) continue;
    width = round.limits.top_k;
    policy.observe_draft(round.limits, 1e-5);
    // A wide tree: many places, each with a small chance.
    DraftTree tree;
    for (int32_t k = 0; k < 40; ++k) {
      tree.nodes.push_back({-1, k, false});
      tree.gains.push_back(0.02f);
    }
    const std::vector<TreePolicy::Offer> offers{{1, &tree}};
    truncate(tree, policy.choose(offers, 0, 100, 1e-5)[0], 100);
    std::vector<int32_t> accepted;
    if (random() % 50 < tree.nodes.size())
      accepted.push_back(int32_t(random() % tree.nodes.size()));
    policy.observe_outcome(1, tree, accepted);
  }
  return width;
}

TEST(TreePolicy, TreesAreGrownAsWideAsTheyAreUsed) {
  EXPECT_EQ(settled_width([](int rows) { return 0.010 + 1e-8 * rows; }, 0), 10);
  const auto dear = [](int rows) { return 0.006 + 0.004 * rows; };
  EXPECT_EQ(settled_width(dear, 0), 3);
  EXPECT_EQ(settled_width(dear, 5), 5);
}

TEST(TreePolicy, AFixedNumberIsObeyed) {
  TreePolicy policy({.fixed_nodes = 5, .max_depth = 3, .top_k = 7}, cost_of(compute_bound));
  const auto round = policy.next_round(std::vector<SequenceId>{4, 9});
  EXPECT_EQ(round.wanted, (std::vector<SequenceId>{4, 9}));
  EXPECT_EQ(round.limits.max_nodes, 5);
  EXPECT_EQ(round.limits.max_depth, 3);
  EXPECT_EQ(round.limits.top_k, 7);
  const DraftTree large = World{}.tree(8, 16), small = World{}.tree(1, 16);
  const std::vector<TreePolicy::Offer> offers{{4, &large}, {9, &small}, {5, nullptr}};
  EXPECT_EQ(policy.choose(offers, 0, 100, 1.0), (std::vector<int>{5, 2, 0}));
  EXPECT_EQ(policy.choose(offers, 0, 4, 1.0), (std::vector<int>{2, 2, 0}));
  EXPECT_EQ(policy.choose(offers, 0, -3, 1.0), (std::vector<int>{0, 0, 0}));
  TreePolicy none({.fixed_nodes = 0}, PassCost{});
  EXPECT_TRUE(none.next_round(std::vector<SequenceId>{4}).wanted.empty());
  EXPECT_THROW(TreePolicy({.fixed_nodes = -1}, PassCost{}), Error);
}

TEST(TreePolicy, KeepsToItsLimits) {
  TreePolicy policy({.max_nodes = 3, .max_depth = 2}, cost_of(memory_bound));
  const auto round = policy.next_round(std::vector<SequenceId>{1});
  EXPECT_EQ(round.limits.max_nodes, 3);
  EXPECT_LE(round.limits.max_depth, 2);
  const DraftTree tree = World{}.tree(8, 16);
  const std::vector<TreePolicy::Offer> offers{{1, &tree}};
  EXPECT_LE(policy.choose(offers, 0, 100, 0.0)[0], 3);
  EXPECT_TRUE(policy.next_round({}).wanted.empty());
  EXPECT_TRUE(policy.choose({}, 0, 10, 0.0).empty());
  policy.forget(1);
}

TEST(TreePolicy, GainsFromAPeerAreNotTrusted) {
  TreePolicy policy({}, cost_of(memory_bound));
  DraftTree tree = World{}.tree(4, 8);
  tree.gains = {std::nanf(""), INFINITY, -5.0f, 1e30f, 0.5f, 0.0f, -0.0f, 2.0f};
  const std::vector<TreePolicy::Offer> offers{{1, &tree}};
  const int count = policy.choose(offers, 0, 100, 0.0)[0];
  EXPECT_GE(count, 0);
  EXPECT_LE(count, 8);
  policy.observe_outcome(1, tree, std::vector<int32_t>{0});
  for (int i = 0; i < 10; ++i) policy.next_round(std::vector<SequenceId>{1});
  EXPECT_GE(policy.choose(offers, 0, 100, 0.0)[0], 0);
}

TEST(Acceptance, CorrectsADrafterThatPromisesTooMuch) {
  Acceptance acceptance;
  DraftTree chain{{{-1, 1, false}, {0, 2, false}}, {0.9f, 0.8f}};
  for (int i = 0; i < 1000; ++i) {
    // In truth .45 and .2.
    const std::vector<int32_t> path = i % 20 < 4   ? std::vector<int32_t>{0, 1}
                                      : i % 20 < 9 ? std::vector<int32_t>{0}
                                                   : std::vector<int32_t>{};
    acceptance.observe(chain, path);
  }
  const auto gains = acceptance.gains(chain);
  EXPECT_LT(gains[0], 0.55f);
  EXPECT_LE(gains[1], gains[0]);
  chain.gains.clear();
  const auto own = acceptance.gains(chain);
  EXPECT_NEAR(own[0], 0.45f, 0.06f);
  EXPECT_NEAR(own[1], 0.2f, 0.05f);
}

TEST(Acceptance, CountsSiblingsInOrder) {
  const DraftTree tree{
      {{-1, 5, false}, {-1, -1, true}, {-1, 6, false}, {0, 7, false}, {-1, 8, false}}};
  EXPECT_EQ(sibling_ranks(tree), (std::vector<int>{0, 0, 1, 0, 2}));
  EXPECT_TRUE(Acceptance().gains({}).empty());
}

TEST(Acceptance, NeverExpectsMoreOfALaterSiblingOrADeeperLevel) {
  Acceptance acceptance;
  std::mt19937 random(2);
  const DraftTree tree = World{.gains = false}.tree(4, 8);
  for (int i = 0; i < 500; ++i) {
    acceptance.observe(tree, World{}.accepted(tree, random));
    const std::vector<double> reached(random() % 6, 0.25 * double(random() % 5));
    acceptance.observe_round(1 + int(random() % 20), reached);
    for (int d = 0; d < 18; ++d) {
      for (int r = 0; r < 10; ++r) {
        EXPECT_GE(acceptance.conditional(d, r), 0.0);
        EXPECT_LE(acceptance.conditional(d, r + 1), acceptance.conditional(d, r));
      }
      EXPECT_LE(acceptance.drafts_gained(d), d);
      EXPECT_GE(acceptance.drafts_gained(d + 1), acceptance.drafts_gained(d));
    }
  }
}

}  // namespace
}  // namespace convoke
