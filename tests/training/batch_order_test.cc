#include "training/data/batch_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

namespace convoke {
namespace {

using ::testing::ElementsAre;

/// The first `count` indices that steps of `batch` give.
std::vector<int64_t> stream(uint64_t seed, int64_t sequences, int batch, size_t count) {
  BatchOrder order(seed, sequences, batch);
  std::vector<int64_t> all;
  for (int64_t step = 0; all.size() < count; ++step) {
    const auto indices = order.batch(step);
    EXPECT_EQ(indices.size(), size_t(batch));
    all.insert(all.end(), indices.begin(), indices.end());
  }
  all.resize(count);
  return all;
}

std::vector<int64_t> sorted(std::vector<int64_t> values) {
  std::ranges::sort(values);
  return values;
}

std::vector<int64_t> counted(int64_t count) {
  std::vector<int64_t> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

TEST(BatchOrder, EveryEpochIsEverySequenceOnce) {
  for (const int64_t sequences : {1, 2, 7, 100}) {
    for (const int batch : {1, 3, 8, 250}) {
      const auto all = stream(5, sequences, batch, size_t(4 * sequences));
      for (int64_t epoch = 0; epoch < 4; ++epoch) {
        const auto begin = all.begin() + epoch * sequences;
        EXPECT_EQ(sorted({begin, begin + sequences}), counted(sequences))
            << sequences << " sequences, batches of " << batch << ", epoch " << epoch;
      }
    }
  }
}

TEST(BatchOrder, BatchSizeCutsTheSameOrder) {
  const auto one = stream(5, 23, 1, 200);
  EXPECT_EQ(stream(5, 23, 4, 200), one);
  EXPECT_EQ(stream(5, 23, 64, 200), one);
}

TEST(BatchOrder, StepsInAnyOrderAndFromAnyObjectAreTheSame) {
  BatchOrder order(9, 10, 4);
  std::map<int64_t, std::vector<int64_t>> batches;
  for (int64_t step = 0; step < 30; ++step) batches[step] = order.batch(step);
  for (const int64_t step : {29, 0, 17, 17, 2, 3}) {
    EXPECT_EQ(order.batch(step), batches[step]);
    EXPECT_EQ(BatchOrder(9, 10, 4).batch(step), batches[step]) << "resumed at " << step;
  }
}

TEST(BatchOrder, EpochsAndSeedsDiffer) {
  const auto all = stream(3, 50, 50, 50 * 20);
  std::set<std::vector<int64_t>> orders;
  for (int epoch = 0; epoch < 20; ++epoch) {
    orders.insert({all.begin() + epoch * 50, all.begin() + (epoch + 1) * 50});
  }
  EXPECT_EQ(orders.size(), 20u);
  EXPECT_FALSE(orders.contains(counted(50)));
  for (const uint64_t seed : {uint64_t{4}, uint64_t{3} << 32, ~uint64_t{0}}) {
    EXPECT_NE(stream(seed, 50, 50, 50), std::vector<int64_t>(all.begin(), all.begin() + 50));
  }
}

/// Of 24 orders of four sequences each comes up as often as the others: chi-squared with 23
/// degrees of freedom stays below its 99.9 % point.
TEST(BatchOrder, OrdersAreEquallyLikely) {
  constexpr int kEpochs = 24000;
  const auto all = stream(1, 4, 4, 4 * kEpochs);
  std::map<std::vector<int64_t>, int> counts;
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    ++counts[{all.begin() + epoch * 4, all.begin() + (epoch + 1) * 4}];
  }
  EXPECT_EQ(counts.size(), 24u);
  double squared = 0;
  for (const auto& [order, count] : counts) squared += (count - 1000.0) * (count - 1000.0) / 1000;
  EXPECT_LT(squared, 49.7);
  EXPECT_GT(squared, 5);  // and not as evenly as no dice are
}

/// Checkpoints name a step only, so this order is a promise.
TEST(BatchOrder, IsTheSameInEveryVersion) {
  EXPECT_THAT(stream(42, 6, 3, 12), ElementsAre(2, 1, 5, 4, 0, 3, 3, 1, 2, 0, 4, 5));
}

TEST(BatchOrder, CountsEpochs) {
  EXPECT_DOUBLE_EQ(BatchOrder(1, 8, 2).epochs(6), 1.5);
  EXPECT_DOUBLE_EQ(BatchOrder(1, 2, 8).epochs(1), 4);
}

}  // namespace
}  // namespace convoke
