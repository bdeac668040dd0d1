// Paged tree attention on the tensor cores, for caches of 16 bits.
//
// A block takes a tile of up to 16 (row, query head) pairs that share a key/value head, and one
// split of the positions (attention.cuh). Where all its rows see a tile of keys whole and in the
// slots of their own numbers, they share the loads. Elsewhere (the end of the context, the path
// through the draft tree, the edge of the window) each row has the tile for itself, keys and values
// in the order of position, zeros where it sees nothing; results of other rows stay as they were.
// Either way a row's products are the same ones at the same places of the tensor-core tile, so its
// bits do not depend on what shares the pass, nor on whether a token came as a draft.
//
// Queries and weights are float32; they enter the products as sums of two 16-bit terms, which costs
// arithmetic where there is plenty (the loads of keys and values set the pace) and leaves an error
// of 2^-17 rather than 2^-9.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/kernels.h"

namespace convoke::cuda {
namespace {

template <typename T, int D>
struct TileShape {
  static constexpr int kRow = D + 8;  ///< elements; the padding keeps rows on different banks
  static constexpr int kQueries = 2 * kTileRows * kRow;
  static constexpr int kRunBuffer = 2 * kTileKeys * kRow;
  static constexpr size_t kBytes = sizeof(T) * (kQueries + kAttentionWarps * kRunBuffer);
  // A warp leaves its sums where its keys and values were.
  static_assert(sizeof(T) * kRunBuffer >= sizeof(float) * kTileRows * D);
};

/// What the threads of a block agree on.
struct Rows {
  int first, count, heads;  ///< heads: query heads per row in this tile
  int first_head;
};

struct RunResults {
  float largest[kAttentionWarps][kTileRows];
  float weight[kAttentionWarps][kTileRows];
};

/// Two 16-bit terms whose sum is x, but for 2^-17 (bfloat16) of it.
template <typename T>
__device__ __forceinline__ void split_terms(float x, T& high, T& low) {
  assign(high, x);
  assign(low, x - to_float(high));
}

template <typename T>
__device__ __forceinline__ uint32_t pair_of(T a, T b) {
  return uint32_t(a.bits) | uint32_t(b.bits) << 16;
}

/// Queries of the tile as two terms, zeros beyond the head and the tile's last row.
template <typename T, int D>
__device__ __forceinline__ void load_queries(const AttentionJob& job, const Rows& rows,
                                             T* queries) {
  constexpr int kRow = TileShape<T, D>::kRow;
  for (int i = int(threadIdx.x); i < kTileRows * D; i += kAttentionThreads) {
    const int m = i / D, j = i % D;
    float x = 0;
    if (m < rows.count * rows.heads && j < job.head_dim) {
      const int row = rows.first + m / rows.heads, head = rows.first_head + m % rows.heads;
      x = job.qkv[row * job.qkv_stride + head * job.head_dim + j];
    }
    T* const to = queries + m * kRow + j;
    split_terms(x, to[0], to[kTileRows * kRow]);
  }
}

/// Starts copying keys and values at positions [from, from + kTileKeys) as `visible` has them,
/// zeros where it sees none, and waits for them.
template <typename T, int D>
__device__ __forceinline__ void load_tile(const AttentionJob& job, const Visible& visible,
                                          int kv_head, int from, T* keys) {
  constexpr int kRow = TileShape<T, D>::kRow, kPiece = 8, kPieces = D / kPiece;
  const T* const cache = static_cast<const T*>(job.cache);
  T* const values = keys + kTileKeys * kRow;
  __syncwarp();  // the tile before may still be read
  for (int i = lane_index(); i < kTileKeys * kPieces; i += kWarp) {
    const int key = i / kPieces, j = i % kPieces * kPiece, position = from + key;
    const bool seen = visible.begin <= position && position < visible.end && j < job.head_dim;
    const T* source = cache;
    if (seen) {
      source = key_at(cache, job.kv_heads, job.head_dim, kv_head, visible.table,
                      visible.slot(position)) +
               j;
    }
    const int bytes = seen ? 16 : 0;
    const int64_t value = seen ? kKvBlockSize * job.head_dim : 0;
    copy_async(keys + key * kRow + j, source, bytes);
    copy_async(values + key * kRow + j, source + value, bytes);
  }
  commit_copies();
  wait_copies<0>();
  __syncwarp();
}

/// A warp's online softmax over a run. Of the 16 rows of a tile a lane holds rows lane / 4 and
/// lane / 4 + 8, in halves 0 and 1.
template <typename T, int D>
class Run {
 public:
  __device__ __forceinline__ Run(const T* queries, const T* keys, float scale)
      : queries_(queries), keys_(keys), scale_(scale) {}

  /// Takes in the tile that starts at position `from`, of which [begin, end) is seen, for the
  /// halves that `mine` names.
  __device__ __forceinline__ void add_tile(int from, int begin, int end, const bool (&mine)[2]) {
    float s[kTileKeys / 8][4] = {};
    multiply_keys(s);
    float factor[2];
    weigh(from, begin, end, mine, s, factor);
    uint32_t high[kTileKeys / 16][4], low[kTileKeys / 16][4];
    split_weights(s, high, low);
    add_values(high, low, factor, mine);
  }

  /// Leaves the sums in shared memory; `out` is [kTileRows][D].
  __device__ __forceinline__ void store(RunResults& results, float* out) const {
    const int g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int m = g + 8 * half;
      if (t == 0) {
        results.largest[warp_index()][m] = largest_[half];
        results.weight[warp_index()][m] = weight_[half];
      }
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        out[m * D + 8 * n + 2 * t] = sums_[n][2 * half];
        out[m * D + 8 * n + 2 * t + 1] = sums_[n][2 * half + 1];
      }
    }
  }

 private:
  static constexpr int kRow = TileShape<T, D>::kRow;

  __device__ __forceinline__ void multiply_keys(float (&s)[kTileKeys / 8][4]) const {
    const int lane = lane_index();
    const T* const query = queries_ + lane % 16 * kRow + lane / 16 * 8;
    const T* const key = keys_ + (lane / 16 * 8 + lane % 8) * kRow + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
      uint32_t high[4], low[4];
      load_matrix_x4(high, query + k);
      load_matrix_x4(low, query + kTileRows * kRow + k);
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; n += 2) {
        uint32_t b[4];
        load_matrix_x4(b, key + n * 8 * kRow + k);
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        mma_16x8x16<T>(s[n], high, first);
        mma_16x8x16<T>(s[n], low, first);
        mma_16x8x16<T>(s[n + 1], high, second);
        mma_16x8x16<T>(s[n + 1], low, second);
      }
    }
  }

  /// Scores to weights relative to the largest score so far; `factor` is what earlier sums shrink
  /// by.
  __device__ __forceinline__ void weigh(int from, int begin, int end, const bool (&mine)[2],
                                        float (&s)[kTileKeys / 8][4], float (&factor)[2]) {
    const int t = lane_index() % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = -INFINITY;
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int position = from + 8 * n + 2 * t + i;
          const bool seen = begin <= position && position < end;
          float& score = s[n][2 * half + i];
          score = seen ? score * scale_ : -INFINITY;
          top = score > top ? score : top;
        }
      }
#pragma unroll
      for (int lanes = 1; lanes < 4; lanes *= 2) {
        const float other = __shfl_xor_sync(kAllLanes, top, lanes);
        top = other > top ? other : top;
      }
      top = top > largest_[half] ? top : largest_[half];
      const float base = top == -INFINITY ? 0.0f : top;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = s[n][2 * half + i];
          score = score == -INFINITY ? 0.0f : expf(score - base);
          sum += score;
        }
      }
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      factor[half] = largest_[half] == -INFINITY ? 0.0f : expf(largest_[half] - base);
      if (mine[half]) {
        weight_[half] = fmaf(weight_[half], factor[half], sum);
        largest_[half] = top;
      }
    }
  }

  /// From the layout of results to that of left operands.
  __device__ __forceinline__ static void split_weights(const float (&s)[kTileKeys / 8][4],
                                                       uint32_t (&high)[kTileKeys / 16][4],
                                                       uint32_t (&low)[kTileKeys / 16][4]) {
#pragma unroll
    for (int k = 0; k < kTileKeys / 16; ++k) {
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const float* const from = &s[2 * k + part / 2][part % 2 * 2];
        T a, b, a_rest, b_rest;
        split_terms(from[0], a, a_rest);
        split_terms(from[1], b, b_rest);
        high[k][part] = pair_of(a, b);
        low[k][part] = pair_of(a_rest, b_rest);
      }
    }
  }

  __device__ __forceinline__ void add_values(const uint32_t (&high)[kTileKeys / 16][4],
                                             const uint32_t (&low)[kTileKeys / 16][4],
                                             const float (&factor)[2], const bool (&mine)[2]) {
    const int lane = lane_index();
    const T* const value = keys_ + (kTileKeys + lane / 8 % 2 * 8 + lane % 8) * kRow + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      float sum[2][4];
#pragma unroll
      for (int i = 0; i < 8; ++i) sum[i / 4][i % 4] = sums_[n + i / 4][i % 4] * factor[i % 4 / 2];
#pragma unroll
      for (int k = 0; k < kTileKeys / 16; ++k) {
        uint32_t b[4];
        load_matrix_x4_transposed(b, value + k * 16 * kRow + n * 8);
        const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
        mma_16x8x16<T>(sum[0], high[k], first);
        mma_16x8x16<T>(sum[0], low[k], first);
        mma_16x8x16<T>(sum[1], high[k], second);
        mma_16x8x16<T>(sum[1], low[k], second);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (mine[i % 4 / 2]) sums_[n + i / 4][i % 4] = sum[i / 4][i % 4];
      }
    }
  }

  const T* queries_;
  const T* keys_;
  float scale_;
  float largest_[2] = {-INFINITY, -INFINITY};
  float weight_[2] = {};
  float sums_[D / 8][4] = {};
};

/// Splits x tiles x (key/value heads x tiles of query heads).
template <typename T, int D>
__global__ void __launch_bounds__(kAttentionThreads) attention_kernel(AttentionJob job) {
  using Shape = TileShape<T, D>;
  CONVOKE_DYNAMIC_SHARED(bytes);
  CONVOKE_SHARED(RunResults, results);
  T* const queries = reinterpret_cast<T*>(bytes);
  T* const keys = queries + Shape::kQueries + warp_index() * Shape::kRunBuffer;

  const int group = job.heads / job.kv_heads;
  const int kv_head = int(blockIdx.z) % job.kv_heads;
  const int head_tile = int(blockIdx.z) / job.kv_heads * kTileRows;
  Rows rows;
  rows.first = job.tile_begin[blockIdx.y];
  rows.count = job.tile_begin[blockIdx.y + 1] - rows.first;
  rows.heads = group - head_tile < kTileRows ? group - head_tile : kTileRows;
  rows.first_head = kv_head * group + head_tile;

  // Positions that all rows see in the slots of their own numbers, and those that any sees.
  const int split = int(blockIdx.x);
  int shared_begin = 0, shared_end = 0x7fffffff, begin = 0x7fffffff, end = 0;
  for (int r = 0; r < rows.count; ++r) {
    const Visible v = visible_to(job, rows.first + r);
    shared_begin = v.begin > shared_begin ? v.begin : shared_begin;
    shared_end = v.context < shared_end ? v.context : shared_end;
    begin = v.begin < begin ? v.begin : begin;
    end = v.end > end ? v.end : end;
  }
  if (split * kSplitKeys >= end || (split + 1) * kSplitKeys <= begin) return;

  load_queries<T, D>(job, rows, queries);
  __syncthreads();

  Run<T, D> run(queries, keys, job.scale);
  const int first = split * kSplitKeys + warp_index() * kRunKeys;
  for (int from = first; from < first + kRunKeys; from += kTileKeys) {
    const int to = from + kTileKeys;
    if (shared_begin <= from && to <= shared_end) {
      const bool all[2] = {true, true};
      const Visible v = visible_to(job, rows.first);
      load_tile<T, D>(job, v, kv_head, from, keys);
      run.add_tile(from, from, to, all);
      continue;
    }
    for (int r = 0; r < rows.count; ++r) {
      const Visible v = visible_to(job, rows.first + r);
      if (!v.any(from, to)) continue;
      const int g = lane_index() / 4;
      const bool mine[2] = {g / rows.heads == r, (g + 8) / rows.heads == r};
      load_tile<T, D>(job, v, kv_head, from, keys);
      run.add_tile(from, v.begin, v.end, mine);
    }
  }
  __syncwarp();
  run.store(results, reinterpret_cast<float*>(keys));
  __syncthreads();

  const T* const buffers = queries + Shape::kQueries;
  for (int i = int(threadIdx.x); i < rows.count * rows.heads * job.head_dim;
       i += kAttentionThreads) {
    const int m = i / job.head_dim, j = i % job.head_dim;
    const Merged merged = Merged::of(kAttentionWarps, [&](int w) -> Merged {
      const float* const sums = reinterpret_cast<const float*>(buffers + w * Shape::kRunBuffer);
      return {results.largest[w][m], results.weight[w][m], sums[m * D + j]};
    });
    const int64_t at =
        part_index(job, rows.first + m / rows.heads, rows.first_head + m % rows.heads, split);
    job.values[at * job.head_dim + j] = merged.value;
    if (j == 0) job.weights[at] = {merged.largest, merged.weight};
  }
}

/// Rows x heads: the splits that a row sees, in order.
template <typename Y>
__global__ void __launch_bounds__(kAttentionThreads)
    combine_kernel(AttentionJob job, Y* y, int64_t y_stride) {
  const int row = int(blockIdx.x), head = int(blockIdx.y);
  const Visible v = visible_to(job, row);
  const int first = v.begin / kSplitKeys, count = ceil_div(v.end, kSplitKeys) - first;
  for (int j = int(threadIdx.x); j < job.head_dim; j += kAttentionThreads) {
    const Merged merged = Merged::of(count, [&](int i) -> Merged {
      const int64_t at = part_index(job, row, head, first + i);
      return {job.weights[at].x, job.weights[at].y, job.values[at * job.head_dim + j]};
    });
    const float value = merged.weight > 0 ? __fdiv_rn(merged.value, merged.weight) : merged.value;
    assign(y[row * y_stride + head * job.head_dim + j], value);
  }
}

template <typename T, int D>
void launch_tiles(const CudaStream& stream, const AttentionJob& job, int tiles) {
  const int head_tiles = ceil_div(job.heads / job.kv_heads, kTileRows);
  launch(stream,
         {dim3(unsigned(job.splits), unsigned(tiles), unsigned(job.kv_heads * head_tiles)),
          kAttentionThreads, TileShape<T, D>::kBytes},
         attention_kernel<T, D>, job);
}

template <typename T>
void launch_width(const CudaStream& stream, const AttentionJob& job, int tiles) {
  if (job.head_dim <= 64) return launch_tiles<T, 64>(stream, job, tiles);
  if (job.head_dim <= 96) return launch_tiles<T, 96>(stream, job, tiles);
  if (job.head_dim <= 128) return launch_tiles<T, 128>(stream, job, tiles);
  return launch_tiles<T, kMaxHeadDim>(stream, job, tiles);
}

size_t parts_of(int rows, int heads, int max_length) {
  return size_t(rows) * size_t(heads) * size_t(ceil_div(max_length, kSplitKeys));
}

void check(const AttentionArgs& args, const AttentionPlan& plan, const Workspace& workspace) {
  const AttentionBatch& batch = *args.batch;
  const KvShape& shape = args.kv.shape;
  CONVOKE_CHECK(kv_block_bytes(shape) > 0);  // checks the shape
  CONVOKE_CHECK_EQ(args.heads % shape.kv_heads, 0);
  CONVOKE_CHECK(args.qkv.dtype == DType::kFloat32);
  CONVOKE_CHECK_EQ(args.qkv.rows, batch.rows);
  CONVOKE_CHECK_EQ(args.qkv.cols, int64_t(args.heads + 2 * shape.kv_heads) * shape.head_dim);
  CONVOKE_CHECK_EQ(args.y.rows, batch.rows);
  CONVOKE_CHECK_EQ(args.y.cols, int64_t(args.heads) * shape.head_dim);
  CONVOKE_CHECK(plan.tiles >= 1 && plan.max_length >= 1);
  CONVOKE_CHECK_GE(workspace.bytes, attention_workspace_bytes(batch.rows, args.heads,
                                                              shape.head_dim, plan.max_length));
}

}  // namespace

int plan_attention(std::span<const int32_t> sequence, int heads, int kv_heads,
                   std::span<int32_t> tile_begin) {
  CONVOKE_CHECK_GE(tile_begin.size(), sequence.size() + 1);
  const int most = std::max(1, kTileRows / (heads / kv_heads));
  int tiles = 0;
  for (size_t row = 0; row < sequence.size(); ++row) {
    const bool fits = tiles > 0 && int(row) - tile_begin[size_t(tiles - 1)] < most &&
                      sequence[row] == sequence[row - 1];
    if (!fits) tile_begin[size_t(tiles++)] = int32_t(row);
  }
  tile_begin[size_t(tiles)] = int32_t(sequence.size());
  return tiles;
}

size_t attention_workspace_bytes(int rows, int heads, int head_dim, int max_length) {
  return parts_of(rows, heads, max_length) * (size_t(head_dim) * sizeof(float) + sizeof(float2));
}

void attention(const CudaStream& stream, const AttentionArgs& args, const AttentionPlan& plan,
               const Workspace& workspace) {
  const AttentionBatch& batch = *args.batch;
  if (batch.rows == 0) return;
  check(args, plan, workspace);
  const KvShape& shape = args.kv.shape;
  AttentionJob job = {};
  job.qkv = static_cast<const float*>(args.qkv.data);
  job.qkv_stride = args.qkv.row_stride;
  job.heads = args.heads, job.kv_heads = shape.kv_heads, job.head_dim = shape.head_dim;
  job.sequence = batch.sequence.data(), job.position = batch.position.data();
  job.context = batch.context.data();
  job.path_begin = batch.path_begin.data(), job.path_slots = batch.path_slots.data();
  job.block_tables = batch.block_tables.data();
  job.cache = args.kv.data;
  job.scale = args.scale, job.window = args.window;
  job.tile_begin = plan.tile_begin;
  job.splits = ceil_div(plan.max_length, kSplitKeys);
  job.weights = static_cast<float2*>(workspace.data);
  job.values =
      reinterpret_cast<float*>(job.weights + parts_of(batch.rows, args.heads, plan.max_length));
  if (shape.dtype == DType::kFloat32) {
    attention_float(stream, job, batch.rows);
  } else if (shape.dtype == DType::kFloat16) {
    launch_width<Float16>(stream, job, plan.tiles);
  } else {
    launch_width<BFloat16>(stream, job, plan.tiles);
  }
  with_element(args.y.dtype, [&](auto element) {
    using Y = decltype(element);
    launch(stream, {dim3(unsigned(batch.rows), unsigned(args.heads)), kAttentionThreads},
           combine_kernel<Y>, job, static_cast<Y*>(args.y.data), args.y.row_stride);
  });
}

void rope_attention(const CudaStream& stream, const RopeAppendArgs& rope, const AttentionArgs& args,
                    const AttentionPlan& plan, const Workspace& workspace) {
  rope_append(stream, rope);
  attention(stream, args, plan, workspace);
}

}  // namespace convoke::cuda
