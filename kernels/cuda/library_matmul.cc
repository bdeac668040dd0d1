// Products with weights in a plain layout: the library multiplies, our kernels do what is before
// and after it.
#include "kernels/check.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/library_products.h"

namespace convoke::cuda {
namespace {

/// Of gated weights, gates and what they let through.
size_t ungated_bytes(const MatrixLayout& layout, int64_t rows) {
  if (!layout.gated) return 0;
  return (size_t(rows * 2 * layout.outputs) * sizeof(float) + 255) / 256 * 256;
}

int64_t library_outputs(const MatrixLayout& layout) {
  return layout.outputs * (layout.gated ? 2 : 1);
}

void check(const MatmulArgs& args, const MatrixLayout& layout, const Workspace& workspace) {
  CONVOKE_CHECK(layout.plain);
  check_fits(args, layout);
  CONVOKE_CHECK_GE(workspace.bytes, library_workspace_bytes(layout, int(args.x.rows)));
}

}  // namespace

size_t library_workspace_bytes(const MatrixLayout& layout, int rows) {
  return normed_bytes(layout, rows) + ungated_bytes(layout, rows);
}

void prepare_matmul(LibraryProducts& library, const MatrixLayout& layout, int rows) {
  const int64_t outputs = library_outputs(layout);
  LibraryProduct product{layout.dtype, rows, outputs, layout.inputs, layout.inputs, outputs, false};
  library.prepare(product);
  if (layout.gated) return;
  product.accumulate = true;
  library.prepare(product);
}

void library_matmul(const CudaStream& stream, LibraryProducts& library, const MatmulArgs& args,
                    const Workspace& workspace) {
  const auto& weights = static_cast<const CudaPackedMatrix&>(*args.weights);
  const MatrixLayout& layout = weights.layout();
  check(args, layout, workspace);
  const int64_t rows = args.x.rows, outputs = library_outputs(layout);
  if (rows == 0) return;
  auto* free_space = static_cast<std::byte*>(workspace.data);
  TensorView x = args.x;
  if (args.norm_weight != nullptr) {
    x = TensorView::matrix(free_space, layout.dtype, rows, layout.inputs);
    rms_norm(stream, {args.x, args.norm_weight, args.norm_epsilon, x, {}});
    free_space += normed_bytes(layout, rows);
  }
  TensorView y = args.y;
  if (layout.gated) y = TensorView::matrix(free_space, DType::kFloat32, rows, outputs);
  library.multiply(
      stream,
      {layout.dtype, rows, outputs, layout.inputs, x.row_stride, y.row_stride, args.accumulate},
      x.data, weights.data(), static_cast<float*>(y.data));
  if (args.bias != nullptr) add_bias(stream, y, args.bias);
  if (layout.gated) silu_mul(stream, {y, args.y});
}

}  // namespace convoke::cuda
