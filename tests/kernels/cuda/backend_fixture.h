// What the tests of the CUDA backend on emulated devices share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "kernels/cuda/cuda_backend.h"
#include "tests/support/cuda_emulation/device.h"
#include "tests/support/golden_model.h"
#include "tests/support/test_replica.h"

namespace convoke {

inline const std::filesystem::path kGoldenModels = CONVOKE_SOURCE_DIR "/tests/golden/models";

/// A replica whose shards have an emulated device each.
inline testing::ReplicaShape on_gpus(testing::ReplicaShape shape, DType storage,
                                     cuda::CudaOptions options = {}) {
  shape.storage = storage;
  auto next = std::make_shared<std::atomic<int>>(0);
  shape.make_backend = [next, options]() mutable {
    options.device = (*next)++;
    return cuda::make_cuda_backend(options);
  };
  return shape;
}

/// A golden model, and what its weights are kept in.
struct GpuCase {
  const char* model;
  DType storage;
};
inline void PrintTo(const GpuCase& c, std::ostream* out) {
  *out << c.model << " in " << dtype_name(c.storage);
}
inline std::string gpu_case_name(const ::testing::TestParamInfo<GpuCase>& test) {
  std::string name = test.param.model;
  std::ranges::replace(name, '-', '_');
  return name + "_as_" + std::string(dtype_name(test.param.storage));
}

}  // namespace convoke
