// The decode loop allocates nothing: counted by this program's own operator new.
#include <gtest/gtest.h>

#include "tests/runtime/allocation_counter.h"
#include "tests/support/test_replica.h"

namespace convoke {
namespace {

class DecodeLoop : public ::testing::TestWithParam<SamplingParams> {};

TEST_P(DecodeLoop, AllocatesNothing) {
  testing::TestReplica replica(
      CONVOKE_SOURCE_DIR "/tests/golden/models/llama-gqa-bf16",
      {.threads = 2, .max_sequences = 2, .probe_candidates = 4, .lookahead_tokens = {3, 4}});
  ShardExecutor& executor = replica.executor(0);
  StepPlan plan;
  StepResult result;
  plan.opened.push_back({0, 1, 4, GetParam()});
  SequenceRows& rows = plan.sequences.emplace_back();
  rows.new_blocks = {0, 1, 2, 3, 4};
  rows.chain = {1, 2, 3, 4};
  rows.pick = true;
  executor.execute(plan, result);
  plan.opened.clear();
  rows.new_blocks.clear();
  rows.context = 4;
  rows.chain = {result.sequences[0].picks[0].token};
  rows.tree.nodes = {{-1, 5, false}, {-1, 6, false}, {0, 7, false},
                     {2, 8, true},   {3, -1, true},  {0, -2, true}};
  const DraftTree whole = rows.tree;

  int64_t counted = 0;
  for (int step = 0; step < 40; ++step) {
    const int64_t before = allocations.load();
    executor.execute(plan, result);
    // The first steps may grow buffers to the size that steps have.
    if (step >= 3) counted += allocations.load() - before;
    rows.chain[0] = result.sequences[0].picks[0].token;
    rows.context += 1;
    // Trees of different sizes, so that rows are probes and candidates by turns.
    rows.tree = whole;
    if (step % 3 == 1) std::swap(rows.tree.nodes[1], rows.tree.nodes[5]);
    if (step % 4 == 2) rows.tree.nodes.resize(4);
    // Now and then a path is committed, so that keys and values move.
    rows.commit.clear();
    if (step % 10 == 4) {
      rows.commit.push_back(0);
      rows.commit.push_back(2);
      rows.context += 2;
    }
  }
  EXPECT_EQ(counted, 0);
}

SamplingParams greedy() {
  SamplingParams p;
  p.temperature = 0;
  return p;
}

SamplingParams everything() {
  SamplingParams p;
  p.temperature = 0.8f;
  p.top_p = 0.9f;
  p.top_k = 10;
  p.min_p = 0.05f;
  p.repetition_penalty = 1.2f;
  p.frequency_penalty = 0.2f;
  p.logit_bias = {{2, 1.0f}};
  p.stop_tokens = {9};
  p.max_tokens = 100;
  p.min_tokens = 16;
  p.logprobs = 2;
  return p;
}

INSTANTIATE_TEST_SUITE_P(Sampling, DecodeLoop, ::testing::Values(greedy(), everything()));

}  // namespace
}  // namespace convoke
