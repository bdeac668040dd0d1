// The transformer against what the transformers library computes, and against itself: the same bits
// for every chunking, tensor-parallel size and thread count.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_backend.h"
#include "tests/support/golden_model.h"
#include "tests/support/test_replica.h"

namespace convoke {
namespace {

using testing::possible_tp;
using testing::ReplicaShape;
using testing::TestReplica;
using testing::TestRequest;

const char kModels[] = CONVOKE_SOURCE_DIR "/tests/golden/models";

// Roundings that a logit passes through: per layer two norms, four products, rotation, softmax and
// two residual sums; then norm and lm_head. Independent roundings of relative size u add up as
// their root; products over K terms contribute about sqrt(K) of them. The factor 4 is four standard
// deviations.
double rounding_bound(const ModelConfig& config, double u) {
  const double per_layer = 10;
  const double terms = std::sqrt(double(std::max<int64_t>(config.hidden, config.intermediate)));
  return 4 * u * std::sqrt(per_layer * config.layers + 2) * terms;
}

class Golden : public ::testing::TestWithParam<std::string> {
 protected:
  GoldenModel model = load_golden_model(std::filesystem::path(kModels) / GetParam());
};

TEST_P(Golden, Float32LogitsAreThoseOfTransformers) {
  for (const char* isa : {"portable", "avx2", "avx512-bf16", "amx-bf16"}) {
    if (cpu::parse_isa(isa) > cpu::best_isa()) continue;
    TestReplica replica(model.directory, {.isa = isa, .dtype = "float32"});
    const double bound = rounding_bound(replica.config(), std::ldexp(1.0, -24));
    const auto logits = replica.logits(model.prompt, 512);
    for (size_t i = 0; i < model.positions.size(); ++i) {
      const auto& ours = logits[size_t(model.positions[i])];
      EXPECT_LE(distance(ours, model.logits[i]), bound * norm(model.logits[i])) << isa;
    }
    const auto one = replica.logits(model.short_prompt, 1);
    EXPECT_LE(distance(one[0], model.short_logits), bound * norm(model.short_logits)) << isa;
  }
}

TEST_P(Golden, BFloat16LogitsAreWithinTheRoundingOfActivations) {
  for (const char* isa : {"portable", "avx2", "avx512-bf16", "amx-bf16"}) {
    if (cpu::parse_isa(isa) > cpu::best_isa()) continue;
    TestReplica replica(model.directory, {.isa = isa, .dtype = "bfloat16"});
    // Inputs of products and the cache are rounded to 8 bits, and so are the weights if the
    // checkpoint has more; these errors average out over K, so K does not enter.
    const double sources = replica.config().checkpoint_dtype == DType::kBFloat16 ? 1 : 2;
    const double bound =
        4 * std::ldexp(1.0, -9) * std::sqrt(sources * (10.0 * replica.config().layers + 2));
    const auto logits = replica.logits(model.prompt, 512);
    for (size_t i = 0; i < model.positions.size(); ++i) {
      const auto& ours = logits[size_t(model.positions[i])];
      EXPECT_LE(distance(ours, model.logits[i]), bound * norm(model.logits[i])) << isa;
    }
  }
}

TEST_P(Golden, GreedyContinuationIsThatOfTransformers) {
  TestReplica replica(model.directory, {.dtype = "float32"});
  TestRequest request{model.prompt, {}};
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  request.sampling.max_tokens = int(model.greedy.size());
  EXPECT_EQ(replica.run({request})[0].tokens, model.greedy);
}

TEST_P(Golden, LogitsHaveTheSameBitsInEveryShape) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    TestReplica reference(model.directory, {.dtype = dtype});
    const auto expected = reference.logits(model.prompt, 512);
    for (int chunk : {1, 7}) {
      EXPECT_TRUE(same_bits(reference.logits(model.prompt, chunk), expected))
          << dtype << " in chunks of " << chunk;
    }
    for (int tp : possible_tp(reference.config())) {
      for (int threads : {1, 2}) {
        TestReplica replica(model.directory, {.tp = tp, .threads = threads, .dtype = dtype});
        EXPECT_TRUE(same_bits(replica.logits(model.prompt, 16), expected))
            << dtype << " tp " << tp << " threads " << threads;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, ::testing::ValuesIn(golden_model_names(kModels)),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace convoke
