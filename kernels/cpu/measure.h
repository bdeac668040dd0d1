// What this machine can do at best: the floors that benchmarks compare with, measured in the same
// run. Each figure is the best of several repetitions, since other load only ever makes it smaller.
#pragma once

#include <cstddef>

#include "kernels/backend.h"

namespace convoke::cpu {

/// Bytes per second at which the backend's threads together read `bytes` of memory (each its own
/// contiguous part) over and over, in the best of several ways of reading.
double measure_read_bandwidth(Backend& backend, size_t bytes);

/// Floating-point operations per second (2 per multiply-add) of a product of 512 rows with a
/// 4096 x 4096 matrix of `dtype` weights, kBFloat16 or kFloat32.
double measure_matmul_rate(Backend& backend, DType dtype = DType::kBFloat16);

}  // namespace convoke::cpu
