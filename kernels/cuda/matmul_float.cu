// Products with weights of 32 bits. Models in float32 are for comparison, not for speed: a warp
// computes one output of eight rows, lane l sums inputs l, l + 32, ... of each reduction group, a
// tree adds the lanes, another the groups.
#include "kernels/cuda/matmul.cuh"

namespace convoke::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRows = 8;

struct FloatJob {
  const float* x;
  int64_t x_stride;
  int rows;
  const float* weights;
  int64_t inputs;
  int groups;
  MatmulOutput out;
};

/// The sum of one row of weights with rows [0, kRows) of x; lane r returns that of row r.
__device__ __forceinline__ float product(const FloatJob& job, const float* x, int rows,
                                         const float* weights) {
  const int lane = lane_index();
  const int64_t length = job.inputs / job.groups;
  float of_group[kMostGroups] = {};
#pragma unroll
  for (int group = 0; group < kMostGroups; ++group) {
    if (group >= job.groups) break;
    float sums[kRows] = {};
    for (int64_t k = group * length + lane; k < (group + 1) * length; k += kWarp) {
      const float w = weights[k];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r < rows) sums[r] = fmaf(x[r * job.x_stride + k], w, sums[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float sum = warp_sum(sums[r]);
      if (lane == r) of_group[group] = sum;
    }
  }
  return tree_sum(of_group, job.groups);
}

__global__ void __launch_bounds__(kThreads) matmul_float_kernel(FloatJob job) {
  const int64_t output = int64_t(blockIdx.x) * kWarps + warp_index();
  if (output >= job.out.outputs) return;
  const int first_row = int(blockIdx.y) * kRows;
  const int rows = job.rows - first_row < kRows ? job.rows - first_row : kRows;
  const float* const x = job.x + first_row * job.x_stride;
  const float sum = product(job, x, rows, job.weights + output * job.inputs);
  const int row = first_row + lane_index();
  if (!job.out.gated) {
    if (lane_index() < rows) store_sum(job.out, row, output, sum);
    return;
  }
  const float* const other = job.weights + (job.out.outputs + output) * job.inputs;
  const float up = product(job, x, rows, other);
  if (lane_index() < rows) store_gated<float>(job.out, row, output, sum, up);
}

}  // namespace

void matmul_float(const CudaStream& stream, const TensorView& x, const CudaPackedMatrix& weights,
                  const MatmulOutput& out) {
  const MatrixLayout& layout = weights.layout();
  const dim3 grid(unsigned(ceil_div<int64_t>(layout.outputs, kWarps)),
                  unsigned(ceil_div<int64_t>(x.rows, kRows)));
  launch(stream, {grid, kThreads}, matmul_float_kernel,
         FloatJob{static_cast<const float*>(x.data), x.row_stride, int(x.rows),
                  static_cast<const float*>(weights.data()), layout.inputs, layout.groups, out});
}

}  // namespace convoke::cuda
