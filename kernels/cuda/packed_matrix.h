// Weight matrices in the order in which the products of kernels/cuda/matmul.cu read them.
#pragma once

#include <algorithm>

#include "kernels/cuda/stream.h"

namespace convoke::cuda {

inline constexpr int kMostGroups = 8;       ///< reduction groups: the blocks of a cluster
inline constexpr int kTileOutputs = 16;     ///< of a tensor-core tile
inline constexpr int kChunkInputs = 32;     ///< of two tensor-core steps
inline constexpr int kChunkElements = 512;  ///< of a tile and a chunk

/// Weights of 16 bits: [tiles][groups][chunks][2 steps][32 lanes][8], so that a lane finds its part
/// of a tensor-core operand in 16 contiguous bytes and a warp reads 512 in one go. Outputs and the
/// inputs of each group are padded with zeros. The tiles of gated weights alternate: gate, what it
/// lets through. Weights of 32 bits, and those for a library's products: [outputs][inputs], of
/// gated ones first all of the gate.
///
/// Weights of 8 bits: [tiles][groups][chunks][32 lanes][16], both steps of a chunk in a lane's 16
/// bytes, in the order in which expand_float8() takes them; then a float32 scale for each row of
/// the tiles. NaN does not occur among them: it becomes the scale of its row.
struct MatrixLayout {
  DType dtype = DType::kBFloat16;
  int64_t outputs = 0;  ///< of the product: of gated weights, those of one part
  int64_t inputs = 0;
  int groups = 1;
  bool gated = false;
  bool plain = false;  ///< for library_products.h; 16 bits only

  constexpr bool tiled() const { return dtype != DType::kFloat32 && !plain; }
  constexpr bool float8() const { return dtype == DType::kFloat8E4M3; }
  DType activation() const { return float8() ? DType::kBFloat16 : dtype; }
  int64_t group_inputs() const { return inputs / groups; }
  int64_t chunks() const { return (group_inputs() + kChunkInputs - 1) / kChunkInputs; }
  int64_t tiles() const { return (outputs + kTileOutputs - 1) / kTileOutputs * (gated ? 2 : 1); }
  size_t bytes() const {
    if (!tiled()) return size_t(outputs * (gated ? 2 : 1) * inputs) * dtype_size(dtype);
    return weight_bytes() + (float8() ? size_t(tiles() * kTileOutputs) * sizeof(float) : 0);
  }
  /// Tiled weights without their scales.
  size_t weight_bytes() const {
    return size_t(tiles() * groups * chunks()) * kChunkElements * dtype_size(dtype);
  }
};

/// Throws unless the arguments of a product fit its matrix and each other (see MatmulArgs).
void check_fits(const MatmulArgs& args, const MatrixLayout& layout);

/// Bytes that `rows` rows of x take after their norm, in whole pieces of 256.
inline size_t normed_bytes(const MatrixLayout& layout, int64_t rows) {
  return (size_t(rows * layout.inputs) * dtype_size(layout.activation()) + 255) / 256 * 256;
}

/// The layout of a matrix, from the extents of its parts; their data need not be there. Storage may
/// be kFloat16 besides what MatrixSource allows.
MatrixLayout matrix_layout(const MatrixSource& source);

/// Does not own the memory: layout().bytes() on the device, aligned to 256 bytes.
class CudaPackedMatrix : public PackedMatrix {
 public:
  CudaPackedMatrix(const MatrixLayout& layout, void* data) : layout_(layout), data_(data) {}
  int64_t outputs() const override { return layout_.outputs; }
  int64_t inputs() const override { return layout_.inputs; }
  DType activation_dtype() const override { return layout_.activation(); }
  size_t bytes() const override { return layout_.bytes(); }
  const MatrixLayout& layout() const { return layout_; }
  void* data() const { return data_; }
  /// [tiles * 16] of weights of 8 bits, else null.
  float* scales() const {
    return layout_.float8()
               ? reinterpret_cast<float*>(static_cast<std::byte*>(data_) + layout_.weight_bytes())
               : nullptr;
  }

 private:
  MatrixLayout layout_;
  void* data_;
};

/// Writes the matrix; the parts, and the scales, are memory that the device can read.
void pack(const CudaStream& stream, const MatrixSource& source, const CudaPackedMatrix& matrix);

}  // namespace convoke::cuda
