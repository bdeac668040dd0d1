#include "runtime/drafters/tree_drafter.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "runtime/verifier.h"
#include "tests/runtime/fake_branch_model.h"

namespace convoke {
namespace {

/// What the target takes next: mostly the draft's first, sometimes another, a function of the text.
int32_t target_pick(const Text& text) {
  const uint64_t dice = hash_text(text) >> 20;
  const auto ranked = rank_after(text, 4, 0.0f);
  const uint64_t kind = dice % 10;
  if (kind < 6) return ranked[0].token;
  if (kind < 9) return ranked[kind - 5].token;
  return int32_t(dice % 40);
}

struct JobSetup {
  TreeDrafterOptions options;
  FakeModelShape shape;
  float temperature = 0.0f;
  int32_t max_tokens = 100000;
};

/// A drafter, and the sequences and target it works for.
class Job {
 public:
  explicit Job(const JobSetup& setup) : setup_(setup) {
    auto model = std::make_unique<FakeBranchModel>(setup.shape);
    model_ = model.get();
    drafter_ = std::make_unique<TreeDrafter>("test", std::move(model), setup.options);
  }
  TreeDrafter& drafter() { return *drafter_; }
  FakeBranchModel& model() { return *model_; }
  const Text& text(SequenceId id) const { return texts_.at(id); }
  const std::map<SequenceId, Text>& texts() const { return texts_; }

  void open(SequenceId id, int prompt) {
    Text text;
    for (int i = 0; i < prompt; ++i) text.push_back(int32_t((id * 7 + uint64_t(i) * 3) % 40));
    texts_[id] = text;
    drafter_->open(sequence(id, prompt));
  }
  void reopen(SequenceId id) {
    sent_.erase(id);
    drafter_->open(sequence(id, int(texts_.at(id).size())));
  }
  void close(SequenceId id) {
    drafter_->close(id);
    texts_.erase(id);
    sent_.erase(id);
  }
  /// The prompt's pass, in parts of `chunk` rows; the last one brings the first token.
  void read_prompt(SequenceId id, int chunk) {
    const auto length = int32_t(texts_.at(id).size());
    for (int32_t begin = 0; begin < length; begin += chunk) {
      const int32_t end = std::min(begin + chunk, length);
      DraftVerdict verdict{.id = id, .base_length = length};
      if (end == length) verdict.tokens = {target_pick(texts_.at(id))};
      tell(verdict, begin, end);
    }
  }
  std::vector<DraftTree> propose(const std::vector<SequenceId>& ids, const DraftLimits& limits) {
    auto trees = drafter_->propose(ids, limits);
    EXPECT_EQ(trees.size(), ids.size());
    for (size_t i = 0; i < trees.size(); ++i) {
      sent_[ids[i]] = trees[i];
      check(ids[i], trees[i], limits);
    }
    return trees;
  }
  /// One pass of the target over `nodes` nodes of what was sent, and its verdict.
  DraftVerdict step(SequenceId id, int nodes = 1000, bool tell_it = true) {
    Text& text = texts_.at(id);
    DraftTree tree = sent_[id];
    truncate(tree, nodes, 1000);
    DraftVerdict verdict{.id = id, .base_length = int32_t(text.size())};
    verdict.verified = tree.size();
    const Verification v = verify(tree, picks(text, tree));
    for (int32_t node : v.accepted) verdict.tokens.push_back(tree.nodes[size_t(node)].token);
    verdict.tokens.push_back(v.next_token);
    accepted += int(v.accepted.size());
    sent_.erase(id);
    const auto begin = int32_t(text.size()) - 1;
    if (tell_it) {
      tell(verdict, begin, begin + int32_t(verdict.tokens.size()));
    } else {
      text.insert(text.end(), verdict.tokens.begin(), verdict.tokens.end());
    }
    return verdict;
  }

  int accepted = 0;

 private:
  DraftSequence sequence(SequenceId id, int prompt) const {
    DraftSequence opened{.id = id, .tokens = texts_.at(id), .prompt_tokens = prompt};
    opened.sampling.temperature = setup_.temperature;
    opened.sampling.max_tokens = setup_.max_tokens;
    return opened;
  }
  static std::vector<int32_t> picks(const Text& text, const DraftTree& tree) {
    std::vector<Text> texts{text};
    std::vector<int32_t> result{target_pick(text)};
    for (const DraftNode& node : tree.nodes) {
      Text with = texts[size_t(node.parent + 1)];
      with.push_back(node.token);
      result.push_back(target_pick(with));
      texts.push_back(std::move(with));
    }
    return result;
  }
  void tell(DraftVerdict& verdict, int32_t begin, int32_t end) {
    std::vector<float> rows;
    for (int32_t p = begin; p < end; ++p) rows.push_back(float(p));
    if (setup_.shape.features) {
      verdict.feature_begin = begin;
      verdict.features = TensorView::matrix(rows.data(), DType::kFloat32, end - begin, 1);
    }
    Text& text = texts_.at(verdict.id);
    text.insert(text.end(), verdict.tokens.begin(), verdict.tokens.end());
    drafter_->advance(verdict);
    verdict.features = {};
  }
  /// Whatever happened before, a tree follows the text as it stands now.
  void check(SequenceId id, const DraftTree& tree, const DraftLimits& limits) {
    EXPECT_EQ(find_defect(tree, 40, 0), "");
    EXPECT_LE(tree.size(), limits.max_nodes);
    EXPECT_EQ(tree.gains.size(), tree.nodes.size());
    if (!texts_.contains(id)) {
      EXPECT_TRUE(tree.empty());
      return;
    }
    const std::vector<int> depths = tree.depths();
    std::vector<Text> texts{texts_.at(id)};
    std::set<Text> seen;
    for (size_t i = 0; i < tree.nodes.size(); ++i) {
      const DraftNode& node = tree.nodes[i];
      EXPECT_LT(depths[i], limits.max_depth);
      EXPECT_GE(tree.gains[i], 0.0f);
      EXPECT_LE(tree.gains[i], i > 0 ? tree.gains[i - 1] : 1.0f);
      Text with = texts[size_t(node.parent + 1)];
      const auto ranked = rank_after(with, 10, setup_.temperature);
      EXPECT_TRUE(std::ranges::any_of(ranked, [&](auto& r) { return r.token == node.token; }))
          << "node " << i << " does not follow its parent";
      with.push_back(node.token);
      EXPECT_TRUE(seen.insert(with).second) << "the same candidate twice";
      texts.push_back(std::move(with));
    }
  }

  JobSetup setup_;
  FakeBranchModel* model_ = nullptr;
  std::unique_ptr<TreeDrafter> drafter_;
  std::map<SequenceId, Text> texts_;
  std::map<SequenceId, DraftTree> sent_;
};

/// Paths with their gains.
using Guesses = std::map<Text, double>;

/// EAGLE-2 as its definition has it.
Guesses naive_dynamic_tree(const Text& text, float temperature, int top_k, int depth, int nodes) {
  std::vector<std::pair<double, Text>> pool, beam{{1.0, {}}};
  for (int level = 0; level < depth; ++level) {
    std::vector<std::pair<double, Text>> next;
    for (const auto& [gain, path] : beam) {
      Text with = text;
      with.insert(with.end(), path.begin(), path.end());
      const auto ranked = rank_after(with, top_k, temperature);
      const double scale = temperature > 0 ? temperature : 1.0;
      double sum = 0;
      for (const auto& r : ranked) sum += std::exp(scale * r.score);
      for (const auto& r : ranked) {
        Text child = path;
        child.push_back(r.token);
        next.emplace_back(gain * std::exp(scale * r.score) / sum, child);
      }
    }
    std::ranges::sort(next, std::greater<>());
    pool.insert(pool.end(), next.begin(), next.end());
    next.resize(std::min(next.size(), size_t(top_k)));
    beam = next;
  }
  std::ranges::sort(pool, std::greater<>());
  pool.resize(std::min(pool.size(), size_t(nodes)));
  Guesses guesses;
  for (const auto& [gain, path] : pool) guesses[path] = gain;
  return guesses;
}

Guesses guesses_of(const DraftTree& tree) {
  Guesses guesses;
  std::vector<Text> paths{{}};
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    Text path = paths[size_t(tree.nodes[i].parent + 1)];
    path.push_back(tree.nodes[i].token);
    guesses[path] = tree.gains[i];
    paths.push_back(path);
  }
  return guesses;
}

void expect_equal(const Guesses& found, const Guesses& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [path, gain] : expected) {
    ASSERT_TRUE(found.contains(path));
    EXPECT_NEAR(found.at(path), gain, 1e-5);
  }
}

class Temperatures : public testing::TestWithParam<float> {};
INSTANTIATE_TEST_SUITE_P(TreeDrafter, Temperatures, testing::Values(0.0f, 0.8f));

TEST_P(Temperatures, DynamicTreesEqualTheDefinition) {
  JobSetup setup{.temperature = GetParam()};
  setup.options.calibrate = false;
  for (const auto& [top_k, depth, nodes] :
       {std::tuple{10, 5, 59}, {10, 7, 16}, {3, 4, 1000}, {1, 6, 9}, {4, 1, 4}, {8, 3, 1}}) {
    Job job(setup);
    for (SequenceId id : {1, 2, 3}) {
      job.open(id, 3 + int(id));
      job.read_prompt(id, 100);
    }
    for (int round = 0; round < 6; ++round) {
      const DraftLimits limits{.max_nodes = nodes, .max_depth = depth, .top_k = top_k};
      const auto trees = job.propose({3, 1, 2}, limits);
      for (size_t i = 0; i < 3; ++i) {
        const SequenceId id = std::vector<SequenceId>{3, 1, 2}[i];
        expect_equal(guesses_of(trees[i]),
                     naive_dynamic_tree(job.text(id), GetParam(), top_k, depth, nodes));
        job.step(id);
      }
      if (HasFatalFailure()) return;
    }
  }
}

TEST(TreeDrafter, OnePassPerLevelForAllSequences) {
  JobSetup setup;
  setup.shape.max_rows = 1000;
  Job job(setup);
  for (SequenceId id : {1, 2, 3, 4}) {
    job.open(id, 4);
    job.read_prompt(id, 64);
  }
  job.drafter().take_counts();
  const int before = job.model().passes;
  job.propose({1, 2, 3, 4}, {.max_nodes = 1000, .max_depth = 4, .top_k = 3});
  EXPECT_EQ(job.model().passes - before, 1 + 3)
      << "what is new, then a pass for each further level";
}

TEST(TreeDrafter, SpendsNoPassThatCannotChangeTheTree) {
  JobSetup setup;
  Job job(setup);
  job.open(1, 4);
  job.read_prompt(1, 64);
  job.propose({1}, {.max_nodes = 3, .max_depth = 7, .top_k = 10});
  EXPECT_LE(job.model().expanded, 6);
  const int before = job.model().passes;
  job.propose({1}, {.max_nodes = 3, .max_depth = 7, .top_k = 10});
  EXPECT_EQ(job.model().passes, before) << "the tree was there";
}

TEST(TreeDrafter, StaticTreesHaveEaglesShape) {
  JobSetup setup;
  setup.options.shape = TreeShape::kStatic;
  Job job(setup);
  job.open(1, 5);
  job.read_prompt(1, 100);
  const std::set<std::string> expected{"0",    "1",    "2",     "3",    "00",  "01",  "02",
                                       "10",   "11",   "20",    "21",   "30",  "000", "001",
                                       "002",  "010",  "011",   "020",  "021", "100", "0000",
                                       "0001", "0002", "00000", "00001"};
  for (int round = 0; round < 5; ++round) {
    const DraftTree tree = job.propose({1}, {.max_nodes = 100, .max_depth = 100})[0];
    std::set<std::string> found;
    for (const auto& [path, gain] : guesses_of(tree)) {
      Text text = job.text(1);
      std::string name;
      for (int32_t token : path) {
        const auto ranked = rank_after(text, 4, 0.0f);
        const auto at = std::ranges::find(ranked, token, &RankedToken::token);
        name += char('0' + (at - ranked.begin()));
        text.push_back(token);
      }
      found.insert(name);
    }
    EXPECT_EQ(found, expected);
    job.step(1);
  }
}

TEST(TreeDrafter, DraftsNoFurtherThanTheTextMayGo) {
  JobSetup setup{.max_tokens = 3};
  Job job(setup);
  job.open(1, 4);
  job.read_prompt(1, 10);
  const DraftTree tree = job.propose({1}, {.max_nodes = 30, .max_depth = 8})[0];
  ASSERT_FALSE(tree.empty());
  EXPECT_EQ(std::ranges::max(tree.depths()), 0) << "two tokens are left, one is the target's own";
  job.step(1, 0);
  EXPECT_TRUE(job.propose({1}, {.max_nodes = 30, .max_depth = 8})[0].empty());
}

TEST(TreeDrafter, TakesInPromptsInParts) {
  for (bool features : {true, false}) {
    JobSetup setup;
    setup.shape.features = features;
    Job job(setup);
    job.open(1, 300);
    job.read_prompt(1, 70);
    job.open(2, 1);
    job.read_prompt(2, 70);
    const auto trees = job.propose({1, 2}, {});
    EXPECT_FALSE(trees[0].empty());
    EXPECT_FALSE(trees[1].empty());
    for (int i = 0; i < 100; ++i) job.step(1);  // nobody asks for a while
    EXPECT_FALSE(job.propose({1}, {})[0].empty());
  }
}

TEST(TreeDrafter, SequencesBeyondThePlacesWaitForOne) {
  JobSetup setup;
  setup.shape.places = 2;
  Job job(setup);
  for (SequenceId id : {1, 2, 3}) {
    job.open(id, 4);
    job.read_prompt(id, 10);
  }
  auto trees = job.propose({1, 2, 3}, {});
  EXPECT_FALSE(trees[0].empty());
  EXPECT_FALSE(trees[1].empty());
  EXPECT_TRUE(trees[2].empty());
  job.close(1);
  job.step(3);
  EXPECT_FALSE(job.propose({3}, {})[0].empty());
}

TEST(TreeDrafter, AMissingVerdictEndsTheTreesUntilItIsOpenedAgain) {
  Job job(JobSetup{});
  job.open(1, 4);
  job.read_prompt(1, 10);
  job.propose({1}, {});
  job.step(1, 10, false);
  job.step(1);
  EXPECT_TRUE(job.drafter().propose(std::vector<SequenceId>{1}, {})[0].empty());
  job.reopen(1);
  EXPECT_FALSE(job.propose({1}, {})[0].empty());
}

TEST(TreeDrafter, UnknownIdsAndNoRoomGetEmptyTrees) {
  Job job(JobSetup{});
  job.open(1, 4);
  job.read_prompt(1, 10);
  EXPECT_TRUE(job.propose({7}, {})[0].empty());
  EXPECT_TRUE(job.propose({1}, {.max_nodes = 0})[0].empty());
  EXPECT_TRUE(job.propose({1}, {.max_depth = 0})[0].empty());
  EXPECT_TRUE(job.propose({}, {}).empty());
  const auto twice = job.propose({1, 1}, {});
  EXPECT_EQ(twice[0], twice[1]);
  EXPECT_FALSE(twice[0].empty());
  EXPECT_FALSE(job.drafter().work_ahead()) << "not drafting ahead";
}

TEST(TreeDrafter, RefusesOptionsOutOfRange) {
  for (const TreeDrafterOptions& bad :
       {TreeDrafterOptions{.depth = 0}, {.top_k = 0}, {.top_k = kMaxRanked + 1}}) {
    EXPECT_THROW(TreeDrafter("eagle", std::make_unique<FakeBranchModel>(FakeModelShape{}), bad),
                 Error);
  }
}

TEST(TreeDrafter, LearnsHowOftenItsCandidatesAreRight) {
  Job job(JobSetup{});
  job.open(1, 4);
  job.read_prompt(1, 10);
  double hits = 0, expected = 0;
  for (int i = 0; i < 3000; ++i) {
    const DraftTree tree = job.propose({1}, {.max_nodes = 8, .max_depth = 3, .top_k = 3})[0];
    const int before = job.accepted;
    job.step(1);
    if (i < 1000) continue;
    hits += job.accepted - before;
    for (float gain : tree.gains) expected += gain;
  }
  EXPECT_NEAR(expected / hits, 1.0, 0.05);
}

TEST(TreeDrafterAhead, AnswersAtOnceWhenTheOutcomeWasGrown) {
  JobSetup setup;
  setup.options.ahead = true;
  Job job(setup);
  job.open(1, 4);
  job.read_prompt(1, 10);
  int at_once = 0;
  for (int round = 0; round < 100; ++round) {
    const int before = job.model().passes;
    job.propose({1}, {.max_nodes = 8, .max_depth = 4, .top_k = 6});
    const bool no_pass = job.model().passes == before;
    at_once += no_pass ? 1 : 0;
    for (int i = 0; i < 6; ++i) job.drafter().work_ahead();
    job.step(1);
  }
  const DraftCounts counts = job.drafter().take_counts();
  EXPECT_EQ(counts.outcomes, 100);
  // Every round but the first follows an outcome; the last outcome has no round after it.
  EXPECT_NEAR(double(counts.outcomes_in_tree), double(at_once), 1.0);
  EXPECT_GT(at_once, 50);
  EXPECT_EQ(counts.passes, job.model().passes);
  EXPECT_EQ(job.drafter().take_counts().outcomes, 0);
}

TEST(TreeDrafterAhead, ComesToAnEnd) {
  JobSetup setup;
  setup.options.ahead = true;
  setup.shape.slots = 40;
  Job job(setup);
  EXPECT_FALSE(job.drafter().work_ahead());
  job.open(1, 4);
  job.read_prompt(1, 10);
  EXPECT_FALSE(job.drafter().work_ahead()) << "nobody asked for trees yet";
  job.propose({1}, {});
  int increments = 0;
  while (job.drafter().work_ahead()) ASSERT_LT(++increments, 100);
  EXPECT_GT(increments, 1);
  EXPECT_FALSE(job.propose({1}, {.max_nodes = 60})[0].empty());
}

/// Everything that can go wrong between coordinator and drafter, in any order.
void run_chaos(JobSetup setup, uint32_t seed) {
  std::mt19937 random(seed);
  Job job(setup);
  std::set<SequenceId> deaf;  // a verdict of theirs was lost
  SequenceId next = 1;
  for (int turn = 0; turn < 400 && !testing::Test::HasFailure(); ++turn) {
    const auto pick_one = [&] {
      auto it = job.texts().begin();
      std::advance(it, long(random() % job.texts().size()));
      return it->first;
    };
    const int action = int(random() % 20);
    if (job.texts().empty() || (action == 0 && job.texts().size() < 9)) {
      job.open(next, 1 + int(random() % 90));
      if (random() % 5 != 0) job.read_prompt(next, 1 + int(random() % 100));
      ++next;
    } else if (action == 1) {
      const SequenceId id = pick_one();
      job.close(id);
      deaf.erase(id);
    } else if (action == 2) {
      const SequenceId id = pick_one();
      job.step(id, 5, false);
      if (random() % 2 == 0) job.step(id);  // what follows a lost verdict
      deaf.insert(id);
    } else if (action == 3 && !deaf.empty()) {
      const SequenceId id = *deaf.begin();
      job.reopen(id);
      deaf.erase(id);
    } else if (action < 10) {
      std::vector<SequenceId> ids;
      for (const auto& [id, text] : job.texts()) {
        if (!deaf.contains(id) && random() % 4 != 0) ids.push_back(id);
      }
      job.propose(ids, {.max_nodes = int(random() % 30),
                        .max_depth = 1 + int(random() % 7),
                        .top_k = int(random() % 2) * 5});
    } else if (action < 16) {
      const SequenceId id = pick_one();
      if (!deaf.contains(id)) job.step(id, int(random() % 20));
    } else {
      job.drafter().work_ahead();
    }
  }
}

TEST(TreeDrafter, SurvivesAnyOrderOfEvents) {
  for (uint32_t seed = 0; seed < 40 && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    JobSetup setup;
    setup.options.ahead = seed % 2 == 0;
    setup.options.shape = seed % 4 < 2 ? TreeShape::kDynamic : TreeShape::kStatic;
    setup.shape.features = seed % 3 != 0;
    setup.shape.slots = seed % 5 == 0 ? 3 : 100;
    setup.shape.places = seed % 7 == 0 ? 2 : 5;
    setup.temperature = seed % 8 < 4 ? 0.0f : 0.7f;
    setup.max_tokens = seed % 6 == 0 ? 60 : 100000;
    run_chaos(setup, seed);
  }
}

}  // namespace
}  // namespace convoke
