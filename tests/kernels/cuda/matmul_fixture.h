// Products of kernels/cuda beside those of the CPU.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cpu/matmul.h"
#include "tests/kernels/cuda/fixture.h"

namespace convoke::cuda {

/// A stream with or without clusters, and a workspace of exactly what is asked for.
struct Device {
  explicit Device(bool clusters) { stream.clusters = clusters; }
  CudaStream stream;

  void run(const MatmulArgs& args) const {
    const auto& weights = static_cast<const CudaPackedMatrix&>(*args.weights);
    const bool normalised = args.norm_weight != nullptr;
    const size_t bytes =
        matmul_workspace_bytes(stream, weights.layout(), int(args.x.rows), normalised);
    std::vector<std::byte> memory(bytes + 256, std::byte{0xff});
    void* const aligned = memory.data() + (256 - reinterpret_cast<uintptr_t>(memory.data()) % 256);
    matmul(stream, args, {aligned, bytes});
  }
};

/// Weights packed for both backends.
struct Weights {
  Weights(MatrixSource matrix_source, cpu::Products& products) : source(std::move(matrix_source)) {
    const MatrixLayout layout = matrix_layout(source);
    memory.assign(layout.bytes() / 4 + 4, 0xffffffffu);
    auto* data = reinterpret_cast<std::byte*>(memory.data());
    data += (16 - reinterpret_cast<uintptr_t>(data) % 16) % 16;
    packed = std::make_unique<CudaPackedMatrix>(layout, data);
    pack(CudaStream{}, source, *packed);
    // The CPU has no products with fp16 weights: those are held against float32.
    MatrixSource cpu_source = source;
    if (source.dtype == DType::kFloat16) cpu_source.dtype = DType::kFloat32;
    oracle = products.pack(cpu_source);
  }
  MatrixSource source;
  std::vector<uint32_t> memory;
  std::unique_ptr<CudaPackedMatrix> packed;
  std::unique_ptr<cpu::CpuPackedMatrix> oracle;
};

}  // namespace convoke::cuda
