// Models with weights of 8 bits, in the forms in which they are published, against what
// transformers computes with the weights multiplied out, and against themselves.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "runtime/weights.h"
#include "tests/support/golden_model.h"
#include "tests/support/test_replica.h"

namespace convoke {
namespace {

using testing::possible_tp;
using testing::TestReplica;

const std::filesystem::path kModels = CONVOKE_SOURCE_DIR "/tests/golden/float8_models";

class Float8Model : public ::testing::TestWithParam<std::string> {
 protected:
  GoldenModel golden = load_golden_model(kModels / GetParam());
};

TEST_P(Float8Model, LogitsAreThoseOfTransformers) {
  for (const char* isa : {"portable", "avx2", "avx512-bf16", "amx-bf16"}) {
    if (cpu::parse_isa(isa) > cpu::best_isa()) continue;
    TestReplica replica(golden.directory, {.isa = isa});
    const auto logits = replica.logits(golden.prompt, 512);
    ASSERT_EQ(golden.rounded_logits.size(), golden.positions.size());
    // Inputs of products and the cache are rounded to 8 bits: as in transformer_golden_test.cc.
    const double bound = 4 * std::ldexp(1.0, -9) * std::sqrt(10.0 * replica.config().layers + 2);
    for (size_t i = 0; i < golden.positions.size(); ++i) {
      const auto& ours = logits[size_t(golden.positions[i])];
      EXPECT_LE(distance(ours, golden.logits[i]), bound * norm(golden.logits[i])) << isa;
      // Where the reference rounds likewise, what is left is the order of sums, and a rounding to
      // bfloat16 that it tips over once in a while: one of at least 24 inputs, by 2^-8.
      const double tipped = std::ldexp(1.0, -8) / std::sqrt(24.0);
      EXPECT_LE(distance(ours, golden.rounded_logits[i]), tipped * norm(golden.rounded_logits[i]))
          << isa;
    }
  }
}

TEST_P(Float8Model, LogitsHaveTheSameBitsInEveryShape) {
  TestReplica reference(golden.directory, {});
  const auto expected = reference.logits(golden.prompt, 512);
  for (int chunk : {1, 7}) {
    EXPECT_TRUE(same_bits(reference.logits(golden.prompt, chunk), expected)) << chunk;
  }
  for (int tp : possible_tp(reference.config())) {
    for (int threads : {1, 2}) {
      TestReplica replica(golden.directory, {.tp = tp, .threads = threads});
      EXPECT_TRUE(same_bits(replica.logits(golden.prompt, 16), expected))
          << "tp " << tp << " threads " << threads;
    }
  }
}

TEST_P(Float8Model, RandomWeightsRunToo) {
  TestReplica one(golden.directory, {.load_format = "dummy"});
  const auto expected = one.logits(golden.prompt, 512);
  double largest = 0;
  for (const auto& row : expected) {
    for (const float logit : row) {
      ASSERT_TRUE(std::isfinite(logit));
      largest = std::max(largest, double(std::abs(logit)));
    }
  }
  EXPECT_GT(largest, 0.1);
  EXPECT_LT(largest, 100);
  TestReplica two(golden.directory, {.tp = 2, .load_format = "dummy"});
  EXPECT_TRUE(same_bits(two.logits(golden.prompt, 512), expected));
}

INSTANTIATE_TEST_SUITE_P(Models, Float8Model, ::testing::ValuesIn(golden_model_names(kModels)),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(Float8Models, AreMultipliedInBfloat16) {
  const ModelConfig config = ModelConfig::load(kModels / "compressed-channel");
  EXPECT_EQ(weight_dtype("auto", config), DType::kBFloat16);
  EXPECT_EQ(weight_dtype("auto", config, true), DType::kBFloat16);
  EXPECT_EQ(weight_dtype("bfloat16", config), DType::kBFloat16);
  for (const char* flag : {"float32", "float16"}) {
    try {
      weight_dtype(flag, config, true);
      FAIL() << flag;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("weights of 8 bits (compressed-tensors)"),
                std::string::npos)
          << error.what();
    }
  }
}

}  // namespace
}  // namespace convoke
