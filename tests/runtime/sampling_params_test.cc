#include "runtime/sampling_params.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <string>

#include "kernels/check.h"

namespace convoke {
namespace {

constexpr int kVocabulary = 100;

/// The message of the usage error that validate() gives, or "".
std::string complaint(const SamplingParams& params) {
  try {
    validate(params, kVocabulary);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "";
}

template <typename T>
void expect_range(T SamplingParams::*field, const std::string& name, const std::vector<T>& good,
                  const std::vector<T>& bad) {
  for (T value : good) {
    SamplingParams params;
    params.*field = value;
    EXPECT_EQ(complaint(params), "") << name << " = " << value;
  }
  for (T value : bad) {
    SamplingParams params;
    params.*field = value;
    EXPECT_THAT(complaint(params), testing::StartsWith(name + " ")) << value;
  }
}

TEST(Validate, NamesTheFieldAndTakesItsWholeRange) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  using P = SamplingParams;
  expect_range<float>(&P::temperature, "temperature", {0, 1e-5f, 1, 100},
                      {-0.1f, 1e-6f, 100.5f, nan, infinity});
  expect_range<int32_t>(&P::top_k, "top_k", {-1, 0, 1, 1 << 30}, {-2});
  expect_range<float>(&P::top_p, "top_p", {1e-9f, 0.5f, 1}, {0, -1, 1.001f, nan});
  expect_range<float>(&P::min_p, "min_p", {0, 0.5f, 1}, {-0.1f, 1.1f, nan});
  expect_range<float>(&P::repetition_penalty, "repetition_penalty", {0.1f, 1, 100},
                      {0, -1, 101, nan, infinity});
  expect_range<float>(&P::presence_penalty, "presence_penalty", {-100, 0, 2}, {101, -101, nan});
  expect_range<float>(&P::frequency_penalty, "frequency_penalty", {-2, 0, 100}, {infinity, nan});
  expect_range<int32_t>(&P::max_tokens, "max_tokens", {1, 1 << 30}, {0, -1});
  expect_range<int32_t>(&P::min_tokens, "min_tokens", {0, 16}, {-1, 17});
  expect_range<int32_t>(&P::logprobs, "logprobs", {-1, 0, 20}, {-2, 21});
}

TEST(Validate, TokensMustExist) {
  for (int32_t token : {-1, kVocabulary}) {
    SamplingParams params;
    params.stop_tokens = {3, token};
    EXPECT_THAT(complaint(params), testing::HasSubstr("stop_token_ids names token"));
    EXPECT_THAT(complaint(params), testing::HasSubstr("the vocabulary has 100"));
    params = {};
    params.logit_bias = {{token, 1.0f}};
    EXPECT_THAT(complaint(params), testing::HasSubstr("logit_bias names token"));
  }
  SamplingParams params;
  params.logit_bias = {{0, -100.0f}, {kVocabulary - 1, 100.0f}};
  params.stop_tokens = {kVocabulary - 1, 0};
  EXPECT_EQ(complaint(params), "");
}

TEST(Validate, BiasesAreFiniteAndOrdered) {
  SamplingParams params;
  params.logit_bias = {{1, std::numeric_limits<float>::quiet_NaN()}};
  EXPECT_THAT(complaint(params), testing::StartsWith("logit_bias "));
  params.logit_bias = {{1, 101.0f}};
  EXPECT_THAT(complaint(params), testing::StartsWith("logit_bias "));
  params.logit_bias = {{1, 1.0f}, {1, 2.0f}};
  EXPECT_THAT(complaint(params), testing::HasSubstr("token 1 twice or out of order"));
  params.logit_bias = {{5, 1.0f}, {4, 2.0f}};
  EXPECT_THAT(complaint(params), testing::HasSubstr("token 4 twice or out of order"));
}

// A seed is part of what a job's output depends on: these must never change. The values come from
// an independent evaluation of FNV-1a and the splitmix64 finaliser.
TEST(DeriveSeed, IsFixed) {
  EXPECT_EQ(derive_seed(0, ""), 0xf52a15e9a9b5e89bu);
  EXPECT_EQ(derive_seed(0, "request-1"), 0x611a2dc6b4f2ee72u);
  EXPECT_EQ(derive_seed(1234567890123456789, "request-1"), 0xb30db39385b76036u);
  EXPECT_EQ(derive_seed(7, std::string("\xc3\xa9\0z", 4)), 0xa11a8bb2ff631252u);
}

TEST(DeriveSeed, NearInputsGiveFarSeeds) {
  std::set<uint64_t> seeds;
  double flipped = 0;
  for (uint64_t job = 0; job < 20; ++job) {
    for (int i = 0; i < 500; ++i) {
      const uint64_t seed = derive_seed(job, "request-" + std::to_string(i));
      flipped += __builtin_popcountll(seed ^ derive_seed(job, "request-" + std::to_string(i + 1)));
      seeds.insert(seed);
    }
  }
  EXPECT_EQ(seeds.size(), 20u * 500u);
  EXPECT_NEAR(flipped / (20 * 500), 32, 1);
}

}  // namespace
}  // namespace convoke
