// Picks, rankings and log-probabilities of the kernels against the CPU's: equal bits.
#include "kernels/cpu/pick.h"

#include "tests/kernels/cuda/fixture.h"
#include "tests/kernels/pick_oracle.h"

namespace convoke::cuda {
namespace {

using cpu::GuardedMatrix;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr auto kPath = cpu::Isa::kPortable;

testing::AssertionResult same(const Pick& a, const Pick& b) {
  if (pick_test::same(a, b)) return testing::AssertionSuccess();
  return testing::AssertionFailure() << a.token << " " << a.score << " " << a.digest << " against "
                                     << b.token << " " << b.score << " " << b.digest;
}

std::string text(const PickRow& row) {
  return fmt::format("T {} k {} p {} min-p {} seed {} position {} edits {}", row.temperature,
                     row.top_k, row.top_p, row.min_p, row.seed, row.position, row.edits.size());
}

/// Rows of logits that end at a page which must not be touched, NaN between them.
struct Logits {
  Logits(int64_t rows, int64_t columns) : matrix(DType::kFloat32, rows, columns, 7) {}
  TensorView view() const { return matrix.view(); }
  float& at(int64_t r, int64_t c) { return matrix.view().row<float>(r)[c]; }
  GuardedMatrix matrix;
};

/// Rows of many kinds: spread, ties, all equal, NaN, infinities.
void fill_row(Logits& logits, int64_t row, int kind, uint32_t seed) {
  Normal normal(seed, kind % 4 == 0 ? 0.3f : kind % 4 == 1 ? 3.0f : kind % 4 == 2 ? 20.0f : 6.0f);
  const int64_t columns = logits.view().cols;
  for (int64_t c = 0; c < columns; ++c) {
    float l = normal();
    if (kind == 4) l = std::round(l * 8) / 8;  // many ties
    if (kind == 5) l = 1.5f;
    if (kind == 6 && c % 3 == 1) l = kNan;
    if (kind == 7) l = c % 5 == 2 ? -kInfinity : c == columns / 2 ? kInfinity : l;
    if (kind == 8) l = c % 2 == 0 ? 0.0f : -0.0f;
    if (kind == 9) l = kNan;
    logits.at(row, c) = l;
  }
}
constexpr int kKinds = 10;

std::vector<LogitEdit> random_edits(int64_t columns, uint32_t seed, int every) {
  Normal random(seed);
  std::vector<LogitEdit> edits;
  for (int32_t v = 0; v < columns + 40; ++v) {
    if (random.below(every) != 0) continue;
    edits.push_back({v, random.below(2) ? 1.3f : 0.7f,
                     random.below(3) == 0 ? -kInfinity : float(random.below(9) - 4)});
  }
  return edits;
}

std::vector<Pick> run_slice(const TensorView& logits, int32_t first,
                            std::span<const PickRow> params) {
  std::vector<Pick> picks(params.size(), {7, 7, 7});
  on_device::pick_slice({logits, first, params, picks}, true);
  return picks;
}

TEST(CudaPick, SlicesBidAsOnTheCpu) {
  for (const int64_t columns : {0, 1, 3, 64, 100, 4096, 4097, 9000, 128256}) {
    if (!kOnGpu && columns > 9000) continue;
    for (const int32_t first : {0, 4096 * 16}) {
      Logits logits(3 * kKinds, columns);
      std::vector<std::vector<LogitEdit>> edits;
      std::vector<PickRow> params(3 * kKinds);
      for (int kind = 0; kind < kKinds; ++kind) {
        for (int i = 0; i < 3; ++i) {
          const int r = 3 * kind + i;
          fill_row(logits, r, kind, uint32_t(kind));
          edits.push_back(random_edits(columns, uint32_t(r), i == 2 ? 1 : 9));
          for (LogitEdit& edit : edits.back()) edit.token += first;
        }
      }
      for (int r = 0; r < 3 * kKinds; ++r) {
        PickRow& row = params[size_t(r)];
        row.temperature = r % 3 == 0 ? 0 : 0.5f + float(r) / 10;
        row.seed = uint64_t(r) * 0x123456789abcdefull;
        row.position = int64_t(r) << 30;
        if (r % 2 == 1) row.edits = edits[size_t(r)];
      }
      cpu::Team team(1);
      const auto want = pick_test::run_slice(team, kPath, logits.view(), first, params);
      const auto got = run_slice(logits.view(), first, params);
      for (size_t r = 0; r < got.size(); ++r) {
        ASSERT_TRUE(same(got[r], want[r]))
            << columns << " columns, row " << r << " " << text(params[r]);
      }
    }
  }
}

TEST(CudaPick, BidsDoNotDependOnSchedulesOrSlices) {
  constexpr int64_t kColumns = 10000;
  Logits logits(1, kColumns);
  fill_row(logits, 0, 1, 5);
  PickRow row;
  row.temperature = 1;
  row.seed = 42;
  const std::vector<PickRow> params = {row};
  const Pick whole = run_slice(logits.view(), 0, params)[0];
  under_every_schedule([&] { EXPECT_TRUE(same(run_slice(logits.view(), 0, params)[0], whole)); });
  Pick merged{-kInfinity, -1, 0};
  for (int64_t begin = 0; begin < kColumns; begin += 2512) {
    const int64_t end = std::min(begin + 2512, kColumns);
    const Pick bid = run_slice(logits.view().col_range(begin, end), int32_t(begin), params)[0];
    const uint64_t digest = merged.digest + bid.digest;
    if (beats(bid, merged)) merged = bid;
    merged.digest = digest;
  }
  EXPECT_TRUE(same(merged, whole));
}

struct Filters {
  int32_t top_k;
  float top_p;
  float min_p;
};
const std::vector<Filters> kFilters = {
    {0, 1, 0},     {1, 1, 0},      {2, 1, 0},          {50, 1, 0},     {-1, 0.9f, 0},
    {0, 1e-9f, 0}, {0, 0.5f, 0},   {0, 0.9999999f, 0}, {0, 0.0f, 0},   {0, 1, 1.0f},
    {0, 1, 0.05f}, {0, 1, 1e-30f}, {40, 0.9f, 0.02f},  {3, 0.3f, .9f}, {1000, 0.99f, 1e-4f}};

std::vector<Pick> run_full(bool clusters, const TensorView& logits, std::span<const PickRow> params,
                           std::vector<TokenLogprob>* logprobs, int max_logprobs) {
  std::vector<Pick> picks(params.size(), {7, 7, 7});
  GuardedMatrix scratch(DType::kFloat32, logits.rows, logits.cols);
  PickFullArgs args{logits, params, scratch.view(), picks, {}, max_logprobs};
  if (logprobs != nullptr) {
    logprobs->assign(params.size() * size_t(1 + max_logprobs), TokenLogprob{-7, 7});
    args.logprobs = *logprobs;
  }
  on_device::pick_full(args, {true, logprobs != nullptr}, clusters);
  return picks;
}

void expect_full_as_cpu(Logits& logits, const std::vector<PickRow>& params, bool clusters) {
  cpu::Team team(1);
  std::vector<float> flat;
  for (int64_t r = 0; r < logits.view().rows; ++r) {
    const float* const row = logits.view().row<float>(r);
    flat.insert(flat.end(), row, row + logits.view().cols);
  }
  const auto want = pick_test::run_full(team, kPath, flat, params);
  const auto got = run_full(clusters, logits.view(), params, nullptr, 0);
  for (size_t r = 0; r < got.size(); ++r) {
    ASSERT_TRUE(same(got[r], want[r]))
        << logits.view().cols << " columns, row " << r << " " << text(params[r]);
  }
}

TEST(CudaPick, FiltersKeepWhatTheCpuKeeps) {
  for (const int64_t columns : {1, 2, 17, 64, 129, 1000, 128256}) {
    if (kSanitized && columns != 17 && columns != 129) continue;
    if (!kOnGpu && columns > 1000) continue;
    const auto filters = int64_t(kFilters.size());
    for (int kind = 0; kind < kKinds; ++kind) {
      if (kSanitized && kind < 6 && kind != 1 && kind != 4) continue;
      if (!kOnGpu && columns <= 64 && kind % 3 != columns % 3) continue;
      Logits logits(filters, columns);
      const auto edits = random_edits(columns, uint32_t(kind), 4);
      std::vector<PickRow> params;
      for (int64_t r = 0; r < filters; ++r) {
        fill_row(logits, r, kind, uint32_t(kind + columns));
        PickRow row;
        row.temperature = r % 7 == 6 ? 0 : r % 2 == 0 ? 0.8f : 2.5f;
        row.top_k = kFilters[size_t(r)].top_k;
        row.top_p = kFilters[size_t(r)].top_p;
        row.min_p = kFilters[size_t(r)].min_p;
        row.seed = uint64_t(r + 3 * kind);
        row.position = r;
        if (kind % 2 == 1) row.edits = edits;
        params.push_back(row);
      }
      ASSERT_NO_FATAL_FAILURE(expect_full_as_cpu(logits, params, kind % 3 != 0)) << kind;
    }
  }
}

TEST(CudaPick, FiltersInLongRowsAndEverySchedule) {
  for (const int kind : {1, 5}) {
    const int64_t columns = kSanitized ? 3000 : 33000;
    Logits logits(4, columns);
    std::vector<PickRow> params;
    for (int64_t r = 0; r < 4; ++r) {
      fill_row(logits, r, kind, uint32_t(r));
      const Filters& filters = kFilters[size_t(3 * r + 3)];
      PickRow row;
      row.temperature = 1.3f;
      row.top_k = filters.top_k, row.top_p = filters.top_p, row.min_p = filters.min_p;
      row.seed = 7;
      params.push_back(row);
    }
    under_every_schedule([&] { expect_full_as_cpu(logits, params, true); });
    ASSERT_NO_FATAL_FAILURE(expect_full_as_cpu(logits, params, false));
  }
}

TEST(CudaPick, ABorderOnATokenKeepsThatTokenAndNoMore) {
  // Half of the mass is exactly half of the tokens.
  constexpr int kRows = 16;
  Logits logits(kRows, 8);
  std::vector<PickRow> params(kRows);
  for (int r = 0; r < kRows; ++r) {
    fill_row(logits, r, 5, 1);
    params[size_t(r)].temperature = 1;
    params[size_t(r)].top_p = 0.5f;
    params[size_t(r)].seed = uint64_t(r);
  }
  ASSERT_NO_FATAL_FAILURE(expect_full_as_cpu(logits, params, true));
}

TEST(CudaPick, AllTokensBanned) {
  Logits logits(2, 70);
  fill_row(logits, 0, 1, 1), fill_row(logits, 1, 1, 1);
  std::vector<LogitEdit> edits;
  for (int32_t v = 0; v < 70; ++v) edits.push_back({v, 1, -kInfinity});
  std::vector<PickRow> params(2);
  params[0].edits = params[1].edits = edits;
  params[0].temperature = params[1].temperature = 1;
  params[1].top_k = 3;
  ASSERT_NO_FATAL_FAILURE(expect_full_as_cpu(logits, params, true));
}

TEST(CudaPick, AsManyRowsAsAPassHas) {
  for (int rows = 1; rows <= 64; rows += kOnGpu ? 1 : 63) {
    Logits logits(rows, 90);
    std::vector<PickRow> params(size_t(rows), PickRow{});
    for (int r = 0; r < rows; ++r) {
      fill_row(logits, r, r % kKinds, uint32_t(r));
      params[size_t(r)].temperature = r % 4 == 0 ? 0 : 0.7f;
      params[size_t(r)].seed = uint64_t(r), params[size_t(r)].position = 3 * r;
    }
    cpu::Team team(1);
    const auto want = pick_test::run_slice(team, kPath, logits.view(), 16, params);
    const auto got = run_slice(logits.view(), 16, params);
    for (size_t r = 0; r < got.size(); ++r) ASSERT_TRUE(same(got[r], want[r])) << rows << ", " << r;
    for (PickRow& row : params) row.top_k = 9, row.top_p = 0.8f;
    ASSERT_NO_FATAL_FAILURE(expect_full_as_cpu(logits, params, rows % 2 == 0)) << rows;
  }
}

/// Equal bits; of a real device, whose `log` of a double may be another in its last place, floats
/// next to each other.
bool same_logprob(float a, float b) {
  if (std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b)) return true;
  return kOnGpu && std::nextafter(a, b) == b;
}

TEST(CudaPick, LogprobsAreThoseOfTheCpu) {
  for (const int64_t columns : {1, 5, 70, 3000, 128256}) {
    if (!kOnGpu && columns > 3000) continue;
    for (const bool clusters : {false, true}) {
      constexpr int kMost = 20;
      Logits logits(kKinds, columns);
      std::vector<PickRow> params(kKinds);
      std::vector<float> flat;
      for (int r = 0; r < kKinds; ++r) {
        fill_row(logits, r, r, uint32_t(r));
        params[size_t(r)].temperature = r % 2 == 0 ? 0 : 1;
        params[size_t(r)].logprobs = r == 3 ? -1 : r == 2 ? 0 : r == 1 ? 25 : 2 * r;
        const float* const row = logits.view().row<float>(r);
        flat.insert(flat.end(), row, row + columns);
      }
      cpu::Team team(1);
      std::vector<TokenLogprob> want, got;
      const auto want_picks = pick_test::run_full(team, kPath, flat, params, &want, kMost);
      const auto picks = run_full(clusters, logits.view(), params, &got, kMost);
      for (size_t i = 0; i < want.size(); ++i) {
        const size_t r = i / (1 + kMost);
        ASSERT_TRUE(same(picks[r], want_picks[r]));
        ASSERT_EQ(got[i].token, want[i].token) << "row " << r << " entry " << i % (1 + kMost);
        ASSERT_TRUE(same_logprob(got[i].logprob, want[i].logprob))
            << "row " << r << ": " << got[i].logprob << " against " << want[i].logprob;
      }
    }
  }
}

void expect_ranking_as_cpu(const RankArgs& job, bool clusters) {
  std::vector<RankedToken> want(job.params.size() * size_t(job.count), {7, 7}), got = want;
  RankArgs args = job;
  args.ranked = want;
  cpu::run_team(1, [&](cpu::CpuStream& stream) { cpu::rank(stream, kPath, args); });
  args.ranked = got;
  on_device::rank(args, clusters);
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].token, want[i].token)
        << "row " << i / size_t(job.count) << " place " << i % size_t(job.count) << " of "
        << job.logits.cols << " columns " << text(job.params[i / size_t(job.count)]);
    ASSERT_EQ(std::bit_cast<uint32_t>(got[i].score), std::bit_cast<uint32_t>(want[i].score));
  }
}

TEST(CudaRank, RanksAsTheCpuDoes) {
  for (const int64_t columns : {1, 2, 5, 63, 130, 2049, 20000, 128256}) {
    if (kSanitized && columns > 130) continue;
    if (!kOnGpu && columns > 20000) continue;
    Logits logits(kKinds, columns);
    std::vector<std::vector<LogitEdit>> edits;
    std::vector<PickRow> params(kKinds);
    std::vector<int32_t> tokens;
    for (int32_t c = 0; c < columns; ++c) tokens.push_back(5 * c + c % 4);
    for (int r = 0; r < kKinds; ++r) {
      fill_row(logits, r, r, uint32_t(r));
      edits.push_back(random_edits(columns, uint32_t(r), 3));
    }
    for (int r = 0; r < kKinds; ++r) {
      params[size_t(r)].temperature = r % 3 == 0 ? 0 : 1.2f;
      params[size_t(r)].seed = uint64_t(r);
      params[size_t(r)].position = 11 * r;
      if (r % 2 == 0) params[size_t(r)].edits = edits[size_t(r)];
    }
    for (const int count : {1, 3, 8, 64}) {
      if ((columns == 20000 || kSanitized) && count == 3) continue;
      for (const bool named : {false, true}) {
        if (columns == 20000 && !kOnGpu && named == (count == 64)) continue;
        if (count == 64 && !kOnGpu && columns != 5 && columns != 130 && columns != 20000) continue;
        RankArgs job{.logits = logits.view(),
                     .params = params,
                     .noise = !named || count < 8,
                     .count = count};
        if (named) job.tokens = tokens;
        ASSERT_NO_FATAL_FAILURE(expect_ranking_as_cpu(job, count != 8)) << named;
      }
    }
  }
}

TEST(CudaRank, DoesNotDependOnTheSchedule) {
  Logits logits(2, 5000);
  fill_row(logits, 0, 1, 1), fill_row(logits, 1, 4, 2);
  std::vector<PickRow> params(2);
  params[0].temperature = 1;
  under_every_schedule([&] {
    expect_ranking_as_cpu(
        {.logits = logits.view(), .first_token = 32, .params = params, .count = 9}, true);
  });
}

}  // namespace
}  // namespace convoke::cuda
