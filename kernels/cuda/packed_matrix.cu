#include "kernels/cuda/device.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/packed_matrix.h"

namespace convoke::cuda {
namespace {

constexpr int kThreads = 256;

/// Where element (row, k) of the tiled layout lies. Within a chunk lane 4 g + q holds, of rows g
/// and g + 8, inputs 8 q to 8 q + 7: so a row of x is read in pieces of 8 contiguous inputs too.
/// The order of the inputs within a chunk that the tensor cores see is another one, and always the
/// same.
__host__ __device__ __forceinline__ int64_t tiled_index(const MatrixLayout& layout, int64_t row,
                                                        int64_t k) {
  const int64_t group_inputs = layout.inputs / layout.groups;
  const int64_t chunks = (group_inputs + kChunkInputs - 1) / kChunkInputs;
  const int64_t group = k / group_inputs, chunk = k % group_inputs / kChunkInputs;
  const int j = int(k % group_inputs % kChunkInputs), r = int(row % kTileOutputs);
  const int lane = r % 8 * 4 + j / 8, step = j % 8 / 4;
  const int element = (r / 8 + j % 4 / 2 * 2) * 2 + j % 2;
  const int64_t block = (row / kTileOutputs * layout.groups + group) * chunks + chunk;
  return ((block * 2 + step) * kWarp + lane) * 8 + element;
}

/// One part of the source, its first output at `first` of the packed matrix.
template <typename From, typename To>
__global__ void pack_kernel(const From* source, int64_t stride, int64_t rows, MatrixLayout layout,
                            int64_t first, int part, To* out) {
  const int64_t k = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= layout.inputs) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    int64_t index;
    if (!layout.tiled()) {
      index = (first + row) * layout.inputs + k;
    } else {
      const int64_t tile_row =
          layout.gated ? (row / kTileOutputs * 2 + part) * kTileOutputs + row % kTileOutputs
                       : first + row;
      index = tiled_index(layout, tile_row, k);
    }
    assign(out[index], to_float(source[row * stride + k]));
  }
}

}  // namespace

void check_fits(const MatmulArgs& args, const MatrixLayout& layout) {
  CONVOKE_CHECK_EQ(args.x.cols, layout.inputs);
  CONVOKE_CHECK_EQ(args.y.cols, layout.outputs);
  CONVOKE_CHECK_EQ(args.y.rows, args.x.rows);
  CONVOKE_CHECK(args.x.dtype == (args.norm_weight != nullptr ? DType::kFloat32 : layout.dtype));
  CONVOKE_CHECK(args.y.dtype == DType::kFloat32 || (layout.gated && args.y.dtype == layout.dtype));
  CONVOKE_CHECK(!(layout.gated && args.accumulate));
}

MatrixLayout matrix_layout(const MatrixSource& source) {
  CONVOKE_CHECK(!source.parts.empty());
  CONVOKE_CHECK(source.groups >= 1 && source.groups <= kMostGroups);
  CONVOKE_CHECK_EQ(source.groups & (source.groups - 1), 0);
  MatrixLayout layout;
  layout.dtype = source.dtype;
  layout.inputs = source.parts[0].cols;
  layout.groups = source.groups;
  layout.gated = source.gated;
  for (const TensorView& part : source.parts) {
    CONVOKE_CHECK_EQ(part.cols, layout.inputs);
    layout.outputs += part.rows;
  }
  CONVOKE_CHECK_EQ(layout.inputs % layout.groups, 0);
  if (layout.gated) {
    CONVOKE_CHECK_EQ(source.parts.size(), 2u);
    CONVOKE_CHECK_EQ(source.parts[0].rows, source.parts[1].rows);
    layout.outputs /= 2;
  }
  return layout;
}

void pack(const CudaStream& stream, const MatrixSource& source, const CudaPackedMatrix& matrix) {
  const MatrixLayout& layout = matrix.layout();
  // Padding is zeros.
  fill_zero(stream, TensorView::matrix(matrix.data(), layout.dtype, 1,
                                       int64_t(layout.bytes() / dtype_size(layout.dtype))));
  int64_t first = 0;
  for (size_t p = 0; p < source.parts.size(); ++p) {
    const TensorView& part = source.parts[p];
    const dim3 grid(unsigned(ceil_div<int64_t>(part.cols, kThreads)),
                    unsigned(std::min<int64_t>(part.rows, 65535)));
    if (part.rows > 0 && part.cols > 0) {
      with_element(part.dtype, [&](auto from) {
        with_element(layout.dtype, [&](auto to) {
          using From = decltype(from);
          using To = decltype(to);
          launch(stream, {grid, kThreads}, pack_kernel<From, To>,
                 static_cast<const From*>(part.data), part.row_stride, part.rows, layout, first,
                 int(p), static_cast<To*>(matrix.data()));
        });
      });
    }
    first += part.rows;
  }
}

}  // namespace convoke::cuda
