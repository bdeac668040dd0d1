#include "parallel/tree_sum.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace convoke {
namespace {

// Addition of these is not associative, so every other order gives another result.
TEST(TreeSum, ParenthesisedExactly) {
  const std::array<float, 8> v = {1e8F, 1.F, -1e8F, 3.F, 0.1F, 16777216.F, 1.F, -7e7F};
  std::array<const float*, 8> sources{};
  for (size_t i = 0; i < 8; ++i) sources[i] = &v[i];
  const float start = 0.3F;
  float target = start;
  add_tree_sum(sources.data(), 1, &target, {0, 1});
  EXPECT_EQ(target, start + v[0]);
  target = start;
  add_tree_sum(sources.data(), 2, &target, {0, 1});
  EXPECT_EQ(target, start + (v[0] + v[1]));
  target = start;
  add_tree_sum(sources.data(), 4, &target, {0, 1});
  EXPECT_EQ(target, start + ((v[0] + v[1]) + (v[2] + v[3])));
  target = start;
  add_tree_sum(sources.data(), 8, &target, {0, 1});
  const float sum = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
  EXPECT_EQ(target, start + sum);
  EXPECT_NE(sum, ((((((v[0] + v[1]) + v[2]) + v[3]) + v[4]) + v[5]) + v[6]) + v[7]);
  store_tree_sum(sources.data(), 8, &target, {0, 1});
  EXPECT_EQ(target, sum);
}

TEST(TreeSum, InPlaceAndOnlyInTheRange) {
  std::vector<float> a(100, 1.F);
  std::vector<float> b(100, 2.F);
  const float* sources[] = {a.data(), b.data()};
  store_tree_sum(sources, 2, b.data(), {33, 77});
  for (int64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(b[size_t(i)], i >= 33 && i < 77 ? 3.F : 2.F);
    EXPECT_EQ(a[size_t(i)], 1.F);
  }
  store_tree_sum(sources, 2, b.data(), {50, 50});
  EXPECT_EQ(b[50], 3.F);
}

TEST(PieceOf, CoversTheWholeOnceAtMultiplesOfTheUnit) {
  for (const int64_t count : {0, 1, 15, 16, 17, 100, 4096, 100'001}) {
    for (const int parts : {1, 2, 3, 4, 7, 8, 64}) {
      int64_t next = 5;
      for (int p = 0; p < parts; ++p) {
        const Range piece = piece_of({5, 5 + count}, p, parts, 16);
        EXPECT_EQ(piece.begin, next);
        EXPECT_LE(piece.begin, piece.end);
        EXPECT_LE(piece.size(), (count / 16 + 1) / parts * 16 + 16);
        EXPECT_TRUE(piece.end == 5 + count || (piece.end - 5) % 16 == 0);
        next = piece.end;
      }
      EXPECT_EQ(next, 5 + count);
    }
  }
}

}  // namespace
}  // namespace convoke
