// Sums over the contributions of ranks, in the one order that they have on CPUs
// (parallel/tree_sum.h): ((r0 + r1) + (r2 + r3)) + ..., added to the target once.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/matmul.cuh"

namespace convoke::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostBlocks = 1024;

template <int N>
__global__ void __launch_bounds__(kThreads)
    rank_sum_kernel(const float* parts, int64_t stride, float* target, int64_t count, bool add) {
  const int64_t step = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += step) {
    float v[N];
#pragma unroll
    for (int r = 0; r < N; ++r) v[r] = parts[r * stride + i];
    const float sum = tree_sum(v, N);
    target[i] = add ? target[i] + sum : sum;
  }
}

template <int N>
void launch_sum(const CudaStream& stream, const float* parts, int64_t stride, float* target,
                int64_t count, bool add) {
  const int64_t blocks = std::min(ceil_div<int64_t>(count, kThreads), kMostBlocks);
  launch(stream, {dim3(unsigned(blocks)), kThreads}, rank_sum_kernel<N>, parts, stride, target,
         count, add);
}

}  // namespace

void rank_sum(const CudaStream& stream, const float* parts, int64_t stride, int ranks,
              float* target, int64_t count, bool add) {
  CONVOKE_CHECK(ranks == 1 || ranks == 2 || ranks == 4 || ranks == 8);
  if (count == 0) return;
  if (ranks == 1) return launch_sum<1>(stream, parts, stride, target, count, add);
  if (ranks == 2) return launch_sum<2>(stream, parts, stride, target, count, add);
  if (ranks == 4) return launch_sum<4>(stream, parts, stride, target, count, add);
  launch_sum<8>(stream, parts, stride, target, count, add);
}

}  // namespace convoke::cuda
