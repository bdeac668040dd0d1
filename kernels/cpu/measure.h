// What this machine can do at best: the floors that benchmarks compare with, measured in the same
// run. A yardstick takes its measure once per call, so that a benchmark can take turns between it
// and what it measures and treat both alike: a machine that others share runs at half its speed for
// a while, and a best moment on one side against a usual one on the other says nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/backend.h"

namespace convoke::cpu {

/// Reading memory with all threads of a backend together, each its own contiguous part.
class ReadYardstick {
 public:
  /// Finds the fastest of several ways of reading `bytes` (rounded up to whole cache lines), which
  /// takes some thirty sweeps.
  ReadYardstick(Backend& backend, size_t bytes);

  /// Seconds of reading everything once.
  double sweep();
  size_t bytes() const { return lines_ * 64; }

 private:
  using Reader = uint64_t (*)(const std::byte* data, size_t lines);
  double sweep(Reader reader);

  Backend& backend_;
  size_t lines_;
  std::unique_ptr<Buffer> buffer_;
  Reader reader_ = nullptr;
  uint64_t sink_ = 0;
};

/// A large matrix product: 512 rows with a 4096 x 4096 matrix of `dtype` weights, kBFloat16 or
/// kFloat32.
class MatmulYardstick {
 public:
  explicit MatmulYardstick(Backend& backend, DType dtype = DType::kBFloat16);

  /// Seconds of one product.
  double product();
  /// Of one product, 2 per multiply-add.
  static constexpr double operations() { return 2.0 * kRows * kSize * kSize; }

 private:
  static constexpr int64_t kRows = 512, kSize = 4096;

  Backend& backend_;
  DType dtype_;
  std::unique_ptr<Buffer> inputs_, outputs_;
  std::unique_ptr<PackedMatrix> weights_;
};

/// Bytes per second of the fastest sweep within a fifth of a second.
double measure_read_bandwidth(Backend& backend, size_t bytes);

/// Operations per second of the fastest product within a third of a second.
double measure_matmul_rate(Backend& backend, DType dtype = DType::kBFloat16);

}  // namespace convoke::cpu
