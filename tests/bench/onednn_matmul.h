// oneDNN's bfloat16 matrix product, the yardstick of matmul_bench; absent where the library is not
// installed.
#pragma once

#include <cstdint>
#include <memory>

namespace convoke {

class OneDnnMatmul {
 public:
  virtual ~OneDnnMatmul() = default;
  virtual void run() = 0;  ///< y = x * W^T, float32 result; returns when it is there
};

/// Weights in the layout that oneDNN likes best, made beforehand. Null without oneDNN.
std::unique_ptr<OneDnnMatmul> make_onednn_matmul(int64_t rows, int64_t inputs, int64_t outputs,
                                                 int threads);

}  // namespace convoke
