#include <gtest/gtest.h>

#include <random>

#include "tests/kernels/pick_oracle.h"

namespace convoke::pick_test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Job {
  Row logits;
  std::vector<int32_t> tokens;  ///< empty: from 0
  std::vector<PickRow> params;
  bool noise = true;
  int count = 1;
};

/// Every token scored and sorted.
std::vector<RankedToken> expected_ranking(const Job& job, const PickRow& params) {
  std::vector<RankedToken> all;
  for (size_t c = 0; c < job.logits.size(); ++c) {
    const int32_t token = job.tokens.empty() ? int32_t(c) : job.tokens[c];
    float x = job.logits[c];
    bool banned = false;
    for (const LogitEdit& edit : params.edits) {
      if (edit.token != token) continue;
      x = (x > 0 ? x / edit.repetition : x * edit.repetition) + edit.add;
      banned = edit.add == -kInfinity;
    }
    if (params.temperature > 0) x /= params.temperature;
    if (std::isnan(x) || x == -kInfinity) x = std::numeric_limits<float>::lowest();
    if (job.noise && params.temperature > 0) x += gumbel(params.seed, params.position, token);
    if (!banned) all.push_back({x, token});
  }
  std::ranges::stable_sort(all, std::greater(), &RankedToken::score);  // ids ascend among equals
  all.resize(size_t(job.count), {-kInfinity, -1});
  return all;
}

std::string text(std::span<const RankedToken> ranked) {
  std::string out;
  for (const RankedToken& r : ranked) out += fmt::format("{}:{} ", r.token, r.score);
  return out;
}

class RankOnEveryPath : public testing::TestWithParam<std::tuple<cpu::Isa, int>> {
 protected:
  cpu::Isa isa() const { return std::get<0>(GetParam()); }
  int threads() const { return std::get<1>(GetParam()); }
  int trials(int most) const { return threads() == 1 ? most : most / 8; }

  /// The same row once per element of job.params, all in one call.
  std::vector<RankedToken> run(const Job& job, int32_t first_token = 0) {
    Row logits;
    for (size_t r = 0; r < job.params.size(); ++r) {
      logits.insert(logits.end(), job.logits.begin(), job.logits.end());
    }
    const Row before = logits;
    std::vector<RankedToken> ranked(job.params.size() * size_t(job.count), {7, 7});
    const RankArgs args{
        .logits = TensorView::matrix(logits.data(), DType::kFloat32, int64_t(job.params.size()),
                                     int64_t(job.logits.size())),
        .first_token = first_token,
        .tokens = job.tokens,
        .params = job.params,
        .noise = job.noise,
        .count = job.count,
        .ranked = ranked};
    team_.run([&](cpu::CpuStream& stream) { cpu::rank(stream, isa(), args); });
    EXPECT_EQ(0, std::memcmp(before.data(), logits.data(), logits.size() * sizeof(float)))
        << "the logits were changed";
    return ranked;
  }

  void expect_rule(const Job& job) {
    const auto ranked = run(job);
    for (size_t r = 0; r < job.params.size(); ++r) {
      const auto got = std::span(ranked).subspan(r * size_t(job.count), size_t(job.count));
      const auto want = expected_ranking(job, job.params[r]);
      EXPECT_TRUE(std::ranges::equal(got, want,
                                     [](auto& a, auto& b) {
                                       return a.token == b.token &&
                                              noise_core::ScalarLanes::bits(a.score) ==
                                                  noise_core::ScalarLanes::bits(b.score);
                                     }))
          << "row " << r << " of " << job.logits.size() << " columns, T "
          << job.params[r].temperature << "\ngot  " << text(got) << "\nwant " << text(want);
    }
  }

  cpu::Team team_{std::get<1>(GetParam())};
};

INSTANTIATE_TEST_SUITE_P(Paths, RankOnEveryPath,
                         testing::Combine(testing::ValuesIn(isas()), testing::Values(1, 2, 3)),
                         [](const auto& path) {
                           std::string name(cpu::isa_name(std::get<0>(path.param)));
                           std::erase(name, '-');
                           return name + "_" + std::to_string(std::get<1>(path.param));
                         });

Row random_row(int64_t size, uint32_t seed, float spread = 3) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  Row row(static_cast<size_t>(size));
  for (float& l : row) l = normal(random);
  return row;
}

std::vector<PickRow> at_each(const std::vector<float>& temperatures, uint64_t seed,
                             int64_t position) {
  std::vector<PickRow> rows;
  for (float temperature : temperatures) {
    PickRow& row = rows.emplace_back();
    row.temperature = temperature;
    row.seed = seed;
    row.position = position + int64_t(rows.size());
  }
  return rows;
}

const std::vector<float> kTemperatures{0.0f, 0.3f, 1.0f, 2.0f};

/// `size` ascending ids with gaps, from `first` on.
std::vector<int32_t> some_tokens(size_t size, int32_t first, std::mt19937& random, uint32_t gap) {
  std::vector<int32_t> tokens;
  for (int32_t token = first; tokens.size() < size; token += int32_t(1 + random() % gap)) {
    tokens.push_back(token);
  }
  return tokens;
}

TEST_P(RankOnEveryPath, FollowsTheRuleAtEverySize) {
  for (int64_t size = 1; size <= 140; size += threads()) {
    for (int count : {1, 3, 64}) {
      expect_rule({.logits = random_row(size, uint32_t(size)),
                   .params = at_each(kTemperatures, uint64_t(77 + size), size * 13),
                   .count = count});
    }
  }
  for (int64_t size : {4096, 32000, 128256}) {
    expect_rule({.logits = random_row(size, uint32_t(size)),
                 .params = at_each(kTemperatures, 5, int64_t(1) << 40),
                 .count = 10});
  }
}

TEST_P(RankOnEveryPath, AReducedVocabularyKeepsItsNoiseAndEdits) {
  std::mt19937 random(21);
  for (int trial = 0; trial < trials(160); ++trial) {
    const size_t size = 1 + random() % 300;
    Job job{.logits = random_row(int64_t(size), uint32_t(trial)),
            .tokens = some_tokens(size, int32_t(random() % 50), random, 1 + random() % 40),
            .params = at_each(kTemperatures, uint64_t(trial), trial * 3),
            .count = 1 + int(random() % 64)};
    // Of tokens that the vocabulary has and of others.
    std::vector<LogitEdit> edits;
    const uint32_t gap = 1 + random() % 200;
    for (int32_t token = int32_t(random() % 40); token < job.tokens.back() + 50;
         token += int32_t(1 + random() % gap)) {
      const bool ban = random() % 4 == 0;
      edits.push_back({token, 1 + float(random() % 4) / 2, ban ? -kInfinity : float(random() % 5)});
    }
    if (trial % 4 != 0) {
      for (PickRow& row : job.params) row.edits = edits;
    }
    expect_rule(job);
  }
}

TEST_P(RankOnEveryPath, EditsChangeTheirTokensOnly) {
  std::mt19937 random(11);
  for (int trial = 0; trial < trials(160); ++trial) {
    const auto size = int64_t(1 + random() % 400);
    Job job{.logits = random_row(size, uint32_t(trial)),
            .params = at_each(kTemperatures, uint64_t(trial), trial),
            .count = 1 + int(random() % 64)};
    if (trial % 5 == 0) job.logits[0] = kNan;
    std::vector<LogitEdit> edits;
    const uint32_t gap = 1 + random() % 70;
    for (int32_t token = int32_t(random() % gap); token < size + 100;
         token += int32_t(1 + random() % gap)) {
      const bool ban = random() % 4 == 0;
      edits.push_back(
          {token, 1 + float(random() % 8) / 4, ban ? -kInfinity : float(int(random() % 9) - 4)});
    }
    for (PickRow& row : job.params) row.edits = edits;
    expect_rule(job);
  }
}

TEST_P(RankOnEveryPath, TiesGoToTheLowestToken) {
  std::mt19937 random(3);
  for (int trial = 0; trial < trials(120); ++trial) {
    Job job{.logits = Row(1 + random() % 500),
            .params = at_each(kTemperatures, uint64_t(trial), 1),
            .count = 1 + int(random() % 20)};
    for (float& l : job.logits) l = 1e9f * float(random() % 3);  // noise vanishes in the rounding
    expect_rule(job);
  }
}

TEST_P(RankOnEveryPath, OddLogitsAreTheLowestAndBansAreOut) {
  for (size_t size : {1, 5, 64, 65, 200}) {
    Job job{.params = at_each(kTemperatures, 9, 4), .count = 7};
    for (float value : {-kInfinity, kNan, kInfinity, std::numeric_limits<float>::lowest()}) {
      job.logits = Row(size, value);
      expect_rule(job);
    }
    job.logits = random_row(int64_t(size), 8);
    for (size_t v = 0; v < size; v += 3) job.logits[v] = v % 2 ? kNan : -kInfinity;
    job.logits[size / 2] = kInfinity;
    expect_rule(job);
    std::vector<LogitEdit> bans;
    for (int32_t v = 0; v < int32_t(size); ++v) bans.push_back({v, 1.0f, -kInfinity});
    for (PickRow& row : job.params) row.edits = bans;
    expect_rule(job);
    for (const RankedToken& r : run(job)) EXPECT_EQ(r, (RankedToken{-kInfinity, -1}));
  }
}

TEST_P(RankOnEveryPath, WithoutNoiseOnlyTheTemperatureScales) {
  Job job{.logits = random_row(1000, 4), .params = at_each(kTemperatures, 9, 4), .count = 12};
  job.noise = false;
  expect_rule(job);
  EXPECT_EQ(run(job)[0].token, run(job)[size_t(3 * job.count)].token);
}

TEST_P(RankOnEveryPath, TheFirstIsThePick) {
  std::mt19937 random(5);
  for (int trial = 0; trial < trials(80); ++trial) {
    const auto size = int64_t(1 + random() % 2000);
    Job job{.logits = random_row(size, uint32_t(trial)),
            .params = at_each(kTemperatures, uint64_t(trial), trial),
            .count = 1 + trial % 5};
    const std::vector<LogitEdit> edits{{0, 1.3f, 0.5f}, {int32_t(size / 2), 1.0f, 2.0f}};
    for (PickRow& row : job.params) row.edits = edits;
    const auto ranked = run(job);
    Row logits;
    for (size_t r = 0; r < job.params.size(); ++r) {
      logits.insert(logits.end(), job.logits.begin(), job.logits.end());
    }
    const auto picks =
        run_slice(team_, isa(), view(logits, int64_t(job.params.size())), 0, job.params);
    for (size_t r = 0; r < picks.size(); ++r) {
      const RankedToken& first = ranked[r * size_t(job.count)];
      EXPECT_EQ(first, (RankedToken{picks[r].score, picks[r].token}));
    }
  }
}

TEST_P(RankOnEveryPath, SlicesRankAsTheWhole) {
  Job job{.logits = random_row(500, 6), .params = at_each(kTemperatures, 3, 9), .count = 9};
  const auto whole = run(job);
  Job low = job, high = job;
  low.logits.assign(job.logits.begin(), job.logits.begin() + 240);
  high.logits.assign(job.logits.begin() + 240, job.logits.end());
  const auto first = run(low), second = run(high, 240);
  for (size_t r = 0; r < job.params.size(); ++r) {
    std::vector<RankedToken> both;
    for (const auto* part : {&first, &second}) {
      both.insert(both.end(), part->begin() + ptrdiff_t(r * 9),
                  part->begin() + ptrdiff_t(r * 9 + 9));
    }
    std::ranges::stable_sort(both, std::greater(), &RankedToken::score);
    both.resize(9);
    EXPECT_TRUE(std::equal(both.begin(), both.end(), whole.begin() + ptrdiff_t(r * 9)));
  }
}

TEST_P(RankOnEveryPath, NoRowsAndNoColumns) {
  expect_rule({.logits = {}, .params = at_each({0.0f, 1.0f}, 1, 1), .count = 3});
  expect_rule({.logits = Row(10, 1.0f), .params = {}, .count = 3});
}

}  // namespace
}  // namespace convoke::pick_test
