// What --device means where there may be a GPU or none.
#include "launcher/shard_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/check.h"

namespace convoke {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;

/// Why `flag` cannot be had, or nothing.
std::string refusal(const std::string& flag) {
  try {
    choose_device(flag);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "";
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

}  // namespace
}  // namespace convoke
