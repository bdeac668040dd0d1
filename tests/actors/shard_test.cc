// Shards that follow the plans of the first.
#include "actors/shard.h"

#include <gtest/gtest.h>

#include <thread>

#include "actors/pass_timer.h"
#include "kernels/check.h"
#include "launcher/replica.h"

namespace convoke {
namespace {

/// Two shards of a tiny model, the second on a thread of its own.
class TwoShards : public ::testing::Test {
 protected:
  TwoShards() {
    EngineOptions options;
    options.model = CONVOKE_SOURCE_DIR "/tests/golden/models/llama-gqa-bf16";
    options.device = "cpu";
    options.threads = 2;
    options.max_batched_tokens = 64;
    setup_ = prepare_replica(options, 2, 2);
    communicators_ = make_thread_communicators(2, setup_.communicator_options());
    other_ = std::thread([this] {
      try {
        ShardRank rank(setup_, std::move(communicators_[1]));
        run_shard(rank.communicator(), rank.executor());
      } catch (const Error& error) {
        why_ = error.what();
      }
    });
    first_.emplace(setup_, std::move(communicators_[0]));
    leader_.emplace(first_->communicator(), first_->executor());
  }
  ~TwoShards() override {
    if (other_.joinable()) other_.join();
  }
  void run(uint64_t step) {
    StepPlan plan;
    plan.step = step;
    leader_->run(plan, result_);
  }
  /// Why the second shard gave up, or nothing.
  std::string finish() {
    try {
      leader_->finish();
    } catch (const Error&) {
      // It has given up.
    }
    other_.join();
    return why_;
  }

  ReplicaSetup setup_;
  std::vector<std::unique_ptr<Communicator>> communicators_;
  std::string why_;
  std::thread other_;
  std::optional<ShardRank> first_;
  std::optional<LeadingShard> leader_;
  StepResult result_;
};

TEST_F(TwoShards, PassesAreTimedBetweenSteps) {
  run(1);
  const auto points = time_passes(*leader_, setup_.scheduler_options());
  EXPECT_GE(points.size(), 5u);
  run(2);
  EXPECT_EQ(finish(), "");
}

TEST_F(TwoShards, AMissingPlanIsNoticed) {
  run(1);
  run(3);
  EXPECT_NE(finish().find("expected step 2 and received step 3"), std::string::npos);
}

}  // namespace
}  // namespace convoke
