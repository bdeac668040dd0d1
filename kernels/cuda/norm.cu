// RMSNorm, alone and with the residual addition in front of it: one block per row.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/norm.cuh"

namespace convoke::cuda {
namespace {

/// Rows of x, their sums with `addend` (in place) if there is one, normalised into y.
template <typename T>
__global__ void __launch_bounds__(kNormThreads)
    rms_norm_kernel(float* x, int64_t x_stride, const float* addend, int64_t addend_stride,
                    const int32_t* gather, const float* weight, float epsilon, T* y,
                    int64_t y_stride, int64_t columns) {
  const int64_t row = blockIdx.x;
  float* const from = x + (gather != nullptr ? gather[row] : row) * x_stride;
  if (addend != nullptr) {
    // Every thread reads back only what it wrote itself.
    const float* const more = addend + row * addend_stride;
    for (int64_t i = threadIdx.x; i < columns; i += kNormThreads) from[i] += more[i];
  }
  const float factor = block_inverse_rms(columns, epsilon, [&](int64_t i) { return from[i]; });
  for (int64_t i = threadIdx.x; i < columns; i += kNormThreads) {
    assign(y[row * y_stride + i], from[i] * factor * weight[i]);
  }
}

void norm_rows(const CudaStream& stream, const RmsNormArgs& args, const float* addend,
               int64_t addend_stride) {
  CONVOKE_CHECK(args.x.dtype == DType::kFloat32);
  CONVOKE_CHECK_EQ(args.y.cols, args.x.cols);
  CONVOKE_CHECK(args.gather.empty() ? args.y.rows <= args.x.rows
                                    : args.y.rows == int64_t(args.gather.size()));
  if (args.y.rows == 0 || args.y.cols == 0) return;
  with_element(args.y.dtype, [&](auto element) {
    using T = decltype(element);
    launch(stream, {dim3(unsigned(args.y.rows)), kNormThreads}, rms_norm_kernel<T>,
           static_cast<float*>(args.x.data), args.x.row_stride, addend, addend_stride,
           args.gather.empty() ? nullptr : args.gather.data(), args.weight, args.epsilon,
           static_cast<T*>(args.y.data), args.y.row_stride, args.x.cols);
  });
}

}  // namespace

void rms_norm(const CudaStream& stream, const RmsNormArgs& args) {
  norm_rows(stream, args, nullptr, 0);
}

void add_rms_norm(const CudaStream& stream, const RmsNormArgs& args, const TensorView& addend) {
  CONVOKE_CHECK(addend.dtype == DType::kFloat32 && args.gather.empty());
  CONVOKE_CHECK(addend.rows >= args.y.rows && addend.cols == args.x.cols);
  norm_rows(stream, args, static_cast<const float*>(addend.data), addend.row_stride);
}

}  // namespace convoke::cuda
