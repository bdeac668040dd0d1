// Random weights where they are wanted: what kernels/random_matrix.h defines.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/kernels.h"

namespace convoke::cuda {
namespace {

using random_core::Jumps;
using random_core::kLanes;
using random_core::kStepNumbers;

constexpr int kThreads = 256;
/// Steps that a thread goes through: a jump to the first costs as much as some tens of them.
constexpr int kRunSteps = 256;

constexpr Jumps kJumps = random_core::make_jumps();

/// Rows of consecutive elements of the matrix.
struct Runs {
  uint64_t seed;
  random_core::Numbers numbers;
  int64_t first;         ///< element of the matrix that the first row begins with
  int64_t pitch;         ///< elements from there to the beginning of the next
  int64_t rows, length;  ///< of each row
  int64_t stride;        ///< elements between rows of what is written
};

__device__ __forceinline__ void store(float& to, float value) {
  to = value;
}
__device__ __forceinline__ void store(BFloat16& to, float value) {
  to.bits = random_core::to_bfloat16(value);
}
__device__ __forceinline__ void store(Float16& to, float value) {
  to.bits = random_core::to_float16(value);
}
__device__ __forceinline__ void store(Float8& to, float value) {
  to.bits = float_to_e4m3(value);
}

/// Sixteen threads are the sixteen generators of a run of steps. What of its first and its last
/// step is not in the row is left out.
template <typename T>
__global__ void random_kernel(T* out, Runs runs, Jumps jumps) {
  const int lane = int(threadIdx.x) % kLanes;
  const int64_t run = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
  for (int64_t row = blockIdx.y; row < runs.rows; row += gridDim.y) {
    const int64_t begin = runs.first + row * runs.pitch, end = begin + runs.length;
    int64_t step = begin / kStepNumbers + run * kRunSteps;
    const int64_t steps_end = ceil_div<int64_t>(end, kStepNumbers);
    const int64_t last = step + kRunSteps < steps_end ? step + kRunSteps : steps_end;
    if (step >= last) continue;
    uint32_t state = random_core::jump(random_core::first_state(runs.seed, lane), step, jumps);
    T* const to = out + row * runs.stride;
    for (; step < last; ++step) {
      state = random_core::next_state(state);
      const uint32_t sums = random_core::sums_of(state);
      const int64_t element = step * kStepNumbers + 2 * lane;
      if (begin <= element && element < end) {
        store(to[element - begin], runs.numbers(sums & 0xffff));
      }
      if (begin <= element + 1 && element + 1 < end) {
        store(to[element + 1 - begin], runs.numbers(sums >> 16));
      }
    }
  }
}

template <typename T>
void launch_runs(const CudaStream& stream, const TensorView& to, const Runs& runs) {
  // A row that begins within a step takes part in one more.
  const int64_t steps = ceil_div<int64_t>(runs.length, kStepNumbers) + 1;
  const int64_t blocks = ceil_div<int64_t>(ceil_div<int64_t>(steps, kRunSteps) * kLanes, kThreads);
  launch(stream, {dim3(unsigned(blocks), unsigned(std::min<int64_t>(runs.rows, 65535))), kThreads},
         random_kernel<T>, static_cast<T*>(to.data), runs, kJumps);
}

}  // namespace

void fill_random(const CudaStream& stream, const RandomSlice& slice, const TensorView& to) {
  check_random_slice(slice, to);
  if (to.rows == 0 || to.cols == 0) return;
  const RandomMatrix& matrix = slice.matrix;
  const bool whole_rows = to.cols == matrix.cols && to.row_stride == to.cols;
  const Runs runs{.seed = matrix.seed,
                  .numbers = random_core::numbers_of(matrix),
                  .first = slice.row * matrix.cols + slice.col,
                  .pitch = matrix.cols,
                  .rows = whole_rows ? 1 : to.rows,
                  .length = whole_rows ? to.rows * to.cols : to.cols,
                  .stride = to.row_stride};
  if (to.dtype == DType::kFloat8E4M3) return launch_runs<Float8>(stream, to, runs);
  with_element(to.dtype, [&](auto element) { launch_runs<decltype(element)>(stream, to, runs); });
}

}  // namespace convoke::cuda
