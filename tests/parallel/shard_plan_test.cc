#include "parallel/shard_plan.h"

#include <gtest/gtest.h>

#include "kernels/check.h"

namespace convoke {
namespace {

constexpr ModelExtents kLlama8B{32, 8, 128, 14336, 128256};
constexpr ModelExtents kDemo{8, 4, 64, 1408, 8192};

TEST(ShardPlan, GroupsAreEightOrTheLargestThatDivides) {
  EXPECT_EQ(reduction_groups(kLlama8B), 8);
  EXPECT_EQ(reduction_groups({12, 4, 64, 1024, 100}), 4);
  EXPECT_EQ(reduction_groups({14, 2, 64, 4864, 100}), 2);  // Qwen2 0.5B
  EXPECT_EQ(reduction_groups({7, 7, 64, 64, 100}), 1);
  EXPECT_EQ(reduction_groups({8, 8, 64, 12, 100}), 4);  // the MLP width limits
}

TEST(ShardPlan, SlicesCoverTheModelOnce) {
  for (const ModelExtents& e : {kLlama8B, kDemo}) {
    for (const int tp : {1, 2, 4, 8}) {
      int64_t heads = 0, intermediate = 0, vocabulary = 0;
      for (int r = 0; r < tp; ++r) {
        const ShardPlan plan = make_shard_plan(e, tp, r);
        EXPECT_EQ(plan.rank, r);
        EXPECT_EQ(plan.tp, tp);
        EXPECT_EQ(plan.groups, 8);
        EXPECT_EQ(plan.local_groups, 8 / tp);
        EXPECT_EQ(plan.heads.begin, heads);
        EXPECT_EQ(plan.intermediate.begin, intermediate);
        EXPECT_EQ(plan.vocabulary.begin, vocabulary);
        EXPECT_EQ(plan.local_heads() % plan.local_groups, 0);
        EXPECT_EQ(plan.intermediate.size() % plan.local_groups, 0);
        EXPECT_TRUE(plan.vocabulary.end % 16 == 0 || r + 1 == tp);
        heads = plan.heads.end;
        intermediate = plan.intermediate.end;
        vocabulary = plan.vocabulary.end;
      }
      EXPECT_EQ(heads, e.heads);
      EXPECT_EQ(intermediate, e.intermediate);
      EXPECT_EQ(vocabulary, e.vocabulary);
    }
  }
}

TEST(ShardPlan, EveryQueryHeadHasItsKeyValueHead) {
  for (const int kv_heads : {1, 2, 4, 8}) {
    const ModelExtents e{8, kv_heads, 64, 1024, 1000};
    for (const int tp : {1, 2, 4, 8}) {
      for (int r = 0; r < tp; ++r) {
        const ShardPlan plan = make_shard_plan(e, tp, r);
        EXPECT_EQ(plan.local_kv_heads(), std::max(1, kv_heads / tp));
        for (int64_t h = plan.heads.begin; h < plan.heads.end; ++h) {
          const int64_t kv = h * kv_heads / e.heads;
          EXPECT_LE(plan.kv_heads.begin, kv);
          EXPECT_LT(kv, plan.kv_heads.end);
        }
      }
    }
  }
}

TEST(ShardPlan, VocabularyIsCutAtTilesAndMayBeEmpty) {
  const ModelExtents e{8, 8, 16, 64, 20};  // two tiles of 16, the second with 4 rows
  int64_t rows = 0;
  int empty = 0;
  for (int r = 0; r < 8; ++r) {
    const Range range = make_shard_plan(e, 8, r).vocabulary;
    EXPECT_LE(range.begin, range.end);
    rows += range.size();
    empty += range.size() == 0;
  }
  EXPECT_EQ(rows, 20);
  EXPECT_EQ(empty, 6);
}

TEST(ShardPlan, SizesThatDoNotDivideAreRefusedWithThoseThatWould) {
  const auto message_for = [](const ModelExtents& e, int tp) -> std::string {
    try {
      make_shard_plan(e, tp, 0);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return error.what();
    }
    return "accepted";
  };
  EXPECT_NE(message_for(kLlama8B, 3).find("possible sizes: 1, 2, 4, 8"), std::string::npos);
  EXPECT_NE(message_for(kLlama8B, 0).find("tensor-parallel size 0"), std::string::npos);
  EXPECT_NE(message_for(kLlama8B, 16).find("16"), std::string::npos);
  // 14 heads, 2 key/value heads: two groups.
  EXPECT_NE(message_for({14, 2, 64, 4864, 100}, 4).find("possible sizes: 1, 2"), std::string::npos);
  EXPECT_EQ(message_for({14, 2, 64, 4864, 100}, 2), "accepted");
}

}  // namespace
}  // namespace convoke
