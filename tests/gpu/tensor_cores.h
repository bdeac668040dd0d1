// One tensor-core product (tensor_cores.cu).
#pragma once

#include "kernels/cuda/stream.h"

namespace convoke::cuda {

/// c [16][8] += a [16][16] * b [16][8], all in the device's memory, rows dense; a and b bfloat16 or
/// float16.
void tensor_core_product(const CudaStream& stream, DType dtype, const uint16_t* a,
                         const uint16_t* b, float* c);

}  // namespace convoke::cuda
