// Writing the paged key/value cache: rotation and append, and the moves of accepted tree nodes.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/kv_layout.cuh"
#include "kernels/cuda/norm.cuh"

namespace convoke::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

void check_shape(const KvShape& shape) {
  CONVOKE_CHECK_GE(shape.kv_heads, 1);
  CONVOKE_CHECK_GE(shape.head_dim, 8);
  CONVOKE_CHECK_EQ(shape.head_dim % 8, 0);
  CONVOKE_CHECK_LE(shape.head_dim, kMaxHeadDim);
}

struct RopeJob {
  float* qkv;
  int64_t stride;
  int heads, kv_heads, head_dim;
  const int32_t* sequence;
  const int32_t* position;
  const int32_t* slot;
  const int32_t* const* block_tables;
  const float* cos;
  const float* sin;
  const float* q_norm;
  const float* k_norm;
  float epsilon;
};

/// Normalises (if `norm`) and rotates one head by a warp. Element j and its partner belong to one
/// lane, so the head may be rotated in place.
template <typename T>
__device__ __forceinline__ void rotate_head(const float* x, T* out, const RopeJob& job,
                                            const float* cos, const float* sin, const float* norm) {
  const int half = job.head_dim / 2;
  const float factor = norm != nullptr ? warp_inverse_rms(x, job.head_dim, job.epsilon) : 1.0f;
  for (int j = lane_index(); j < half; j += kWarp) {
    float a = x[j], b = x[half + j];
    if (norm != nullptr) {
      a = a * factor * norm[j];
      b = b * factor * norm[half + j];
    }
    assign(out[j], fmaf(a, cos[j], -(b * sin[j])));
    assign(out[half + j], fmaf(b, cos[j], a * sin[j]));
  }
}

/// A block per row; its warps take the heads in turn: queries, keys, values.
template <typename T>
__global__ void __launch_bounds__(kThreads) rope_append_kernel(RopeJob job, T* cache) {
  const int row = int(blockIdx.x), d = job.head_dim;
  float* const heads = job.qkv + row * job.stride;
  const int64_t angles = int64_t(job.position[row]) * (d / 2);
  const float *const cos = job.cos + angles, *const sin = job.sin + angles;
  const int32_t* const table = job.block_tables[job.sequence[row]];
  const bool stored = job.slot[row] >= 0;
  for (int head = warp_index(); head < job.heads + 2 * job.kv_heads; head += kWarps) {
    float* const x = heads + head * d;
    if (head < job.heads) {
      rotate_head(x, x, job, cos, sin, job.q_norm);
      continue;
    }
    if (!stored) break;
    const int kv_head = (head - job.heads) % job.kv_heads;
    T* const key = key_at(cache, job.kv_heads, d, kv_head, table, job.slot[row]);
    if (head < job.heads + job.kv_heads) {
      rotate_head(x, key, job, cos, sin, job.k_norm);
      continue;
    }
    T* const value = key + kKvBlockSize * d;
    for (int j = lane_index(); j < d; j += kWarp) assign(value[j], x[j]);
  }
}

/// A block per layer and head. Moves of one element stay in order within one thread.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    move_kv_kernel(const KvLayer* layers, int kv_heads, int head_dim, const KvMove* moves,
                   int count) {
  T* const data = static_cast<T*>(layers[blockIdx.y].data);
  const int kv_head = int(blockIdx.x);
  for (int i = int(threadIdx.x); i < 2 * head_dim; i += kThreads) {
    const int offset = i < head_dim ? i : kKvBlockSize * head_dim + i - head_dim;
    for (int m = 0; m < count; ++m) {
      const KvMove move = moves[m];
      if (move.from == move.to) continue;  // fills up a list of fixed length
      *(key_at(data, kv_heads, head_dim, kv_head, move.block_table, move.to) + offset) =
          *(key_at(data, kv_heads, head_dim, kv_head, move.block_table, move.from) + offset);
    }
  }
}

}  // namespace

size_t kv_block_bytes(const KvShape& shape) {
  check_shape(shape);
  return size_t(2 * kKvBlockSize * shape.kv_heads * shape.head_dim) * dtype_size(shape.dtype);
}

void rope_append(const CudaStream& stream, const RopeAppendArgs& args) {
  const AttentionBatch& batch = *args.batch;
  const KvShape& shape = args.kv.shape;
  check_shape(shape);
  CONVOKE_CHECK(args.qkv.dtype == DType::kFloat32);
  CONVOKE_CHECK_EQ(args.heads % shape.kv_heads, 0);
  CONVOKE_CHECK_EQ(args.qkv.rows, batch.rows);
  CONVOKE_CHECK_EQ(args.qkv.cols, int64_t(args.heads + 2 * shape.kv_heads) * shape.head_dim);
  if (batch.rows == 0) return;
  const RopeJob job = {static_cast<float*>(args.qkv.data),
                       args.qkv.row_stride,
                       args.heads,
                       shape.kv_heads,
                       shape.head_dim,
                       batch.sequence.data(),
                       batch.position.data(),
                       batch.slot.data(),
                       batch.block_tables.data(),
                       args.cos,
                       args.sin,
                       args.q_norm,
                       args.k_norm,
                       args.norm_epsilon};
  with_element(shape.dtype, [&](auto element) {
    using T = decltype(element);
    launch(stream, {dim3(unsigned(batch.rows)), kThreads}, rope_append_kernel<T>, job,
           static_cast<T*>(args.kv.data));
  });
}

void move_kv(const CudaStream& stream, std::span<const KvLayer> layers, const KvShape& shape,
             std::span<const KvMove> moves) {
  check_shape(shape);
  if (layers.empty() || moves.empty()) return;
  with_element(shape.dtype, [&](auto element) {
    using T = decltype(element);
    launch(stream, {dim3(unsigned(shape.kv_heads), unsigned(layers.size())), kThreads},
           move_kv_kernel<T>, layers.data(), shape.kv_heads, shape.head_dim, moves.data(),
           int(moves.size()));
  });
}

}  // namespace convoke::cuda
