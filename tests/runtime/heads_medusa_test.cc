// Medusa heads against PyTorch, and the trees that are made of their candidates.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/noise.h"
#include "runtime/drafters/medusa.h"
#include "tests/support/heads_fixture.h"

namespace convoke {
namespace {

using testing::GoldenHead;
using testing::load_golden_head;

const char* const kNames[] = {"medusa-fp32", "medusa-two-layers-bf16"};

struct OpenMedusa {
  OpenMedusa(const GoldenHead& golden, int threads = 1, const std::string& dtype = "float32",
             bool shared_noise = true, bool float8 = false)
      : backend(cpu::make_cpu_backend({.threads = threads})),
        source(open_head(golden.directory)),
        heads(
            *backend,
            load_head_config(HeadKind::kMedusa, golden.directory, ModelConfig::load(golden.target)),
            *source,
            {.max_rows = 7, .shared_noise = shared_noise, .dtype = dtype, .float8 = float8}) {}
  std::unique_ptr<Backend> backend;
  std::shared_ptr<const TensorSource> source;
  MedusaHeads heads;
};

MedusaHeads::Row row_of(const std::vector<float>& feature) {
  return {.feature = {feature.data(), DType::kFloat32}, .params = {}};
}

TEST(Medusa, WeightsOf8BitsRankAlmostTheSame) {
  for (const char* name : kNames) {
    const GoldenHead golden = load_golden_head(name);
    OpenMedusa wide(golden, 1, "bfloat16"), narrow(golden, 1, "bfloat16", true, true);
    std::vector<MedusaHeads::Row> rows;
    for (const auto& feature : golden.features) rows.push_back(row_of(feature));
    wide.heads.rank(rows, 24), narrow.heads.rank(rows, 24);
    double moved = 0;
    for (int head = 0; head < wide.heads.heads(); ++head) {
      for (size_t r = 0; r < rows.size(); ++r) {
        const auto before = wide.heads.ranked(int(r), head);
        const auto after = narrow.heads.ranked(int(r), head);
        ASSERT_EQ(after.size(), before.size());
        const double largest = std::abs(before[0].score);
        for (size_t i = 0; i < before.size(); ++i) {
          moved = std::max(moved, std::abs(double(after[i].score) - before[i].score) / largest);
        }
      }
    }
    EXPECT_GT(moved, 1e-3) << name << ": the weights have all of their bits";
    EXPECT_LT(moved, 0.25) << name;
  }
}

TEST(Medusa, CandidatesAreThoseOfPyTorch) {
  for (const char* name : kNames) {
    const GoldenHead golden = load_golden_head(name);
    for (const char* dtype : {"float32", "bfloat16"}) {
      OpenMedusa medusa(golden, 1, dtype);
      const double tolerance = dtype[0] == 'f' ? 1e-4 : 3 * golden.bfloat16_error;
      ASSERT_EQ(medusa.heads.heads(), int(golden.heads.size()));
      std::vector<MedusaHeads::Row> rows;
      for (const auto& feature : golden.features) rows.push_back(row_of(feature));
      medusa.heads.rank(rows, 24);
      for (int head = 0; head < medusa.heads.heads(); ++head) {
        for (size_t r = 0; r < rows.size(); ++r) {
          const auto& best = golden.heads[size_t(head)][r];
          const auto ours = medusa.heads.ranked(int(r), head);
          ASSERT_EQ(ours.size(), best.ids.size());
          const double allowed = tolerance * std::abs(best.scores[0]);
          for (size_t i = 0; i < ours.size(); ++i) {
            EXPECT_NEAR(ours[i].score, best.scores[i], allowed) << name << " " << dtype;
            const auto at = std::ranges::find(best.ids, ours[i].token);
            if (at == best.ids.end()) continue;  // changed places with what is not listed
            EXPECT_NEAR(ours[i].score, best.scores[size_t(at - best.ids.begin())], allowed);
          }
        }
      }
    }
  }
}

TEST(Medusa, SameBitsAloneAndTogetherOnAnyNumberOfThreads) {
  for (const char* name : kNames) {
    const GoldenHead golden = load_golden_head(name);
    for (const char* dtype : {"float32", "bfloat16"}) {
      std::vector<std::vector<RankedToken>> expected;
      OpenMedusa alone(golden, 1, dtype);
      for (const auto& feature : golden.features) {
        const MedusaHeads::Row row = row_of(feature);
        alone.heads.rank({&row, 1}, 10);
        for (int head = 0; head < alone.heads.heads(); ++head) {
          const auto best = alone.heads.ranked(0, head);
          expected.emplace_back(best.begin(), best.end());
        }
      }
      for (const int threads : {1, 2, 3}) {
        OpenMedusa medusa(golden, threads, dtype);
        std::vector<MedusaHeads::Row> rows;
        for (const auto& feature : golden.features) rows.push_back(row_of(feature));
        medusa.heads.rank(rows, 10);
        std::vector<std::vector<RankedToken>> together;
        for (size_t r = 0; r < rows.size(); ++r) {
          for (int head = 0; head < medusa.heads.heads(); ++head) {
            const auto best = medusa.heads.ranked(int(r), head);
            together.emplace_back(best.begin(), best.end());
          }
        }
        EXPECT_EQ(together, expected) << name << " " << dtype << " " << threads;
      }
    }
  }
}

TEST(Medusa, EveryHeadRanksWithTheNoiseOfItsOwnPosition) {
  const GoldenHead golden = load_golden_head("medusa-fp32");
  for (const bool shared : {true, false}) {
    OpenMedusa medusa(golden, 1, "float32", shared);
    MedusaHeads::Row row = row_of(golden.features[0]);
    const auto scores_of = [&](int head) {
      std::map<int32_t, float> scores;
      for (const RankedToken& t : medusa.heads.ranked(0, head)) scores[t.token] = t.score;
      return scores;
    };
    medusa.heads.rank({&row, 1}, 64);
    std::vector<std::map<int32_t, float>> plain;
    for (int head = 0; head < medusa.heads.heads(); ++head) plain.push_back(scores_of(head));
    row.params.temperature = 0.5f;
    row.params.seed = 7;
    row.params.position = 1000;
    medusa.heads.rank({&row, 1}, 64);
    for (int head = 0; head < medusa.heads.heads(); ++head) {
      int compared = 0;
      for (const auto& [token, score] : scores_of(head)) {
        const auto before = plain[size_t(head)].find(token);
        if (before == plain[size_t(head)].end()) continue;
        float expected = before->second / 0.5f;
        if (shared) expected += gumbel(7, 1000 + head, token);
        EXPECT_EQ(score, expected) << "head " << head;
        ++compared;
      }
      EXPECT_GT(compared, 20);
    }
  }
}

// --- trees --------------------------------------------------------------------------------------

class MedusaTrees : public ::testing::Test {
 protected:
  GoldenHead golden = load_golden_head("medusa-fp32");
  DraftContext context = testing::golden_context(golden, {});
  std::unique_ptr<Drafter> drafter =
      make_drafter(DrafterSpec::parse("medusa:" + golden.directory.string()), context);
  std::vector<float> flat = golden.features[1];

  void open(SequenceId id, float temperature = 0) {
    DraftSequence sequence{.id = id, .tokens = {1, 2, 3}, .prompt_tokens = 3};
    sequence.sampling.temperature = temperature;
    drafter->open(sequence);
  }
  void advance(SequenceId id, int base, std::vector<int32_t> tokens, int feature_begin) {
    DraftVerdict verdict{.id = id, .base_length = base, .tokens = std::move(tokens)};
    verdict.feature_begin = feature_begin;
    verdict.features = TensorView::matrix(flat.data(), DType::kFloat32, 1, int64_t(flat.size()));
    drafter->advance(verdict);
  }
  DraftTree propose(SequenceId id, const DraftLimits& limits) {
    return drafter->propose(std::vector<SequenceId>{id}, limits)[0];
  }
};

TEST_F(MedusaTrees, HoldTheBestProductsInOrder) {
  open(1);
  EXPECT_TRUE(propose(1, {}).empty()) << "nothing has been picked yet";
  advance(1, 3, {4}, 2);
  const DraftTree tree = propose(1, {.max_nodes = 40, .max_depth = 8});
  ASSERT_EQ(tree.size(), 40);
  EXPECT_EQ(find_defect(tree, 131, 0), "");
  EXPECT_TRUE(std::ranges::is_sorted(tree.gains, std::greater<>()));
  const std::vector<int> depths = tree.depths();
  EXPECT_EQ(*std::ranges::max_element(depths), 2) << "three heads";
  for (int n = 0; n < tree.size(); ++n) {
    const DraftNode& node = tree.nodes[size_t(n)];
    const auto& ids = golden.heads[size_t(depths[size_t(n)])][1].ids;
    const auto rank = std::ranges::find(ids, node.token) - ids.begin();
    EXPECT_LT(rank, 10) << "node " << n;
    const float above = node.parent < 0 ? 1.0f : tree.gains[size_t(node.parent)];
    EXPECT_LE(tree.gains[size_t(n)], above);
    // Siblings come in the order of their ranks.
    for (int m = 0; m < n; ++m) {
      if (tree.nodes[size_t(m)].parent != node.parent) continue;
      EXPECT_LT(std::ranges::find(ids, tree.nodes[size_t(m)].token) - ids.begin(), rank);
    }
  }
  // Limits are kept, and a prefix of the large tree is the small one.
  const DraftTree small = propose(1, {.max_nodes = 7, .max_depth = 8});
  EXPECT_TRUE(std::ranges::equal(small.nodes, std::span(tree.nodes).first(7)));
  const DraftTree flat_tree = propose(1, {.max_nodes = 40, .max_depth = 1, .top_k = 4});
  EXPECT_EQ(flat_tree.size(), 4);
  EXPECT_EQ(drafter->take_counts().passes, 3);
  EXPECT_EQ(drafter->take_counts().passes, 0);
}

TEST_F(MedusaTrees, UseTheNoiseOfThePositionsTheyGuess) {
  open(1, 0.9f);
  advance(1, 3, {4}, 2);
  const DraftTree tree = propose(1, {.max_nodes = 200, .max_depth = 8});
  OpenMedusa medusa(golden);
  MedusaHeads::Row row = row_of(golden.features[1]);
  row.params.temperature = 0.9f;
  row.params.position = 4;  // four tokens are committed: 0 to 3
  medusa.heads.rank({&row, 1}, 1);
  int32_t parent = -1;
  for (int head = 0; head < 3; ++head) {
    const auto best = std::ranges::find(tree.nodes, parent, &DraftNode::parent);
    ASSERT_NE(best, tree.nodes.end());
    EXPECT_EQ(best->token, medusa.heads.ranked(0, head)[0].token) << "head " << head;
    parent = int32_t(best - tree.nodes.begin());
  }
}

TEST_F(MedusaTrees, LearnWhichCandidatesAreRight) {
  open(1);
  advance(1, 3, {4}, 2);
  const DraftLimits limits{.max_nodes = 30, .max_depth = 3};
  const int32_t third = golden.heads[0][1].ids[2];
  const float before = propose(1, limits).gains[0];
  // The first head's third candidate is right again and again: the first one's gain goes down.
  int length = 4;
  float after = before;
  for (int round = 0; round < 60; ++round) {
    const DraftTree tree = propose(1, limits);
    ASSERT_FALSE(tree.empty());
    after = tree.gains[0];
    advance(1, length, {third}, length - 1);
    ++length;
  }
  EXPECT_LT(after, before / 2);
}

TEST_F(MedusaTrees, WithoutTheLastFeatureThereIsNone) {
  open(1);
  advance(1, 3, {4}, 2);
  EXPECT_FALSE(propose(1, {}).empty());
  DraftVerdict silent{.id = 1, .base_length = 4, .tokens = {5}};
  drafter->advance(silent);
  EXPECT_TRUE(propose(1, {}).empty());
  advance(1, 5, {6}, 4);
  EXPECT_FALSE(propose(1, {}).empty());
  drafter->close(1);
  EXPECT_TRUE(propose(1, {}).empty());
  advance(1, 6, {7}, 5);  // of a sequence that is gone
  // Many at once, unknown ones among them.
  std::vector<SequenceId> ids;
  for (SequenceId id = 10; id < 19; ++id) {
    open(id, id % 2 == 0 ? 0.0f : 1.0f);
    advance(id, 3, {4}, 2);
    ids.push_back(id);
  }
  ids.push_back(99);
  const std::vector<DraftTree> trees = drafter->propose(ids, {});
  ASSERT_EQ(trees.size(), 10u);
  for (size_t i = 0; i < 9; ++i) EXPECT_FALSE(trees[i].empty());
  EXPECT_EQ(trees[0], trees[2]) << "the same text twice";
  EXPECT_TRUE(trees[9].empty());
  EXPECT_TRUE(drafter->propose(ids, {.max_nodes = 0})[0].empty());
}

TEST(MedusaNeeds, FinalFeaturesOfTheTarget) {
  const GoldenHead golden = load_golden_head("medusa-fp32");
  const ModelConfig target = ModelConfig::load(golden.target);
  for (const auto& argument : {golden.directory.string(), std::string("random")}) {
    const DraftNeeds needs = draft_needs(DrafterSpec::parse("medusa:" + argument), target);
    EXPECT_EQ(needs.features.kind, FeatureSpec::Kind::kFinal);
    EXPECT_EQ(needs.features.width(target), 32);
    const auto drafter =
        make_drafter(DrafterSpec::parse("medusa:" + argument), testing::golden_context(golden, {}));
    EXPECT_EQ(drafter->name(), "medusa");
  }
  EXPECT_THROW(DrafterSpec::parse("medusa"), Error);
}

}  // namespace
}  // namespace convoke
