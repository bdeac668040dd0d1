// Products of kernels/cuda beside those of the CPU.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cpu/matmul.h"
#include "kernels/cuda/packed_matrix.h"
#include "tests/kernels/cuda/fixture.h"

namespace convoke::cuda {

/// Weights packed for both backends.
struct Weights {
  Weights(MatrixSource matrix_source, cpu::Products& products) : source(std::move(matrix_source)) {
    const MatrixLayout layout = matrix_layout(source);
    memory = filled_memory(layout.bytes());
    packed = std::make_unique<CudaPackedMatrix>(layout, memory.data());
    on_device::pack(source, *packed);
    // The CPU has no products with fp16 weights: those are held against float32.
    MatrixSource cpu_source = source;
    if (source.dtype == DType::kFloat16) cpu_source.dtype = DType::kFloat32;
    oracle = products.pack(cpu_source);
  }
  MatrixSource source;
  DeviceBuffer memory;
  std::unique_ptr<CudaPackedMatrix> packed;
  std::unique_ptr<cpu::CpuPackedMatrix> oracle;
};

}  // namespace convoke::cuda
