// Drafters that draft by probes of the target, in whole runs: the tokens are those of plain
// decoding, and so are the logits that picked them, whatever part of a tree takes part.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "runtime/drafters/registry.h"
#include "tests/support/test_replica.h"

namespace convoke {
namespace {

using testing::Outcome;
using testing::possible_tp;
using testing::ReplicaShape;
using testing::TestReplica;
using testing::TestRequest;

const std::filesystem::path kModels = CONVOKE_SOURCE_DIR "/tests/golden/models";
constexpr int kLookahead = 4;

std::vector<TestRequest> make_requests(const ModelConfig& config) {
  std::mt19937 random(3);
  std::vector<TestRequest> requests;
  for (float temperature : {0.0f, 0.8f, 1.0f, 0.0f, 0.8f, 1.0f}) {
    TestRequest& r = requests.emplace_back();
    r.prompt.resize(1 + random() % 20);
    for (int32_t& t : r.prompt) t = int32_t(random() % unsigned(config.vocabulary));
    r.sampling.temperature = temperature;
    r.sampling.seed = random();
    r.sampling.max_tokens = 24 + int(random() % 12);
    r.sampling.ignore_eos = true;
    if (requests.size() <= 3) continue;
    r.sampling.top_p = 0.9f;
    r.sampling.repetition_penalty = 1.2f;
    r.sampling.frequency_penalty = 0.3f;
    r.sampling.logprobs = 2;
    r.sampling.min_tokens = 10;
    r.sampling.stop_tokens = {4, 8};
  }
  return requests;
}

struct Case {
  const char* model;
  const char* drafter;
};

class SelfDrafting : public ::testing::TestWithParam<Case> {};

TEST_P(SelfDrafting, NeverChangesABit) {
  const std::filesystem::path model = kModels / GetParam().model;
  const DrafterSpec spec = DrafterSpec::parse(GetParam().drafter);
  TestReplica reference(model, {.max_sequences = 1});
  const ModelConfig& config = reference.config();
  const auto requests = make_requests(config);
  const std::vector<Outcome> plain = reference.run(requests);

  std::vector<int32_t> embeddings;  // of vocabulary tokens: they say something, if not much
  for (int i = 0; i < kLookahead; ++i) embeddings.push_back(5 + i);
  std::vector<ReplicaShape> shapes{{.max_sequences = 1}, {.threads = 2}, {.kv_cache_tokens = 96}};
  for (int tp : possible_tp(config)) {
    if (tp > 1) shapes.push_back({.tp = tp, .prompt_chunk = 5});
  }
  const DraftNeeds needs = draft_needs(spec, config);
  EXPECT_LE(needs.lookahead_count, kLookahead);
  int64_t accepted = 0;
  for (ReplicaShape& shape : shapes) {
    shape.probe_candidates = needs.probe_candidates;
    if (needs.lookahead_count > 0) shape.lookahead_tokens = embeddings;
    TestReplica replica(model, shape);
    std::mt19937 random(shape.tp);
    const auto some = [&](const DraftTree& tree) {
      return random() % 3 == 0 ? tree.size() : int(random() % unsigned(tree.size() + 2)) - 1;
    };
    for (bool cut : {false, true}) {
      const auto drafter = make_drafter(spec, {.vocabulary = config.vocabulary, .model = model});
      const DraftLimits limits{.max_nodes = cut ? 20 : 48, .max_depth = 6};
      EXPECT_EQ(replica.run(requests, *drafter, limits,
                            cut ? some : std::function<int(const DraftTree&)>()),
                plain)
          << "tp " << shape.tp << ", cut " << cut;
      accepted += replica.accepted();
    }
  }
  EXPECT_GT(accepted, 0) << "drafts must be right now and then to mean something";
}

INSTANTIATE_TEST_SUITE_P(
    Drafters, SelfDrafting,
    ::testing::Values(Case{"llama-gqa-bf16", "pass:random,lookahead=4,candidates=6"},
                      Case{"qwen3-bf16", "pass:random,lookahead=3,mode=two-pass"},
                      Case{"mistral-window-bf16", "pass:random,lookahead=4"},
                      Case{"llama-gqa-bf16", "lookahead"},
                      Case{"qwen2-window-fp32", "lookahead:window=4,ngram=3,guesses=3"}),
    [](const auto& test) {
      std::string name = std::string(test.param.model) + "_" + test.param.drafter;
      std::ranges::replace_if(
          name, [](char c) { return !std::isalnum(uint8_t(c)); }, '_');
      return name;
    });

}  // namespace
}  // namespace convoke
