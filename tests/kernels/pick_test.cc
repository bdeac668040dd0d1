#include "kernels/cpu/pick.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/kernels/pick_oracle.h"

namespace convoke::pick_test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

#define EXPECT_SAME(a, b)                                                                      \
  EXPECT_TRUE(same(a, b)) << (a).token << ' ' << (a).score << ' ' << (a).digest << " against " \
                          << (b).token << ' ' << (b).score << ' ' << (b).digest

Row random_row(int64_t size, uint32_t seed, float spread = 3) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  Row row(static_cast<size_t>(size));
  for (float& l : row) l = normal(random);
  return row;
}

PickRow at(float temperature, uint64_t seed, int64_t position) {
  PickRow row;
  row.temperature = temperature;
  row.seed = seed;
  row.position = position;
  return row;
}

class PickOnEveryPath : public testing::TestWithParam<std::tuple<cpu::Isa, int>> {
 protected:
  cpu::Isa isa() const { return std::get<0>(GetParam()); }
  int threads() const { return std::get<1>(GetParam()); }
  /// One thread tries them all; more threads than processors take their time.
  int trials(int most) const { return threads() == 1 ? most : most / 8; }
  cpu::Team team_{std::get<1>(GetParam())};

  void expect_rule(const Row& row, const PickRow& params) { expect_rule(row, std::vector{params}); }

  /// The same row once per element of `params`, all in one call.
  void expect_rule(const Row& row, const std::vector<PickRow>& params) {
    Row logits;
    for (size_t r = 0; r < params.size(); ++r) {
      logits.insert(logits.end(), row.begin(), row.end());
    }
    const Row before = logits;
    const auto slice = run_slice(team_, isa(), view(logits, int64_t(params.size())), 0, params);
    const auto full = run_full(team_, isa(), logits, params);
    for (size_t r = 0; r < params.size(); ++r) {
      const Pick want = expected(row, params[r]);
      EXPECT_SAME(slice[r], want);
      EXPECT_SAME(full[r], want);
    }
    EXPECT_EQ(0, std::memcmp(before.data(), logits.data(), logits.size() * sizeof(float)))
        << "the logits were changed";
  }
};

std::vector<PickRow> at_each(const std::vector<float>& temperatures, uint64_t seed,
                             int64_t position) {
  std::vector<PickRow> rows;
  for (float temperature : temperatures) rows.push_back(at(temperature, seed, position));
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Paths, PickOnEveryPath,
                         testing::Combine(testing::ValuesIn(isas()), testing::Values(1, 2, 3)),
                         [](const auto& path) {
                           std::string name(cpu::isa_name(std::get<0>(path.param)));
                           std::erase(name, '-');
                           return name + "_" + std::to_string(std::get<1>(path.param));
                         });

TEST_P(PickOnEveryPath, FollowsTheRuleAtEverySize) {
  for (int64_t size = 1; size <= 100; size += threads()) {
    expect_rule(random_row(size, uint32_t(size)),
                at_each({0.0f, 0.8f, 1.0f, 4.0f}, uint64_t(77 + size), size * 13));
  }
  for (int64_t size : {127, 128, 129, 4096, 32000, 128256}) {
    expect_rule(random_row(size, uint32_t(size)), at_each({0.0f, 0.7f, 1.0f}, 5, int64_t(1) << 40));
  }
}

// Few distinct values and a low temperature, so that bars and bounds meet equal scores.
TEST_P(PickOnEveryPath, TiesGoToTheLowestToken) {
  std::mt19937 random(3);
  for (int trial = 0; trial < trials(200); ++trial) {
    Row row(size_t(1 + random() % 300));
    for (float& l : row) l = float(random() % 3);
    expect_rule(row, at(0, 1, 1));
    for (float& l : row) l *= 1e9f;  // noise vanishes in the rounding
    expect_rule(row, at(1, uint64_t(trial), 1));
  }
  expect_rule(Row(1000, 0.25f), at(0, 1, 1));
  expect_rule(Row(1000, 1e30f), at(0.5f, 1, 1));
}

TEST_P(PickOnEveryPath, OddLogitsAreTheLowest) {
  const std::vector<PickRow> params = at_each({0.0f, 0.3f, 1.0f, 3.0f}, 9, 4);
  for (size_t size : {1, 5, 64, 65, 200}) {
    expect_rule(Row(size, -kInfinity), params);
    expect_rule(Row(size, kNan), params);
    expect_rule(Row(size, kInfinity), params);
    Row row = random_row(int64_t(size), 8);
    for (size_t v = 0; v < size; v += 3) row[v] = v % 2 ? kNan : -kInfinity;
    expect_rule(row, params);
    row[size / 2] = kInfinity;
    expect_rule(row, params);
    Row lowest(size, std::numeric_limits<float>::lowest());
    lowest[0] = kNan;
    expect_rule(lowest, params);
  }
}

TEST_P(PickOnEveryPath, EditsChangeTheirTokensOnly) {
  std::mt19937 random(11);
  for (int trial = 0; trial < trials(300); ++trial) {
    const auto size = int64_t(1 + random() % 400);
    Row row = random_row(size, uint32_t(trial));
    if (trial % 5 == 0) row[0] = kNan;
    std::vector<LogitEdit> edits;
    const uint32_t gap = 1 + random() % 70;
    // Beyond the row too: a slice sees edits of the whole vocabulary.
    for (int32_t token = int32_t(random() % gap); token < size + 100;
         token += int32_t(1 + random() % gap)) {
      const bool ban = random() % 4 == 0;
      edits.push_back(
          {token, 1 + float(random() % 8) / 4, ban ? -kInfinity : float(int(random() % 9) - 4)});
    }
    PickRow params = at(trial % 3 ? 0.9f : 0, uint64_t(trial), trial);
    params.edits = edits;
    expect_rule(row, params);
  }
}

TEST_P(PickOnEveryPath, BannedTokensLoseEvenToDeadOnes) {
  for (float temperature : {0.0f, 0.5f, 2.0f}) {
    for (int32_t size : {3, 64, 130}) {
      std::vector<LogitEdit> edits{{0, 1, -kInfinity}, {1, 1, -kInfinity}};
      PickRow params = at(temperature, 1, 1);
      params.edits = edits;
      expect_rule(Row(size_t(size), -kInfinity), params);
      Row row(size_t(size), kNan);
      EXPECT_EQ(run_slice(team_, isa(), view(row, 1), 0, {params})[0].token, 2);
      for (int32_t v = 2; v < size; ++v) edits.push_back({v, 1, -kInfinity});
      params.edits = edits;
      row = random_row(size, 5);
      for (const Pick& pick : {run_slice(team_, isa(), view(row, 1), 0, {params})[0],
                               run_full(team_, isa(), row, {params})[0]}) {
        EXPECT_EQ(pick.token, 0);
        EXPECT_EQ(pick.score, -kInfinity);
      }
    }
  }
}

TEST_P(PickOnEveryPath, SlicesBidForTheWhole) {
  for (int64_t size : {100, 4096, 32000}) {
    const auto rows = int64_t(5);
    Row logits = random_row(rows * size, 21, 2);
    std::vector<LogitEdit> edits;
    for (int32_t v = 3; v < size; v += 37) edits.push_back({v, 1.2f, v % 2 ? 1.0f : -kInfinity});
    std::vector<PickRow> params;
    for (int r = 0; r < rows; ++r) {
      params.push_back(at(float(r) * 0.4f, uint64_t(r), 100 + r));
      if (r % 2) params.back().edits = edits;
    }
    const auto whole = run_slice(team_, isa(), view(logits, rows), 0, params);
    for (int64_t r = 0; r < rows; ++r) {
      const Row row(logits.begin() + r * size, logits.begin() + (r + 1) * size);
      EXPECT_SAME(whole[size_t(r)], expected(row, params[size_t(r)]));
    }
    for (int64_t slices : {1, 2, 3, 4, 8}) {
      std::vector<Pick> best(params.size());
      for (int64_t s = 0; s < slices; ++s) {
        const int64_t begin = size * s / slices / 16 * 16;
        const int64_t end = s + 1 == slices ? size : size * (s + 1) / slices / 16 * 16;
        const auto bids = run_slice(team_, isa(), view(logits, rows).col_range(begin, end),
                                    int32_t(begin), params);
        for (size_t r = 0; r < best.size(); ++r) {
          const uint64_t digest = best[r].digest + bids[r].digest;
          if (beats(bids[r], best[r])) best[r] = bids[r];
          best[r].digest = digest;
        }
      }
      for (size_t r = 0; r < best.size(); ++r) EXPECT_SAME(best[r], whole[r]);
    }
  }
}

TEST_P(PickOnEveryPath, AnEmptySliceBidsNothing) {
  Row logits(16);
  const auto picks =
      run_slice(team_, isa(), {logits.data(), DType::kFloat32, 2, 0, 8}, 4096, {at(1, 1, 1), {}});
  for (const Pick& pick : picks) {
    EXPECT_EQ(pick.token, -1);
    EXPECT_EQ(pick.digest, 0u);
    EXPECT_FALSE(beats(pick, Pick{-kInfinity, 5, 0}));
    EXPECT_TRUE(beats(Pick{-kInfinity, 5, 0}, pick));
  }
  EXPECT_TRUE(run_slice(team_, isa(), {logits.data(), DType::kFloat32, 0, 8, 8}, 0, {}).empty());
}

// Columns beyond the view and rows apart from each other are not looked at.
TEST_P(PickOnEveryPath, StridedRowsAreReadWithinTheirExtent) {
  const int64_t rows = 7, size = 77, stride = 96;
  Row padded(size_t(rows * stride), 1e6f), dense = random_row(rows * size, 4);
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(dense.begin() + r * size, size, padded.begin() + r * stride);
  }
  std::vector<PickRow> params;
  for (int r = 0; r < rows; ++r) params.push_back(at(r % 2 ? 1.0f : 0.0f, 3, r));
  const auto a = run_slice(team_, isa(), view(dense, rows), 32, params);
  const auto b =
      run_slice(team_, isa(), {padded.data(), DType::kFloat32, rows, size, stride}, 32, params);
  for (size_t r = 0; r < params.size(); ++r) EXPECT_SAME(a[r], b[r]);
}

TEST_P(PickOnEveryPath, LogprobsAreTheSoftmaxOfTheRawLogits) {
  for (int64_t size : {1, 2, 63, 64, 100, 4096}) {
    const int64_t rows = 6;
    const int32_t width = 7;
    Row logits = random_row(rows * size, uint32_t(size));
    for (int64_t v = 0; v < size; ++v) logits[size_t(v)] = float(v % 3);  // ties
    if (size > 2) logits[size_t(size)] = kNan;                            // row 1
    const std::vector<LogitEdit> edits{{0, 1.0f, 3.0f}};
    std::vector<PickRow> params;
    for (int r = 0; r < rows; ++r) {
      params.push_back(at(0.5f * float(r % 3), 3, r));
      params.back().logprobs = r == 3 ? -1 : r == 4 ? 0 : r == 5 ? 100 : 4;
      params.back().edits = edits;
      if (r == 2) params.back().top_k = 1;
    }
    std::vector<TokenLogprob> got;
    const auto picks = run_full(team_, isa(), logits, params, &got, width);
    for (int64_t r = 0; r < rows; ++r) {
      Row row(logits.begin() + r * size, logits.begin() + (r + 1) * size);
      for (float& l : row) l = std::isnan(l) ? -kInfinity : l;
      std::vector<int32_t> order(row.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return row[a] > row[b]; });
      double total = 0;
      for (float l : row) total += std::exp(double(l) - row[order[0]]);
      const auto exact = [&](int32_t v) { return row[v] - row[order[0]] - std::log(total); };
      const int32_t asked = params[size_t(r)].logprobs;
      const auto count = int32_t(std::min<int64_t>({asked, width, size}));
      const TokenLogprob* entry = &got[size_t(r * (1 + width))];
      EXPECT_EQ(entry[0].token, asked < 0 ? -1 : picks[size_t(r)].token);
      if (asked >= 0) {
        EXPECT_NEAR(entry[0].logprob, exact(entry[0].token), 1e-5);
      }
      for (int32_t i = 1; i <= width; ++i) {
        ASSERT_EQ(entry[i].token, i <= count ? order[size_t(i - 1)] : -1) << size << ' ' << r;
        if (i <= count && row[size_t(entry[i].token)] > -kInfinity) {
          EXPECT_NEAR(entry[i].logprob, exact(entry[i].token), 1e-5);
        }
      }
    }
  }
}

TEST_P(PickOnEveryPath, LogprobsOfOddRows) {
  for (float dead : {kNan, -kInfinity}) {
    Row row(70, dead);
    PickRow params;
    params.logprobs = 2;
    std::vector<TokenLogprob> got;
    run_full(team_, isa(), row, {params}, &got, 2);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(got[size_t(i)].logprob, -kInfinity);
    EXPECT_EQ(got[1].token, 0);
    EXPECT_EQ(got[2].token, 1);
    row[66] = row[67] = kInfinity;
    run_full(team_, isa(), row, {params}, &got, 2);
    EXPECT_EQ(got[1].token, 66);
    EXPECT_FLOAT_EQ(got[1].logprob, -std::log(2.0f));
    EXPECT_FLOAT_EQ(got[2].logprob, -std::log(2.0f));
  }
}

TEST(Pick, AmxTakesTheAvx512Path) {
  if (cpu::best_isa() < cpu::Isa::kAmxBf16) GTEST_SKIP() << "no AMX here";
  cpu::Team team(1);
  Row logits = random_row(3 * 1000, 2);
  std::vector<PickRow> params = at_each({0.0f, 0.5f, 1.0f}, 3, 4);
  params[2].top_p = 0.8f;
  const auto a = run_full(team, cpu::Isa::kAvx512Bf16, logits, params);
  const auto b = run_full(team, cpu::Isa::kAmxBf16, logits, params);
  for (size_t r = 0; r < params.size(); ++r) EXPECT_SAME(a[r], b[r]);
}

// The pruning by bounds must never change a pick: rows whose winner is far from the likeliest.
TEST_P(PickOnEveryPath, BoundsNeverChangeAPick) {
  for (int trial = 0; trial < trials(400); ++trial) {
    Row row(1024, 0.0f);
    row[size_t(trial) % row.size()] = float(trial % 24);
    expect_rule(row, at(1, uint64_t(trial) * 0x9e3779b97f4a7c15, trial));
  }
}

}  // namespace
}  // namespace convoke::pick_test
