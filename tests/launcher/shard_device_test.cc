// What --device means where there may be a GPU or none.
#include "launcher/shard_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/check.h"
#include "launcher/draft_device.h"
#include "launcher/engine.h"

namespace convoke {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

/// Why something cannot be had, or nothing.
template <class Ask>
std::string refusal_of(Ask&& ask) {
  try {
    ask();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "";
}

std::string refusal(const std::string& device) {
  return refusal_of([&] { choose_device(device); });
}

TEST(ShardDevice, CpuCanAlwaysBeHad) {
  EXPECT_EQ(choose_device("cpu"), ShardDevice::kCpu);
}

TEST(ShardDevice, OtherNamesAreRefused) {
  EXPECT_EQ(refusal("tpu"), "--device 'tpu': expected auto, cpu or cuda");
}

TEST(ShardDevice, AutoIsTheCpuUntilTheCudaBackendIsProven) {
  EXPECT_EQ(choose_device("auto"), ShardDevice::kCpu);
}

TEST(ShardDevice, CudaIsGivenOrItIsSaidWhyNot) {
  const std::string why = refusal("cuda");
  if (why.empty()) {
    EXPECT_EQ(choose_device("cuda"), ShardDevice::kCuda);
    EXPECT_GT(free_device_memory(0), 0);
    return;
  }
  EXPECT_THAT(why, AllOf(HasSubstr("--device cuda: "), HasSubstr("--device cpu")));
  EXPECT_THAT(why, AnyOf(HasSubstr("built without CUDA"), HasSubstr("nvidia-smi")));
  EXPECT_THROW(free_device_memory(0), Error);
}

TEST(ShardDevice, WhatIsAskedOfGpusIsRefusedWithoutOne) {
  const auto refusal_with = [](auto change) {
    EngineOptions options;
    change(options);
    return refusal_of([&] { refuse_gpu_flags(options); });
  };
  EXPECT_EQ(refusal_with([](EngineOptions&) {}), "");
  EXPECT_EQ(refusal_with([](EngineOptions& o) { o.gpu_matmul = "fast"; }),
            "--gpu-matmul fast: shards compute on CPUs here; give --device cuda as well");
  EXPECT_THAT(refusal_with([](EngineOptions& o) { o.gpu_graphs = "off"; }),
              HasSubstr("--gpu-graphs off"));
  for (const char* way : {"ipc", "nccl", "host"}) {
    EXPECT_THAT(refusal_with([&](EngineOptions& o) { o.gpu_collectives = way; }),
                HasSubstr(fmt::format("--gpu-collectives {}", way)));
  }
}

TEST(DraftDevice, FollowsTheShardsUnlessToldOtherwise) {
  EngineOptions options;
  options.drafter = DrafterSpec::parse("eagle:random");
  EXPECT_EQ(choose_draft_device(options, ShardDevice::kCpu), ShardDevice::kCpu);
  EXPECT_EQ(choose_draft_device(options, ShardDevice::kCuda), ShardDevice::kCuda);
  options.draft_device = "cpu";
  EXPECT_EQ(choose_draft_device(options, ShardDevice::kCuda), ShardDevice::kCpu);
  options.draft_device = "cuda";
  EXPECT_EQ(choose_draft_device(options, ShardDevice::kCuda), ShardDevice::kCuda);
}

TEST(DraftDevice, WhatMakesNoSenseIsRefused) {
  EngineOptions options;
  const auto why = [&](ShardDevice shards) {
    return refusal_of([&] { choose_draft_device(options, shards); });
  };
  options.drafter = DrafterSpec::parse("medusa:random");
  options.draft_device = "tpu";
  EXPECT_EQ(why(ShardDevice::kCuda), "--draft-device 'tpu': expected auto, cpu or cuda");
  options.draft_device = "cuda";
  EXPECT_EQ(why(ShardDevice::kCpu),
            "--draft-device cuda: shards compute on CPUs here; give --device cuda as well");
  for (const char* method : {"none", "ngram", "lookahead", "pass:random"}) {
    options.drafter = DrafterSpec::parse(method);
    EXPECT_EQ(why(ShardDevice::kCuda), "--draft-device cuda: --drafter " + options.drafter.method +
                                           " has no model that could compute there");
  }
  options.later_drafters = {DrafterSpec::parse("eagle:random")};  // as bench has
  EXPECT_EQ(why(ShardDevice::kCuda), "");
}

TEST(DraftDevice, ADraftersRankTakesTheCpuWhereThereIsNoGpu) {
  EngineOptions options;
  options.drafter = DrafterSpec::parse("eagle:random");
  EXPECT_EQ(choose_draft_device_of_rank(options), ShardDevice::kCpu);
  options.device = "cuda";
  const ShardDevice there = usable_gpus() > 0 ? ShardDevice::kCuda : ShardDevice::kCpu;
  EXPECT_EQ(choose_draft_device_of_rank(options), there);
  options.draft_device = "cuda";
  EXPECT_EQ(refusal_of([&] { choose_draft_device_of_rank(options); }) == "",
            there == ShardDevice::kCuda);
}

TEST(DraftDevice, TakesAGpuThatNoShardHasWhileThereIsOne) {
  EXPECT_EQ(choose_draft_gpu(0, 1, 0), -1);
  EXPECT_EQ(choose_draft_gpu(8, 4, 0), 4);
  EXPECT_EQ(choose_draft_gpu(8, 4, 1), 5);
  EXPECT_EQ(choose_draft_gpu(1, 1, 0), 0);
  EXPECT_EQ(choose_draft_gpu(4, 4, 1), 1);
}

}  // namespace
}  // namespace convoke
