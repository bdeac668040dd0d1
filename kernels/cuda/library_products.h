// Matrix products of the vendor's library, cuBLASLt: faster where there are many rows, in an order
// of summation that depends on how many there are. Implemented by library_products.cc, and by the
// emulation for tests without a GPU.
#pragma once

#include <memory>

#include "kernels/cuda/launch_log.h"
#include "kernels/cuda/packed_matrix.h"
#include "kernels/cuda/stream.h"

namespace convoke::cuda {

/// y [rows, outputs] = x [rows, inputs] * W^T, W [outputs, inputs] dense; x and W of 16 bits, sums
/// and y float32. Strides in elements.
struct LibraryProduct {
  DType dtype = DType::kBFloat16;
  int64_t rows = 0, outputs = 0, inputs = 0;
  int64_t x_stride = 0, y_stride = 0;
  bool accumulate = false;  ///< y += instead of y =
};

class LibraryProducts {
 public:
  virtual ~LibraryProducts() = default;
  /// Chooses how products of this shape are computed, if that has not been done; what was not
  /// prepared is at its first use, which takes the host some time.
  virtual void prepare(const LibraryProduct& product) = 0;
  virtual int prepared() const = 0;  ///< how many shapes

  /// Enqueues it, or writes it down. The object must live as long as the stream's work.
  void multiply(const CudaStream& stream, const LibraryProduct& product, const void* x,
                const void* weights, float* y) {
    if (stream.log == nullptr) return enqueue(stream, product, x, weights, y);
    stream.log->add([this, product, x, weights, y](const CudaStream& to) {
      enqueue(to, product, x, weights, y);
    });
  }

 protected:
  virtual void enqueue(const CudaStream& stream, const LibraryProduct& product, const void* x,
                       const void* weights, float* y) = 0;
};

/// On the selected device, for one stream. Throws Error(kResource) that says what to do where the
/// library is not there.
std::unique_ptr<LibraryProducts> make_library_products();

// --- library_matmul.cc: matmul() of kernels.h by way of these ---

/// The weights' layout is a plain one.
size_t library_workspace_bytes(const MatrixLayout& layout, int rows);
/// Prepares what library_matmul() will ask for with so many rows, in dense matrices.
void prepare_matmul(LibraryProducts& library, const MatrixLayout& layout, int rows);
void library_matmul(const CudaStream& stream, LibraryProducts& library, const MatmulArgs& args,
                    const Workspace& workspace);

}  // namespace convoke::cuda
