// Runs tests that need a GPU; where there is none they are reported as skipped (ctest looks for the
// word: tests/gpu/CMakeLists.txt).
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "kernels/cuda/device_runtime.h"

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  std::string why;
  if (!GTEST_FLAG_GET(list_tests) && convoke::cuda::device_count(&why) == 0) {
    std::printf("[  SKIPPED ] no CUDA device: %s\n", why.c_str());
    return 0;
  }
  return RUN_ALL_TESTS();
}
