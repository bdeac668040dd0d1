// Names of feature rows: what can be read, what cannot any more, and what may not be overwritten.
#include "runtime/feature_ring.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "kernels/cpu/cpu_backend.h"

namespace convoke {
namespace {

constexpr int kPlaces = 3, kPassRows = 40;
constexpr int64_t kRows = kNamesThatStay + 2 * kPassRows;

class Ring : public ::testing::Test {
 protected:
  std::vector<int64_t> take(int count) {
    std::vector<int64_t> names;
    taken = ring->take(count, names);
    EXPECT_EQ(names.size(), taken ? size_t(count) : 0);
    return names;
  }
  std::unique_ptr<Backend> backend = cpu::make_cpu_backend({});
  std::shared_ptr<FeatureRing> ring = std::make_shared<FeatureRing>(kPlaces, kPassRows);
  bool taken = false;
};

TEST_F(Ring, NamesNothingThatNobodyReadsOrThatIsNotExported) {
  ring->prepare(*backend, DType::kBFloat16, 8);
  take(4);
  EXPECT_FALSE(taken);
  FeatureRing::Reader reader(ring);
  take(4);
  EXPECT_TRUE(taken);
  ring->prepare(*backend, DType::kBFloat16, 0);
  take(4);
  EXPECT_FALSE(taken);
  EXPECT_EQ(ring->rows().rows, 0);
}

TEST_F(Ring, RowsStayForAsManyAsPromisedAndAreThenNoMore) {
  FeatureRing::Reader reader(ring);
  ring->prepare(*backend, DType::kFloat32, 8);
  EXPECT_EQ(ring->rows().rows, kRows);
  const std::vector<int64_t> first = take(kPassRows);
  int64_t after = 0;
  for (; after < kNamesThatStay; after += kPassRows) take(kPassRows);
  {
    const FeatureRing::Reading reading(*ring, first[0]);
    for (const int64_t name : first) EXPECT_EQ(reading.row(name), name % kRows);
  }
  while (after + 2 * kPassRows <= kRows) take(kPassRows), after += kPassRows;
  {
    const FeatureRing::Reading reading(*ring, first[0]);
    EXPECT_EQ(reading.row(first.back()), first.back() % kRows);
  }
  take(kPassRows), take(kPassRows);
  const FeatureRing::Reading reading(*ring, first[0]);
  for (const int64_t name : first) EXPECT_EQ(reading.row(name), -1);
  EXPECT_EQ(reading.row(-1), -1);
  EXPECT_EQ(reading.row(int64_t{1} << 40), -1) << "not named yet";
}

TEST_F(Ring, WhatIsBeingReadIsNotOverwritten) {
  FeatureRing::Reader reader(ring);
  ring->prepare(*backend, DType::kFloat32, 8);
  const std::vector<int64_t> first = take(kPassRows), second = take(kPassRows);
  {
    const FeatureRing::Reading reading(*ring, second[0]);
    int64_t named = 2 * kPassRows;
    do {
      take(8);
      named += taken ? 8 : 0;
    } while (taken);
    // All rows but those from the oldest that is read are used up.
    EXPECT_EQ(named, kRows + kPassRows);
    EXPECT_EQ(reading.row(second[0]), second[0]);
    EXPECT_EQ(reading.row(second.back()), second.back());
  }
  take(8);
  EXPECT_TRUE(taken);
}

TEST_F(Ring, OwnRowsAreBehindAndApart) {
  FeatureRing::Reader reader(ring);
  ring->prepare(*backend, DType::kBFloat16, 5);
  const FeatureRing::Reading reading(*ring, 0);
  EXPECT_EQ(reading.all().rows, kRows + 2 * kPlaces);
  EXPECT_EQ(reading.named().rows, kRows);
  EXPECT_EQ(reading.own_row(0, 0), kRows);
  EXPECT_EQ(reading.own_row(kPlaces - 1, 1), reading.all().rows - 1);
  EXPECT_EQ(FeatureRing::bytes(kPlaces, kPassRows, 5, DType::kBFloat16),
            reading.all().rows * 5 * 2);
}

TEST_F(Ring, OtherFeaturesHaveOtherMemoryAndOldNamesAreGone) {
  FeatureRing::Reader reader(ring);
  ring->prepare(*backend, DType::kBFloat16, 8);
  const std::vector<int64_t> old = take(4);
  const void* const before = ring->rows().data;
  ring->prepare(*backend, DType::kBFloat16, 8);
  EXPECT_EQ(ring->rows().data, before) << "the same again";
  EXPECT_GE(FeatureRing::Reading(*ring, old[0]).row(old[0]), 0);
  {
    const FeatureRing::Reading reading(*ring, old[0]);
    ring->prepare(*backend, DType::kFloat32, 24);
    // What is being read stays until it has been.
    std::memset(reading.all().data, 1, 8 * sizeof(uint16_t));
    EXPECT_EQ(reading.row(old[0]), old[0]);
  }
  const FeatureRing::Reading reading(*ring, old[0]);
  EXPECT_EQ(reading.all().cols, 24);
  for (const int64_t name : old) EXPECT_EQ(reading.row(name), -1);
}

// A writer that never waits and a reader that is slow: what is read is what was written.
TEST_F(Ring, ThreadsSeeWholeRows) {
  FeatureRing::Reader reader(ring);
  ring->prepare(*backend, DType::kFloat32, 1);
  std::atomic<int64_t> told{-1};
  std::atomic<bool> done{false};
  int64_t read = 0, late = 0;
  std::thread drafter([&] {
    for (int64_t seen = -1; !done.load();) {
      const int64_t name = told.load();
      if (name == seen) continue;
      seen = name;
      const FeatureRing::Reading reading(*ring, name - 30);
      for (int64_t n = std::max<int64_t>(0, name - 30); n <= name; ++n) {
        const int32_t row = reading.row(n);
        if (row < 0) {
          ++late;
          continue;
        }
        ASSERT_EQ(*reading.all().row<float>(row), float(n));
        ++read;
      }
    }
  });
  int refused = 0;
  std::vector<int64_t> names;
  for (int pass = 0; pass < 20000; ++pass) {
    if (!ring->take(1 + pass % kPassRows, names)) {
      ++refused;
      continue;
    }
    for (const int64_t name : names) *ring->rows().row<float>(ring->row_of(name)) = float(name);
    told.store(names.back());
  }
  done.store(true);
  drafter.join();
  EXPECT_GT(read, 0);
  EXPECT_LT(refused, 20000);
}

}  // namespace
}  // namespace convoke
