// What --device means where there may be a GPU or none.
#include "launcher/shard_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/check.h"
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
  EXPECT_THAT(refusal_with([](EngineOptions& o) { o.gpu_collectives = "nccl"; }),
              HasSubstr("--gpu-collectives nccl"));
}

}  // namespace
}  // namespace convoke
