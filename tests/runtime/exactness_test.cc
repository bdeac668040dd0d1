// Speculation, batching, chunking, preemption, threads and tensor parallelism never change a token
// or a bit of the logits that picked it. Models are the tiny golden ones; tests/e2e/ does the same
// with the demo model through whole jobs.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/support/golden_model.h"
#include "tests/support/test_replica.h"

namespace convoke {
namespace {

using testing::mixed_trees;
using testing::Outcome;
using testing::possible_tp;
using testing::ReplicaShape;
using testing::TestReplica;
using testing::TestRequest;
using testing::use_every_processor;

const std::filesystem::path kModels = CONVOKE_SOURCE_DIR "/tests/golden/models";

// Prompts of mixed lengths; every third request uses every processor, every third is greedy, every
// third samples plainly.
std::vector<TestRequest> make_requests(const ModelConfig& config, int count) {
  std::mt19937 random(11);
  std::vector<TestRequest> requests;
  for (int i = 0; i < count; ++i) {
    TestRequest& r = requests.emplace_back();
    r.prompt.resize(1 + random() % 30);
    for (int32_t& t : r.prompt) t = int32_t(random() % unsigned(config.vocabulary));
    r.sampling.seed = random();
    r.sampling.max_tokens = 12 + int(random() % 12);
    r.sampling.temperature = i % 3 == 0 ? 0.0f : 1.0f;
    r.sampling.ignore_eos = i % 2 == 0;
    if (i % 3 == 2) use_every_processor(r.sampling);
  }
  return requests;
}

class Exactness : public ::testing::TestWithParam<std::string> {
 protected:
  std::filesystem::path model = kModels / GetParam();
};

TEST_P(Exactness, EveryShapeAndEveryTreeGivesThePlainBits) {
  TestReplica reference(model, {.max_sequences = 1});
  const auto requests = make_requests(reference.config(), 9);
  const std::vector<Outcome> plain = reference.run(requests);
  size_t tokens = 0;
  for (const Outcome& o : plain) tokens += o.digests.size();
  ASSERT_GT(tokens, 50u);
  EXPECT_EQ(reference.accepted(), 0);

  std::vector<ReplicaShape> shapes{{.max_sequences = 1},
                                   {.threads = 2, .max_sequences = 16},
                                   {.max_sequences = 16, .prompt_chunk = 1},
                                   {.max_sequences = 16, .prompt_chunk = 7},
                                   {.max_sequences = 3, .max_rows = 8},
                                   // Few blocks: sequences push each other out and are recomputed.
                                   {.max_sequences = 8, .max_rows = 64, .kv_cache_tokens = 64}};
  for (int tp : possible_tp(reference.config())) {
    if (tp > 1) shapes.push_back({.tp = tp, .max_sequences = 16, .prompt_chunk = 16});
  }
  int64_t accepted = 0, preempted = 0;
  for (const ReplicaShape& shape : shapes) {
    TestReplica replica(model, shape);
    EXPECT_EQ(replica.run(requests), plain)
        << "plain: tp " << shape.tp << ", " << shape.max_sequences << " sequences, chunk "
        << shape.prompt_chunk;
    preempted += replica.preemptions();
    EXPECT_EQ(replica.run(requests, mixed_trees(requests, plain, reference.config().vocabulary, 5)),
              plain)
        << "with trees: tp " << shape.tp << ", " << shape.max_sequences << " sequences, chunk "
        << shape.prompt_chunk;
    accepted += replica.accepted();
  }
  EXPECT_GT(accepted, 50) << "the trees must be right often enough to mean something";
  // Where outputs are long enough; some of the random models stop soon.
  if (GetParam() == "llama-gqa-bf16") {
    EXPECT_GT(preempted, 0);
  }
}

// In tests/golden/float8_models: with weights of 8 bits.
INSTANTIATE_TEST_SUITE_P(Float8Models, Exactness,
                         ::testing::Values("../float8_models/compressed-channel",
                                           "../float8_models/autofp8-static"),
                         [](const auto& test) {
                           std::string name = test.param.substr(17);
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

INSTANTIATE_TEST_SUITE_P(Models, Exactness, ::testing::ValuesIn(golden_model_names(kModels)),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace convoke
