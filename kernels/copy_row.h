// A row of numbers from one float format to another, in host memory.
#pragma once

#include <cstdint>

#include "kernels/tensor.h"

namespace convoke {

/// to[i] = from[i], i < count. `to_dtype` is kFloat32 or kBFloat16, `from_dtype` any float; null
/// `from` gives zeros. Throws Error(kModel) for a dtype that is none.
void copy_row(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count);

}  // namespace convoke
