#include <gtest/gtest.h>

#include <map>
#include <random>

#include "tests/kernels/pick_oracle.h"

namespace convoke::pick_test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Filters {
  int32_t top_k;
  float top_p;
  float min_p;
};

const std::vector<Filters> kFilters = {
    {1, 1, 0},       {2, 1, 0},      {50, 1, 0},          {1 << 20, 1, 0},    {-1, 0.9f, 0},
    {0, 1e-9f, 0},   {0, 0.5f, 0},   {0, 0.95f, 0},       {0, 0.9999999f, 0}, {0, 0.0f, 0},
    {0, 1, 1.0f},    {0, 1, 0.05f},  {0, 1, 1e-30f},      {40, 0.9f, 0},      {40, 0.9f, 0.02f},
    {3, 0.3f, 0.9f}, {0, 0.9f, .1f}, {1000, 0.99f, 1e-4f}};

PickRow with(const Filters& filters, float temperature, uint64_t seed) {
  PickRow row;
  row.temperature = temperature;
  row.top_k = filters.top_k;
  row.top_p = filters.top_p;
  row.min_p = filters.min_p;
  row.seed = seed;
  row.position = int64_t(seed) + 3;
  return row;
}

/// Picks at many seeds against the plain rule.
void expect_rule(cpu::Team& team, cpu::Isa isa, const Row& row, const std::vector<PickRow>& rows) {
  Row logits;
  for (size_t i = 0; i < rows.size(); ++i) logits.insert(logits.end(), row.begin(), row.end());
  const auto picks = run_full(team, isa, logits, rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    const Pick want = expected(row, rows[i]);
    ASSERT_TRUE(same(picks[i], want))
        << picks[i].token << " against " << want.token << "; V " << row.size() << " T "
        << rows[i].temperature << " k " << rows[i].top_k << " p " << rows[i].top_p << " min-p "
        << rows[i].min_p << " seed " << rows[i].seed;
  }
}

class FiltersOnEveryPath : public testing::TestWithParam<cpu::Isa> {};

INSTANTIATE_TEST_SUITE_P(Paths, FiltersOnEveryPath, testing::ValuesIn(isas()),
                         [](const auto& path) {
                           std::string name(cpu::isa_name(path.param));
                           std::erase(name, '-');
                           return name;
                         });

TEST_P(FiltersOnEveryPath, KeepWhatTheRuleKeeps) {
  cpu::Team team(2);
  std::mt19937 random(5);
  for (int64_t size : {1, 2, 3, 5, 17, 63, 64, 65, 100, 129, 1000}) {
    for (float spread : {0.0f, 0.3f, 3.0f, 20.0f}) {
      Row row(static_cast<size_t>(size));
      std::normal_distribution<float> normal(0, 1);
      for (float& l : row) l = spread * normal(random);
      if (size > 10) row[size_t(size) / 2] = std::numeric_limits<float>::quiet_NaN();
      if (spread == 0.3f) {
        for (float& l : row) l = std::round(l * 8) / 8;  // many ties at the borders
      }
      std::vector<PickRow> rows;
      for (const Filters& filters : kFilters) {
        for (uint64_t seed = 0; seed < 6; ++seed) rows.push_back(with(filters, 0.8f, seed));
        rows.push_back(with(filters, 0, 1));
        rows.push_back(with(filters, 3, 1));
      }
      expect_rule(team, GetParam(), row, rows);
    }
  }
}

TEST_P(FiltersOnEveryPath, KeepWhatTheRuleKeepsInLongRows) {
  cpu::Team team(1);
  std::mt19937 random(6);
  for (int64_t size : {4096, 32000}) {
    for (float spread : {0.01f, 2.0f, 6.0f}) {
      Row row(static_cast<size_t>(size));
      std::normal_distribution<float> normal(0, spread);
      for (float& l : row) l = normal(random);
      std::vector<PickRow> rows;
      for (const Filters& filters : kFilters) rows.push_back(with(filters, 1.3f, rows.size()));
      expect_rule(team, GetParam(), row, rows);
    }
  }
}

TEST_P(FiltersOnEveryPath, ApplyAfterEdits) {
  cpu::Team team(2);
  std::mt19937 random(7);
  for (int trial = 0; trial < 30; ++trial) {
    Row row(size_t(1 + random() % 200));
    for (float& l : row) l = float(random() % 64) / 8;
    std::vector<LogitEdit> edits;
    for (int32_t v = 0; v < int32_t(row.size()); ++v) {
      if (random() % 3) continue;
      edits.push_back({v, 1.3f, random() % 2 ? -kInfinity : 2.0f});
    }
    std::vector<PickRow> rows;
    for (const Filters& filters : kFilters) {
      rows.push_back(with(filters, 0.7f, uint64_t(trial)));
      rows.back().edits = edits;
    }
    expect_rule(team, GetParam(), row, rows);
  }
}

TEST_P(FiltersOnEveryPath, OddRows) {
  cpu::Team team(1);
  for (size_t size : {1, 64, 70}) {
    std::vector<PickRow> rows;
    for (const Filters& filters : kFilters) rows.push_back(with(filters, 0.7f, 2));
    expect_rule(team, GetParam(), Row(size, -kInfinity), rows);
    expect_rule(team, GetParam(), Row(size, std::numeric_limits<float>::quiet_NaN()), rows);
    std::vector<LogitEdit> all;
    for (size_t v = 0; v < size; ++v) all.push_back({int32_t(v), 1, -kInfinity});
    for (PickRow& row : rows) row.edits = all;
    expect_rule(team, GetParam(), Row(size, 1.0f), rows);
  }
  // Of two infinite logits only they are likely.
  Row row(70, 1.0f);
  row[3] = row[68] = kInfinity;
  for (const Filters& filters : kFilters) {
    Row copy = row;
    EXPECT_EQ(run_full(team, GetParam(), copy, {with(filters, 1, 4)})[0].token, 3);
  }
}

TEST_P(FiltersOnEveryPath, ThreadsAndCompanyDoNotMatter) {
  std::mt19937 random(8);
  const size_t size = 1000;
  Row logits(size * 9);
  for (float& l : logits) l = float(random() % 4096) / 512;
  std::vector<PickRow> rows;
  for (size_t r = 0; r < 9; ++r) {
    rows.push_back(with(r % 3 ? kFilters[13 + r % 4] : Filters{0, 1, 0}, 0.9f, r));
  }
  cpu::Team one(1);
  const auto alone = run_full(one, cpu::Isa::kPortable, logits, rows);
  for (int threads : {1, 2, 3, 5}) {
    cpu::Team team(threads);
    const auto picks = run_full(team, GetParam(), logits, rows);
    for (size_t r = 0; r < rows.size(); ++r) EXPECT_TRUE(same(picks[r], alone[r])) << r;
  }
}

// The pick rule samples the softmax of what the processors left: chi-square over five tokens with
// every processor on.
TEST(PickRule, SamplesTheSoftmax) {
  struct Case {
    Row logits;
    Filters filters;
    float temperature;
  };
  const std::vector<Case> cases = {
      {{1.0f, 0.5f, 2.0f, -0.5f, 1.5f}, {0, 1, 0}, 1.0f},
      {{1.0f, 0.5f, 2.0f, -0.5f, 1.5f}, {4, 0.95f, 0.02f}, 0.8f},
      {{2.5f, 2.4f, 2.3f, 2.2f, 2.1f}, {4, 0.9f, 0.1f}, 0.7f},
      {{0.0f, 0.0f, 0.0f, 0.0f, 0.0f}, {4, 0.99f, 0.5f}, 1.5f},
      {{6.0f, 1.0f, 4.5f, 4.0f, 3.0f}, {5, 0.999f, 0.001f}, 2.0f},
  };
  const std::vector<LogitEdit> edits{{0, 1.3f, -0.2f}, {1, 1.1f, 0.6f}, {3, 1.2f, 0.25f}};
  constexpr int kDraws = 120000, kRows = 1000;
  cpu::Team team(2);
  for (const Case& test : cases) {
    PickRow params = with(test.filters, test.temperature, 0);
    params.edits = edits;
    const auto p = probabilities(test.logits, params);
    Row logits;
    for (int r = 0; r < kRows; ++r) {
      logits.insert(logits.end(), test.logits.begin(), test.logits.end());
    }
    std::array<int, 5> count{};
    for (int draw = 0; draw < kDraws; draw += kRows) {
      std::vector<PickRow> rows(kRows, params);
      for (int r = 0; r < kRows; ++r) {
        // Half the draws differ by seed, half by position.
        rows[size_t(r)].seed = draw % 2000 ? 1234 : uint64_t(draw + r);
        rows[size_t(r)].position = draw % 2000 ? draw + r : 17;
      }
      for (const Pick& pick : run_full(team, cpu::best_isa(), logits, rows)) {
        ++count[size_t(pick.token)];
      }
    }
    double chi_square = 0;
    int kept = 0;
    for (size_t v = 0; v < 5; ++v) {
      if (p[v] == 0) {
        EXPECT_EQ(count[v], 0) << "a token that the filters remove was picked";
        continue;
      }
      ++kept;
      const double mean = double(p[v]) * kDraws;
      chi_square += (count[v] - mean) * (count[v] - mean) / mean;
    }
    ASSERT_GE(kept, 3);
    // Upper 0.1 % points of the chi-square distribution with 2, 3 and 4 degrees of freedom.
    const std::map<int, double> critical{{3, 13.816}, {4, 16.266}, {5, 18.467}};
    EXPECT_LT(chi_square, critical.at(kept));
  }
}

}  // namespace
}  // namespace convoke::pick_test
