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
  if (layout.float8()) return (block * kWarp + lane) * 16 + float8_place(step * 8 + element);
  return ((block * 2 + step) * kWarp + lane) * 8 + element;
}

/// The row of the tiles that row `row` of a part is, `first` outputs before it.
__host__ __device__ __forceinline__ int64_t tile_row_of(const MatrixLayout& layout, int64_t first,
                                                        int part, int64_t row) {
  return layout.gated ? (row / kTileOutputs * 2 + part) * kTileOutputs + row % kTileOutputs
                      : first + row;
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
      index = tiled_index(layout, tile_row_of(layout, first, part, row), k);
    }
    assign(out[index], to_float(source[row * stride + k]));
  }
}

/// The scale of each row of a part, given ([rows]) or chosen: NaN for a row with a NaN in it (where
/// it is chosen, with an infinity), as in kernels/cpu/packed_matrix.cc. A warp takes a row.
template <typename From>
__global__ void scales_kernel(const From* source, int64_t stride, int64_t rows, MatrixLayout layout,
                              int64_t first, int part, const float* given, float* scales) {
  const int64_t row = int64_t(blockIdx.x) * (kThreads / kWarp) + warp_index();
  if (row >= rows) return;
  float largest = 0;
  bool finite = true;
  for (int64_t k = lane_index(); k < layout.inputs; k += kWarp) {
    const float x = fabsf(to_float(source[row * stride + k]));
    finite = finite && x <= 0x1.fffffep127f;
    largest = x > largest ? x : largest;
  }
  largest = warp_max(largest);
  finite = __all_sync(kAllLanes, finite) != 0;
  if (lane_index() != 0) return;
  float scale = given != nullptr ? given[row] : __fdiv_rn(largest, 448.0f);
  if (given == nullptr && scale < 0x1p-126f) scale = 1.0f;  // a row of (almost) zeros
  if (!finite) scale = std::bit_cast<float>(0x7fc00000u);
  scales[tile_row_of(layout, first, part, row)] = scale;
}

template <typename From>
__global__ void pack_float8_kernel(const From* source, int64_t stride, int64_t rows,
                                   MatrixLayout layout, int64_t first, int part,
                                   const float* scales, uint8_t* out) {
  const int64_t k = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= layout.inputs) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const int64_t tile_row = tile_row_of(layout, first, part, row);
    const float scale = scales[tile_row];
    const From x = source[row * stride + k];
    out[tiled_index(layout, tile_row, k)] = scale != scale ? uint8_t(0) : float8_code(x, scale);
  }
}

/// Part `p`, its first output at `first` of the packed matrix.
template <typename From>
void pack_float8(const CudaStream& stream, const MatrixSource& source, size_t p, int64_t first,
                 const CudaPackedMatrix& matrix, const dim3& grid) {
  const TensorView& part = source.parts[p];
  const auto* data = static_cast<const From*>(part.data);
  const float* const given = source.scales.empty() ? nullptr : source.scales.data() + first;
  launch(stream, {dim3(unsigned(ceil_div<int64_t>(part.rows, kThreads / kWarp))), kThreads},
         scales_kernel<From>, data, part.row_stride, part.rows, matrix.layout(), first, int(p),
         given, matrix.scales());
  launch(stream, {grid, kThreads}, pack_float8_kernel<From>, data, part.row_stride, part.rows,
         matrix.layout(), first, int(p), static_cast<const float*>(matrix.scales()),
         static_cast<uint8_t*>(matrix.data()));
}

}  // namespace

void check_fits(const MatmulArgs& args, const MatrixLayout& layout) {
  CONVOKE_CHECK_EQ(args.x.cols, layout.inputs);
  CONVOKE_CHECK_EQ(args.y.cols, layout.outputs);
  CONVOKE_CHECK_EQ(args.y.rows, args.x.rows);
  CONVOKE_CHECK(args.x.dtype ==
                (args.norm_weight != nullptr ? DType::kFloat32 : layout.activation()));
  CONVOKE_CHECK(args.y.dtype == DType::kFloat32 ||
                (layout.gated && args.y.dtype == layout.activation()));
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
    if (part.rows > 0) {
      CONVOKE_CHECK((part.dtype == DType::kFloat8E4M3) == !source.scales.empty());
    }
    layout.outputs += part.rows;
  }
  if (!source.scales.empty()) {
    CONVOKE_CHECK(layout.float8());
    CONVOKE_CHECK_EQ(source.scales.size(), size_t(layout.outputs));
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
  const DType unit = layout.float8() ? DType::kFloat32 : layout.dtype;  // that divides the bytes
  fill_zero(stream,
            TensorView::matrix(matrix.data(), unit, 1, int64_t(layout.bytes() / dtype_size(unit))));
  int64_t first = 0;
  for (size_t p = 0; p < source.parts.size(); ++p) {
    const TensorView& part = source.parts[p];
    const dim3 grid(unsigned(ceil_div<int64_t>(part.cols, kThreads)),
                    unsigned(std::min<int64_t>(part.rows, 65535)));
    if (part.rows > 0 && part.cols > 0 && layout.float8()) {
      if (part.dtype == DType::kFloat8E4M3) {
        pack_float8<Float8>(stream, source, p, first, matrix, grid);
      } else {
        with_element(part.dtype, [&](auto from) {
          pack_float8<decltype(from)>(stream, source, p, first, matrix, grid);
        });
      }
    } else if (part.rows > 0 && part.cols > 0) {
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
