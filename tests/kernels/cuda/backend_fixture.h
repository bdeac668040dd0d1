// What the tests of the CUDA backend share. They run on emulated devices, or, with
// CONVOKE_TEST_ON_GPU, on the GPU that there is (tests/gpu), where the shards of a replica share it
// if there are more.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>

#include "kernels/cuda/cuda_backend.h"
#if !defined(CONVOKE_TEST_ON_GPU)
#include "tests/support/cuda_emulation/device.h"
#endif
#include "tests/support/checkout.h"
#include "tests/support/golden_model.h"
#include "tests/support/test_replica.h"

namespace convoke {

inline const std::filesystem::path kGoldenModels = checkout() / "tests/golden/models";

/// A replica whose shards have a device each.
inline testing::ReplicaShape on_gpus(testing::ReplicaShape shape, DType storage,
                                     cuda::CudaOptions options = {}) {
  shape.storage = storage;
  auto next = std::make_shared<std::atomic<int>>(0);
  shape.make_backend = [next, options]() mutable {
    options.device = (*next)++ % std::max(1, cuda::device_count(nullptr));
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
  std::string name = std::filesystem::path(test.param.model).filename();
  std::ranges::replace(name, '-', '_');
  return name + "_as_" + std::string(dtype_name(test.param.storage));
}

}  // namespace convoke
