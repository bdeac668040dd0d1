// Heads against what PyTorch computes: prompt pass, recursion along branches, several accepted
// lengths (tests/golden/make_heads.py).
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/heads_fixture.h"

namespace convoke {
namespace {

using testing::expect_golden;
using testing::GoldenHead;
using testing::HeadShape;
using testing::OpenHead;
using testing::RunOptions;
using testing::Trace;

class Heads : public ::testing::TestWithParam<std::string> {
 protected:
  GoldenHead golden = testing::load_golden_head(GetParam());
};

TEST_P(Heads, Float32CandidatesAreThoseOfPyTorch) {
  for (const char* isa : {"portable", "avx2", "avx512-bf16", "amx-bf16"}) {
    if (cpu::parse_isa(isa) > cpu::best_isa()) continue;
    OpenHead head(golden, {.dtype = "float32", .isa = isa});
    expect_golden(run_golden(*head.model, golden, {}), golden, 1e-4);
  }
}

TEST_P(Heads, BFloat16CandidatesAreWithinTheRoundingOfActivations) {
  // PyTorch was asked what it changes to keep 8 bits of the inputs of products and of the cache.
  // Ours are rounded in other places of the same chain; the largest of so many changes varies.
  const double tolerance = 3 * golden.bfloat16_error;
  for (const char* isa : {"portable", "amx-bf16"}) {
    if (cpu::parse_isa(isa) > cpu::best_isa()) continue;
    OpenHead head(golden, {.dtype = "bfloat16", .isa = isa});
    expect_golden(run_golden(*head.model, golden, {}), golden, tolerance);
  }
}

TEST_P(Heads, WeightsOf8BitsDraftAlmostTheSame) {
  // A weight of three mantissa bits is off by up to 1/16, which averages out over a product, but
  // not within a factor of four: the goldens are narrow.
  const double tolerance = 3 * golden.bfloat16_error + 0.25;
  OpenHead wide(golden, {.dtype = "bfloat16"});
  OpenHead head(golden, {.dtype = "bfloat16", .float8 = true});
  const Trace trace = run_golden(*head.model, golden, {});
  expect_golden(trace, golden, tolerance);
  EXPECT_NE(trace, run_golden(*wide.model, golden, {})) << "the weights have all of their bits";
  RunOptions single;
  single.rows_per_expand = 1;
  single.chunk = 1;
  OpenHead other(golden, {.dtype = "bfloat16", .threads = 3, .float8 = true});
  EXPECT_EQ(run_golden(*other.model, golden, single), trace);
}

TEST_P(Heads, FloatFormatOfFeaturesDoesNotMatter) {
  OpenHead head(golden, {});
  RunOptions narrow;
  narrow.bfloat16_features = true;  // golden features fit
  EXPECT_EQ(run_golden(*head.model, golden, narrow), run_golden(*head.model, golden, {}));
}

TEST_P(Heads, SameBitsInEveryShape) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    OpenHead reference(golden, {.dtype = dtype});
    const Trace expected = run_golden(*reference.model, golden, {});
    for (const int chunk : {1, 7}) {
      RunOptions options;
      options.chunk = chunk;
      EXPECT_EQ(run_golden(*reference.model, golden, options), expected) << "chunks of " << chunk;
    }
    RunOptions single;
    single.rows_per_expand = 1;
    single.place = 2;
    EXPECT_EQ(run_golden(*reference.model, golden, single), expected) << "rows one by one";
    for (const int threads : {2, 3}) {
      OpenHead other(golden, {.dtype = dtype, .threads = threads, .max_rows = 10});
      EXPECT_EQ(run_golden(*other.model, golden, {}), expected) << threads << " threads";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, Heads,
                         ::testing::ValuesIn(testing::golden_head_names({"eagle", "eagle3"})),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace convoke
