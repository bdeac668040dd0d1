// Heads on the target's threads: the target's embedding and lm_head serve both.
#include <gtest/gtest.h>

#include <optional>
#include <thread>

#include "launcher/draft_device.h"
#include "tests/support/heads_fixture.h"
#include "tests/support/test_replica.h"

namespace convoke {
namespace {

using testing::GoldenHead;
using testing::load_golden_head;
using testing::OpenHead;
using testing::run_golden;
using testing::TestReplica;
using testing::Trace;

struct SharingCase {
  const char* head;
  bool lm_head;  ///< taken from the target
};
void PrintTo(const SharingCase& c, std::ostream* out) {
  *out << c.head;
}

class Sharing : public ::testing::TestWithParam<SharingCase> {
 protected:
  std::unique_ptr<TestReplica> open_target(const std::string& load_format = "auto") const {
    return std::make_unique<TestReplica>(
        golden.target,
        testing::ReplicaShape{.threads = 2, .load_format = load_format, .max_sequences = 2});
  }
  OpenHead open_head(TestReplica& target, const SharedWeights& shared,
                     const testing::HeadShape& shape = {.dtype = "auto"}) const {
    return {golden, shape, target.backend(0).sibling(), shared};
  }
  const GoldenHead golden = load_golden_head(GetParam().head);
};

TEST_P(Sharing, GivesTheSameDraftsOfOneMatrix) {
  const auto target = open_target();
  const SharedWeights shared = target->shared_weights();
  OpenHead own = open_head(*target, {});
  const Trace expected = run_golden(*own.model, golden, {});
  const auto holders = shared.lm_head.use_count();
  {
    OpenHead sharing = open_head(*target, shared);
    EXPECT_EQ(shared.lm_head.use_count(), holders + (GetParam().lm_head ? 1 : 0));
    for (int i = 0; i < 2; ++i) EXPECT_EQ(run_golden(*sharing.model, golden, {}), expected);
    // In 8 bits, or in floats beside a target in bfloat16, it is another matrix.
    const OpenHead narrow = open_head(*target, shared, {.dtype = "bfloat16", .float8 = true});
    const OpenHead wide = open_head(*target, shared, {.dtype = "float32"});
    const bool wide_target = shared.lm_head_dtype == DType::kFloat32 && GetParam().lm_head;
    EXPECT_EQ(shared.lm_head.use_count(),
              holders + (GetParam().lm_head ? 1 : 0) + (wide_target ? 1 : 0));
  }
  EXPECT_EQ(shared.lm_head.use_count(), holders);
}

TEST_P(Sharing, OutlivesTheTargetAndTheOtherWayRound) {
  auto target = open_target();
  testing::TestRequest request{.prompt = {5, 9, 4, 21}, .sampling = {}};
  request.sampling.max_tokens = 6;
  const auto plain = target->run({request});
  std::optional<OpenHead> first = open_head(*target, target->shared_weights());
  const Trace expected = run_golden(*first->model, golden, {});
  first.reset();
  EXPECT_EQ(target->run({request}), plain);
  std::optional<OpenHead> second = open_head(*target, target->shared_weights());
  target.reset();
  EXPECT_EQ(run_golden(*second->model, golden, {}), expected);
  std::thread([&] { second.reset(); }).join();
}

INSTANTIATE_TEST_SUITE_P(Heads, Sharing,
                         ::testing::Values(SharingCase{"eagle-fp32", true},
                                           SharingCase{"eagle-qkv-bias-fp16", true},
                                           SharingCase{"eagle-embedding-bf16", true},
                                           SharingCase{"eagle-reduced-fp32", false},
                                           SharingCase{"eagle3-reduced-bf16", false}),
                         [](const auto& test) {
                           std::string name = test.param.head;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

// Siblings share; other backends, in this process or another, do not.
TEST(SharingBesideShards, IsForSiblings) {
  const GoldenHead golden = load_golden_head("eagle-fp32");
  TestReplica target(golden.target, {.max_sequences = 2});
  const SharedWeights weights = target.shared_weights();
  ReplicaSetup setup;
  setup.options.model = golden.target;
  setup.config = ModelConfig::load(golden.target);
  const auto shares = [&](const char* placement) {
    const DraftContext context =
        context_beside_shard(setup, placement, {&target.backend(0), weights, nullptr}, 0);
    EXPECT_EQ(context.make_backend != nullptr, context.shared.lm_head != nullptr);
    return context.shared.lm_head == weights.lm_head;
  };
  EXPECT_TRUE(shares("auto"));
  EXPECT_TRUE(shares("thread"));
  EXPECT_FALSE(shares("process"));
  setup.shards_on_host = 2;
  EXPECT_FALSE(shares("thread"));
}

}  // namespace
}  // namespace convoke
