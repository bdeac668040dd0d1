#include "runtime/drafters/pass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/check.h"
#include "runtime/lookahead_table.h"
#include "tests/support/model_directory.h"
#include "tests/support/scripted_target.h"

namespace convoke {
namespace {

using testing::FakeTarget;
using testing::ScriptedStep;
using testing::ScriptedTarget;

constexpr int kVocabulary = 100;
constexpr int kRanked = 6;

// --- the tree -----------------------------------------------------------------------------------

std::vector<std::vector<RankedToken>> rankings(int depths, int ranks) {
  std::vector<std::vector<RankedToken>> all;
  for (int d = 0; d < depths; ++d) {
    auto& ranking = all.emplace_back();
    for (int r = 0; r < ranks; ++r) ranking.push_back({float(-r), 10 * (d + 1) + r});
  }
  return all;
}

TEST(PassTree, WithoutRowsItIsTheLikeliestCandidates) {
  const auto tokens = rankings(2, 2);
  const std::vector<std::vector<float>> conditional{{0.5f, 0.25f}, {0.75f, 0.125f}};
  const PassTree made = make_pass_tree(
      {.rankings = tokens, .conditional = conditional, .max_nodes = 5, .max_depth = 8});
  // .5; below it .375; its sibling .25; below that .1875; then the path's second choice, .0625.
  const std::vector<DraftNode> want{
      {-1, 10, false}, {0, 20, false}, {-1, 11, false}, {2, 20, false}, {0, 21, false}};
  EXPECT_EQ(made.tree.nodes, want);
  EXPECT_EQ(made.tree.gains, (std::vector<float>{0.5f, 0.375f, 0.25f, 0.1875f, 0.0625f}));
  EXPECT_TRUE(made.probes.empty());
  const PassTree flat = make_pass_tree(
      {.rankings = tokens, .conditional = conditional, .max_nodes = 5, .max_depth = 1});
  EXPECT_EQ(flat.tree.nodes, (std::vector<DraftNode>{{-1, 10, false}, {-1, 11, false}}));
}

TEST(PassTree, WithNothingToVerifyItIsAChainOfRows) {
  const std::vector<double> rates{0.5, 0.5, 0.25};
  const PassTree made = make_pass_tree({.hit_rates = rates, .max_nodes = 8, .max_depth = 1});
  EXPECT_EQ(made.tree.nodes,
            (std::vector<DraftNode>{{-1, -1, true}, {0, -2, true}, {1, -3, true}}));
  EXPECT_EQ(made.tree.gains, (std::vector<float>{0.5f, 0.25f, 0.0625f}));
  EXPECT_EQ(made.probes, (std::vector<PassProbe>{{0, -1, 0}, {1, -1, 1}, {2, -1, 2}}));
  EXPECT_EQ(make_pass_tree({.hit_rates = rates, .max_nodes = 2, .max_depth = 1}).tree.size(), 2);
}

TEST(PassTree, RowsGoWhereTheTextIsLikelyToGoOn) {
  const auto tokens = rankings(1, 2);
  const std::vector<std::vector<float>> conditional{{0.75f, 0.1875f}};
  const std::vector<double> rates{0.5, 0.5};
  // The last accepted node is the first candidate (.75), the second (.1875) or the root (.0625).
  const PassTree made = make_pass_tree({.rankings = tokens,
                                        .conditional = conditional,
                                        .hit_rates = rates,
                                        .max_nodes = 5,
                                        .max_depth = 8});
  const std::vector<DraftNode> want{
      {-1, 10, false}, {0, -1, true}, {-1, 11, false}, {1, -2, true}, {2, -1, true}};
  EXPECT_EQ(made.tree.nodes, want);
  EXPECT_EQ(made.tree.gains, (std::vector<float>{0.75f, 0.375f, 0.1875f, 0.1875f, 0.09375f}));
  EXPECT_EQ(made.probes, (std::vector<PassProbe>{{1, 0, 0}, {3, 0, 1}, {4, 2, 0}}));
}

TEST(PassTree, FewRowsAreSpentOnDraftsThatAreSure) {
  const auto tokens = rankings(3, 1);
  const std::vector<std::vector<float>> sure{{0.9f}, {0.9f}, {0.9f}};
  const std::vector<std::vector<float>> doubtful{{0.1f}, {0.1f}, {0.1f}};
  const std::vector<double> rates{0.8, 0.8, 0.8};
  const auto candidates = [&](const auto& conditional) {
    const PassTree made = make_pass_tree({.rankings = tokens,
                                          .conditional = conditional,
                                          .hit_rates = rates,
                                          .max_nodes = 3,
                                          .max_depth = 8});
    return made.tree.size() - int(made.probes.size());
  };
  EXPECT_GE(candidates(sure), 2);
  EXPECT_EQ(candidates(doubtful), 0);
}

// --- the drafter --------------------------------------------------------------------------------

/// A target whose look-ahead rows put the truth at rank `rank(position)`.
ScriptedTarget::Options scripted(float temperature, const std::function<int(int64_t)>& rank) {
  ScriptedTarget::Options options;
  options.vocabulary = kVocabulary;
  options.temperature = temperature;
  options.lookahead_count = 4;
  const FakeTarget target(kVocabulary);
  options.next = [=](const std::vector<int32_t>& tokens) { return target.next(tokens, 1); };
  options.rank = [=](const std::vector<int32_t>& tokens, int index) {
    const int32_t truth = target.generate(tokens, index + 2, 1).back();
    const int place = rank(int64_t(tokens.size()) + index);
    std::vector<RankedToken> ranked;
    for (int r = 0; r < kRanked; ++r) {
      const int32_t other = (truth + 1 + r) % kVocabulary;
      ranked.push_back({float(-r), r == place ? truth : other});
    }
    return ranked;
  };
  return options;
}

const std::vector<int32_t> kPrompt{3, 1, 4, 1, 5};

int count_probes(const DraftTree& tree) {
  return int(std::ranges::count_if(tree.nodes, &DraftNode::probe));
}

TEST(PassDrafter, TwoPassAlternates) {
  for (float temperature : {0.0f, 1.0f}) {
    PassDrafter drafter({.two_pass = true, .candidates = kRanked}, 4);
    ScriptedTarget target(drafter, scripted(temperature, [](int64_t) { return 0; }), kPrompt);
    for (int round = 0; round < 10; ++round) {
      const ScriptedStep ask = target.step();
      EXPECT_EQ(
          ask.proposed.nodes,
          (std::vector<DraftNode>{{-1, -1, true}, {0, -2, true}, {1, -3, true}, {2, -4, true}}));
      EXPECT_EQ(ask.accepted, 0);
      const ScriptedStep verify = target.step();
      EXPECT_EQ(count_probes(verify.proposed), 0);
      EXPECT_EQ(verify.accepted, 4) << "round " << round;
    }
    // A step that asks yields one token, one that verifies all four and the next.
    EXPECT_EQ(target.tokens().size(), kPrompt.size() + 10 * 6);
  }
}

TEST(PassDrafter, OnePassAcceptsInEveryPass) {
  for (float temperature : {0.0f, 1.0f}) {
    PassDrafter drafter({.candidates = kRanked}, 4);
    ScriptedTarget target(drafter, scripted(temperature, [](int64_t) { return 0; }), kPrompt);
    const ScriptedStep first = target.step();
    EXPECT_EQ(count_probes(first.proposed), first.proposed.size());
    int accepted = 0;
    for (int round = 0; round < 60; ++round) {
      const ScriptedStep step = target.step();
      EXPECT_GT(count_probes(step.proposed), 0);
      if (round >= 20) accepted += step.accepted;
    }
    EXPECT_GE(accepted, 40 * 3) << "nearly all four drafts, once the figures are learned";
    const DraftCounts counts = drafter.take_counts();
    EXPECT_EQ(counts.outcomes, 61);
    EXPECT_GE(counts.outcomes_in_tree, 50);
    EXPECT_EQ(drafter.take_counts().outcomes, 0);
  }
}

TEST(PassDrafter, LearnsAtWhichRankTheTruthStands) {
  // The scores always speak for the first; the truth is the second.
  PassDrafter drafter({.candidates = kRanked}, 4);
  ScriptedTarget target(drafter, scripted(0, [](int64_t) { return 1; }), kPrompt);
  int late = 0;
  for (int round = 0; round < 300; ++round) {
    const ScriptedStep step = target.step(8);
    if (round >= 250) late += step.accepted;
  }
  EXPECT_GE(late, 50) << "with eight rows, the second candidates are the ones to verify";
  EXPECT_GT(drafter.hit_rate(0, false), 0.6);
  EXPECT_EQ(drafter.hit_rate(0, true), 0.5) << "nothing was learned about T > 0";
}

TEST(PassDrafter, RowsThatNeverHitAreGivenUp) {
  PassDrafter drafter({.candidates = kRanked}, 4);
  const auto rank = [](int64_t) { return kRanked; };  // the truth is not among them
  ScriptedTarget target(drafter, scripted(0, rank), kPrompt);
  int first = 0, last = 0;
  for (int round = 0; round < 300; ++round) {
    const ScriptedStep step = target.step();
    EXPECT_EQ(step.accepted, 0);
    (round < 10 ? first : last) = step.proposed.size();
  }
  EXPECT_LT(drafter.hit_rate(0, false), 0.05);
  EXPECT_LT(last, first);
}

TEST(PassDrafter, AfterALateOrCutTreeOlderRowsStillServe) {
  PassDrafter drafter({.candidates = kRanked}, 4);
  ScriptedTarget target(drafter, scripted(0, [](int64_t) { return 0; }), kPrompt);
  target.step();   // the rows of the root: drafts for the four positions after the next
  target.step(0);  // a late tree: one token passes by
  const ScriptedStep third = target.step();
  EXPECT_EQ(third.accepted, 3) << "three of the four are left";

  PassDrafter cut_drafter({.candidates = kRanked}, 4);
  ScriptedTarget cut(cut_drafter, scripted(0, [](int64_t) { return 0; }), kPrompt);
  cut.step();
  const DraftTree tree = cut.step(1).proposed;  // its candidate alone, without any row
  ASSERT_FALSE(tree.nodes[0].probe);
  const ScriptedStep after = cut.step();
  EXPECT_EQ(after.accepted, 2) << "two positions of the first rows' four are still to come";
}

TEST(PassDrafter, AnyCutAndAnyLossChangesNothingButSpeed) {
  for (bool two_pass : {false, true}) {
    uint32_t state = 1;
    const auto draw = [&](uint32_t below) {
      state = state * 1664525u + 1013904223u;
      return int((state >> 8) % below);
    };
    PassDrafter drafter({.two_pass = two_pass, .candidates = kRanked}, 4);
    const auto rank = [](int64_t position) { return int(position * 7 % (kRanked + 2)); };
    ScriptedTarget target(drafter, scripted(0.8f, rank), kPrompt);
    int accepted = 0;
    for (int round = 0; round < 400; ++round) {
      const int depth = draw(4) == 0 ? draw(5) : 1 << 20;
      accepted += target.step(draw(3) == 0 ? draw(20) : 1 << 20, depth).accepted;
    }
    EXPECT_GT(accepted, 40);
  }
}

TEST(PassDrafter, SmallLimitsAreKept) {
  for (int nodes = 0; nodes < 6; ++nodes) {
    for (int depth = 0; depth < 3; ++depth) {
      PassDrafter drafter({.candidates = kRanked}, 4);
      ScriptedTarget::Options options = scripted(0, [](int64_t) { return 0; });
      options.limits = {.max_nodes = nodes, .max_depth = depth, .top_k = 1 + nodes % 2};
      ScriptedTarget target(drafter, options, kPrompt);
      for (int round = 0; round < 20; ++round) {
        const ScriptedStep step = target.step();
        if (nodes == 0 || depth == 0) {
          EXPECT_TRUE(step.proposed.empty());
        }
      }
    }
  }
}

TEST(PassDrafter, SequencesComeAndGo) {
  PassDrafter drafter({}, 4);
  drafter.open({.id = 1, .tokens = {1, 2, 3}, .prompt_tokens = 3});
  drafter.open({.id = 2, .tokens = {1}, .prompt_tokens = 1});
  const std::vector<SequenceId> ids{2, 9, 1};
  auto trees = drafter.propose(ids, {});
  ASSERT_EQ(trees.size(), 3u);
  EXPECT_FALSE(trees[0].empty());
  EXPECT_TRUE(trees[1].empty());
  EXPECT_FALSE(trees[2].empty());
  drafter.advance({.id = 1, .base_length = 3});                 // a part of the prompt
  drafter.advance({.id = 9, .base_length = 3, .tokens = {4}});  // unknown
  drafter.close(2);
  trees = drafter.propose(ids, {});
  EXPECT_TRUE(trees[0].empty());
  EXPECT_FALSE(trees[2].empty());
  // Picks without rankings, and rankings with unused entries, will do.
  const DraftTree tree = trees[2];
  drafter.advance({.id = 1,
                   .base_length = 3,
                   .tokens = {4},
                   .verified = tree.size(),
                   .probes = {{.node = 0, .pick = 50},
                              {.node = 1, .pick = 51, .ranked = {{0.5f, 51}, {-1.0f, -1}}}}});
  trees = drafter.propose(ids, {.max_nodes = 32});
  EXPECT_EQ(std::ranges::count(trees[2].nodes, DraftNode{-1, 50, false}), 1);
}

// --- options and files --------------------------------------------------------------------------

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(PassOptions, AreParsed) {
  const PassOptions plain = PassOptions::parse("some/dir");
  EXPECT_EQ(plain.directory, "some/dir");
  EXPECT_FALSE(plain.two_pass);
  EXPECT_EQ(plain.lookahead, 0);
  const PassOptions all = PassOptions::parse("random,mode=two-pass,lookahead=3,candidates=5");
  EXPECT_TRUE(all.directory.empty());
  EXPECT_TRUE(all.two_pass);
  EXPECT_EQ(all.lookahead, 3);
  EXPECT_EQ(all.candidates, 5);
  for (const auto& [argument, word] :
       std::vector<std::pair<std::string, std::string>>{{"", "needs the directory"},
                                                        {",mode=one-pass", "needs the directory"},
                                                        {"d,mode=both", "one-pass or two-pass"},
                                                        {"d,lookahead=17", "from 1 to 16"},
                                                        {"d,candidates=0", "from 1 to 64"},
                                                        {"d,depth=3", "unknown option 'depth'"},
                                                        {"d,extra", "name=value"}}) {
    const std::string message = message_of([&] { PassOptions::parse(argument); });
    EXPECT_NE(message.find(word), std::string::npos) << argument << ": " << message;
  }
}

ModelConfig target_config(int hidden) {
  ModelConfig config;
  config.hidden = hidden;
  return config;
}

std::string floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::string header(const std::string& name, const std::string& dtype, const std::string& shape,
                   size_t bytes) {
  return fmt::format(R"({{"{}":{{"dtype":"{}","shape":{},"data_offsets":[0,{}]}}}})", name, dtype,
                     shape, bytes);
}

TEST(LookaheadTable, IsReadAndChecked) {
  const TemporaryDirectory directory;
  const std::filesystem::path& path = directory.path();
  const std::string good = R"({"drafter": "pass", "lookahead_tokens": 2, "hidden_size": 3})";
  const std::string weights =
      safetensors_bytes(header("lookahead.weight", "F32", "[2,3]", 24), floats({1, 2, 3, 4, 5, 6}));
  directory.write("config.json", good);
  directory.write("model.safetensors", weights);
  const LookaheadTable table = load_lookahead(path, target_config(3));
  EXPECT_EQ(table.count, 2);
  EXPECT_EQ(table.hidden, 3);
  EXPECT_EQ(table.values, (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(pass_lookahead({.directory = path}, target_config(3)), 2);
  EXPECT_EQ(pass_lookahead({.directory = path, .lookahead = 1}, target_config(3)), 1);

  // bfloat16 1, -2, 0.5 twice.
  const std::string bf16("\x80\x3f\x00\xc0\x00\x3f\x80\x3f\x00\xc0\x00\x3f", 12);
  directory.write("model.safetensors",
                  safetensors_bytes(header("lookahead.weight", "BF16", "[2,3]", 12), bf16));
  EXPECT_EQ(load_lookahead(path, target_config(3)).values,
            (std::vector<float>{1, -2, 0.5f, 1, -2, 0.5f}));

  const auto expect_message = [&](const std::vector<std::string>& words, int hidden = 3) {
    const std::string message = message_of([&] { load_lookahead(path, target_config(hidden)); });
    for (const std::string& word : words) {
      EXPECT_NE(message.find(word), std::string::npos) << "'" << message << "' lacks " << word;
    }
  };
  expect_message({"config.json", "hidden_size", "is 3", "target's is 8"}, 8);
  const std::string asks_more =
      message_of([&] { pass_lookahead({.directory = path, .lookahead = 3}, target_config(3)); });
  EXPECT_NE(asks_more.find("lookahead is 3"), std::string::npos) << asks_more;
  EXPECT_NE(asks_more.find("has 2"), std::string::npos) << asks_more;

  directory.write("model.safetensors",
                  safetensors_bytes(header("lookahead.weight", "F32", "[3,2]", 24),
                                    floats({1, 2, 3, 4, 5, 6})));
  expect_message({"lookahead.weight", "[3, 2]", "[2, 3]"});
  directory.write("model.safetensors",
                  safetensors_bytes(header("lookahead.weight", "F32", "[2,3]", 24),
                                    floats({1, 2, 3, 4, std::nanf(""), 6})));
  expect_message({"lookahead.weight", "nan", "[1, 1]"});
  directory.write("model.safetensors", safetensors_bytes(header("other", "F32", "[2,3]", 24),
                                                         floats({1, 2, 3, 4, 5, 6})));
  expect_message({"no tensor 'lookahead.weight'"});
  directory.write(
      "model.safetensors",
      safetensors_bytes(header("lookahead.weight", "I64", "[2,3]", 48), std::string(48, '\0')));
  expect_message({"lookahead.weight", "int64", "float32"});
  directory.write("config.json",
                  R"({"drafter": "eagle", "lookahead_tokens": 2, "hidden_size": 3})");
  expect_message({"config.json", "'drafter'", "eagle", "pass"});
  directory.write("config.json",
                  R"({"drafter": "pass", "lookahead_tokens": 17, "hidden_size": 3})");
  expect_message({"lookahead_tokens", "17", "16"});
  directory.write("config.json", "[]");
  expect_message({"config.json", "object"});
}

TEST(LookaheadTable, RandomOnesAreTheSameEverywhere) {
  const LookaheadTable table = random_lookahead(3, 5);
  EXPECT_EQ(table.values.size(), 15u);
  EXPECT_EQ(table.values, random_lookahead(3, 5).values);
  EXPECT_NE(table.values[0], table.values[1]);
}

}  // namespace
}  // namespace convoke
