// Products of 1 to 64 rows with weights of 16 or 8 bits on the tensor cores; more rows in turns of
// 64.
//
// The order of a sum. The inputs are cut into the matrix's reduction groups, a group into chunks of
// 32. Warp w of a block takes chunks w, w + 8, ... of one group, in that order, one accumulator per
// output; the 8 warps are added as a balanced tree, and so are the groups. Nothing of this depends
// on the number of rows or outputs: a row is a column of the tensor-core tile (the weights are its
// rows), and only how many such columns and tiles a block takes is chosen by shape. So a row has
// the same bits alone and among 63 others, and a rank that holds half of the groups computes half
// of the tree.
//
// The blocks of a cluster take one group each and add up through each other's shared memory; where
// there are no clusters the groups' sums go through the workspace and a second kernel.
//
// Weights of 8 bits become bfloat16 in registers, all else being as with bfloat16 weights; a
// group's sum, added up over the warps, is multiplied by its output's scale before it meets the
// other groups'.
//
// Weights stream from memory into registers, 16 bytes per lane and load, several loads ahead; they
// are packed as the tensor cores want them (packed_matrix.h). Rows of x come from the second-level
// cache. Beyond 64 rows a library's product would be faster and its order another one: it is taken
// where exactness is not asked for (library_matmul.cc).
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/matmul.cuh"

namespace convoke::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
constexpr int kColumns = 8;    ///< rows of x in a tensor-core tile
constexpr int kMostRows = 64;  ///< of one launch

struct Job {
  const void* x;
  int64_t x_stride;
  int rows;
  const uint4* weights;
  int64_t tiles;
  int64_t group_inputs, chunks;
  int groups;
  const float* scales;  ///< [tiles * 16] of weights of 8 bits, else null
  MatmulOutput out;
  bool y_is_float;
  float* partial;  ///< [groups][rows][tiles * 16] where groups do not meet in a cluster, else null
};

/// Inputs [k, k + 8) of a row and group; zeros beyond the group's end and for rows there are not.
__device__ __forceinline__ uint4 load_inputs(const uint16_t* row, bool exists, int64_t k,
                                             int64_t end, bool aligned) {
  uint4 v = {0, 0, 0, 0};
  if (!exists || k >= end) return v;
  if (aligned) return *reinterpret_cast<const uint4*>(row + k);
  uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (k + i < end) words[i / 2] |= uint32_t(row[k + i]) << (i % 2 * 16);
  }
  return {words[0], words[1], words[2], words[3]};
}

/// Weights as they lie in memory, W, and what the tensor cores multiply, T: a lane's 16 bytes are
/// one step of a chunk with weights of 16 bits, and both with those of 8.
template <typename W>
struct Stored {
  using T = W;
  static constexpr int kPieces = 2;  ///< of a lane and chunk
  static __device__ __forceinline__ void unpack(const uint4 (&in)[2], uint32_t (&a)[2][4]) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      a[step][0] = in[step].x, a[step][1] = in[step].y;
      a[step][2] = in[step].z, a[step][3] = in[step].w;
    }
  }
};
template <>
struct Stored<Float8> {
  using T = BFloat16;
  static constexpr int kPieces = 1;
  static __device__ __forceinline__ void unpack(const uint4 (&in)[1], uint32_t (&a)[2][4]) {
    expand_float8(in[0].x, a[0][0], a[0][1]);
    expand_float8(in[0].y, a[0][2], a[0][3]);
    expand_float8(in[0].z, a[1][0], a[1][1]);
    expand_float8(in[0].w, a[1][2], a[1][3]);
  }
};

/// This warp's part of one group's sums: kTiles tiles of outputs, kParts * 8 rows.
template <typename W, int kTiles, int kParts, int kAhead>
__device__ __forceinline__ void accumulate_chunks(const Job& job, int group, int64_t first_tile,
                                                  float (&sums)[kTiles][kParts][4]) {
  using T = typename Stored<W>::T;
  constexpr int kPieces = Stored<W>::kPieces;
  const int lane = lane_index(), warp = warp_index();
  const int64_t chunks = job.chunks, end = job.group_inputs;
  const uint16_t* const x =
      static_cast<const uint16_t*>(job.x) + int64_t(group) * end + lane / 4 * job.x_stride;
  const bool aligned =
      end % 8 == 0 && job.x_stride % 8 == 0 && reinterpret_cast<uintptr_t>(job.x) % 16 == 0;
  // A chunk is one or two times 32 pieces of 16 bytes, one per lane.
  const auto piece = [&](int tile, int64_t chunk, int i) {
    return job.weights +
           ((((first_tile + tile) * job.groups + group) * chunks + chunk) * kPieces + i) * kWarp +
           lane;
  };
  uint4 ahead[kAhead][kTiles][kPieces] = {};
  const auto fetch = [&](uint4(&to)[kTiles][kPieces], int64_t chunk) {
    if (chunk >= chunks) return;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if (first_tile + tile >= job.tiles) break;
#pragma unroll
      for (int p = 0; p < kPieces; ++p) to[tile][p] = load_streaming(piece(tile, chunk, p));
    }
  };
#pragma unroll
  for (int i = 0; i < kAhead; ++i) fetch(ahead[i], warp + i * kWarps);
  for (int64_t base = warp; base < chunks; base += kAhead * kWarps) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t chunk = base + i * kWarps;
      if (chunk >= chunks) break;
      uint32_t a[kTiles][2][4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) Stored<W>::unpack(ahead[i][tile], a[tile]);
      fetch(ahead[i], chunk + kAhead * kWarps);
      const int64_t k = chunk * kChunkInputs + lane % 4 * 8;
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        const bool exists = part * kColumns + lane / 4 < job.rows;
        const uint4 in = load_inputs(x + part * kColumns * job.x_stride, exists, k, end, aligned);
        const uint32_t first[2] = {in.x, in.y}, second[2] = {in.z, in.w};
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          mma_16x8x16<T>(sums[tile][part], a[tile][0], first);
          mma_16x8x16<T>(sums[tile][part], a[tile][1], second);
        }
      }
    }
  }
}

template <int kTiles, int kParts>
struct SharedSums {
  static constexpr int kWidth = kTiles * kTileOutputs;
  float of_warp[kWarps][kColumns][kWidth];
  float of_block[kParts * kColumns][kWidth];
};

/// Adds the warps' sums as a tree into shared.of_block, times the outputs' scales if kScaled.
template <bool kScaled, int kTiles, int kParts>
__device__ __forceinline__ void add_warps(const Job& job, int64_t first_tile,
                                          const float (&sums)[kTiles][kParts][4],
                                          SharedSums<kTiles, kParts>& shared) {
  constexpr int kWidth = SharedSums<kTiles, kParts>::kWidth;
  const int g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        shared.of_warp[warp_index()][2 * t + i % 2][tile * kTileOutputs + g + i / 2 * 8] =
            sums[tile][part][i];
      }
    }
    __syncthreads();
    for (int e = int(threadIdx.x); e < kColumns * kWidth; e += kThreads) {
      float v[kWarps];
#pragma unroll
      for (int w = 0; w < kWarps; ++w) v[w] = shared.of_warp[w][e / kWidth][e % kWidth];
      float sum = tree_sum(v, kWarps);
      if constexpr (kScaled) {
        const int64_t row = first_tile * kTileOutputs + e % kWidth;
        if (row < job.tiles * kTileOutputs) sum = sum * job.scales[row];
      }
      shared.of_block[part * kColumns + e / kWidth][e % kWidth] = sum;
    }
    __syncthreads();
  }
}

/// Stores elements of a block's outputs; value(row, column) gives the finished sum of a column of
/// the block. Elements go to the threads of `share` of `shares` blocks in turn.
template <typename T, int kTiles, typename Value>
__device__ __forceinline__ void store_outputs(const Job& job, int64_t first_tile, int share,
                                              int shares, Value value) {
  constexpr int kWidth = kTiles * kTileOutputs;
  const int width = job.out.gated ? kWidth / 2 : kWidth;
  const int64_t first = first_tile * kTileOutputs / (job.out.gated ? 2 : 1);
  for (int e = share * kThreads + int(threadIdx.x); e < job.rows * width; e += shares * kThreads) {
    const int row = e / width, column = e % width;
    const int64_t output = first + column;
    if (output >= job.out.outputs) continue;
    if (!job.out.gated) {
      store_sum(job.out, row, output, value(row, column));
      continue;
    }
    const int gate = column / kTileOutputs * 2 * kTileOutputs + column % kTileOutputs;
    const float a = value(row, gate), b = value(row, gate + kTileOutputs);
    if (job.y_is_float) {
      store_gated<float>(job.out, row, output, a, b);
    } else {
      store_gated<T>(job.out, row, output, a, b);
    }
  }
}

/// A grid of groups x tile blocks; kClustered: the groups of a tile block are a cluster.
template <typename W, int kTiles, int kParts, int kAhead, bool kClustered>
__global__ void __launch_bounds__(kThreads) matmul_kernel(Job job) {
  using T = typename Stored<W>::T;
  using Shared = SharedSums<kTiles, kParts>;
  CONVOKE_SHARED(Shared, shared);
  const int group = int(blockIdx.x);
  const int64_t first_tile = int64_t(blockIdx.y) * kTiles;
  float sums[kTiles][kParts][4] = {};
  accumulate_chunks<W, kTiles, kParts, kAhead>(job, group, first_tile, sums);
  add_warps<Stored<W>::kPieces == 1>(job, first_tile, sums, shared);
  if constexpr (kClustered) {
    cluster_sync();
    store_outputs<T, kTiles>(job, first_tile, group, job.groups, [&](int row, int column) {
      float v[kMostGroups];
#pragma unroll
      for (int i = 0; i < kMostGroups; ++i) {
        v[i] = i < job.groups ? *in_block(&shared.of_block[row][column], unsigned(i)) : 0.0f;
      }
      return tree_sum(v, job.groups);
    });
    cluster_sync();  // nobody leaves while another may read its sums
  } else if (job.partial != nullptr) {
    const int64_t columns = job.tiles * kTileOutputs;
    for (int e = int(threadIdx.x); e < job.rows * Shared::kWidth; e += kThreads) {
      const int row = e / Shared::kWidth, column = e % Shared::kWidth;
      const int64_t to = first_tile * kTileOutputs + column;
      if (to >= columns) continue;
      job.partial[(int64_t(group) * job.rows + row) * columns + to] = shared.of_block[row][column];
    }
  } else {
    store_outputs<T, kTiles>(job, first_tile, 0, 1,
                             [&](int row, int column) { return shared.of_block[row][column]; });
  }
}

/// Adds the groups' sums from the workspace: a block per two tiles.
template <typename T>
__global__ void __launch_bounds__(kThreads) add_groups_kernel(Job job) {
  constexpr int kTiles = 2;
  const int64_t first_tile = int64_t(blockIdx.x) * kTiles, columns = job.tiles * kTileOutputs;
  store_outputs<T, kTiles>(job, first_tile, 0, 1, [&](int row, int column) {
    float v[kMostGroups];
#pragma unroll
    for (int i = 0; i < kMostGroups; ++i) {
      const int64_t at = (int64_t(i) * job.rows + row) * columns;
      v[i] = i < job.groups ? job.partial[at + first_tile * kTileOutputs + column] : 0.0f;
    }
    return tree_sum(v, job.groups);
  });
}

/// kAhead: chunks of weights of 16 bits that are in flight; of 8 bits, twice as many are as large.
template <typename W, int kTiles, int kParts, int kAhead>
void launch_products(const CudaStream& stream, const Job& job) {
  using T = typename Stored<W>::T;
  constexpr int kChunksAhead = kAhead * 2 / Stored<W>::kPieces;
  const dim3 grid(unsigned(job.groups), unsigned(ceil_div<int64_t>(job.tiles, kTiles)));
  if (job.groups > 1 && job.partial == nullptr) {
    launch(stream, {grid, kThreads, 0, job.groups},
           matmul_kernel<W, kTiles, kParts, kChunksAhead, true>, job);
    return;
  }
  launch(stream, {grid, kThreads}, matmul_kernel<W, kTiles, kParts, kChunksAhead, false>, job);
  if (job.partial != nullptr) {
    launch(stream, {dim3(unsigned(ceil_div<int64_t>(job.tiles, 2))), kThreads},
           add_groups_kernel<T>, job);
  }
}

/// Chooses how much a block takes; it makes no difference to the bits. Four tiles halve what is
/// read of x, if enough blocks are left for every multiprocessor to have some.
template <typename W>
void launch_rows(const CudaStream& stream, const Job& job) {
  constexpr int64_t kEnoughBlocks = 264;
  const bool wide = job.tiles * job.groups / 4 >= kEnoughBlocks;
  const int parts = ceil_div(job.rows, kColumns);
  if (parts <= 1) return launch_products<W, 2, 1, 4>(stream, job);
  if (parts <= 2) return launch_products<W, 2, 2, 4>(stream, job);
  if (parts <= 4) {
    return wide ? launch_products<W, 4, 4, 2>(stream, job)
                : launch_products<W, 2, 4, 4>(stream, job);
  }
  return wide ? launch_products<W, 4, 8, 1>(stream, job) : launch_products<W, 2, 8, 4>(stream, job);
}

size_t partial_bytes(const MatrixLayout& layout, int64_t rows) {
  return size_t(layout.groups * rows * layout.tiles() * kTileOutputs) * sizeof(float);
}

}  // namespace

size_t matmul_workspace_bytes(const CudaStream& stream, const MatrixLayout& layout, int rows,
                              bool normalised) {
  const int64_t turn = std::min(rows, kMostRows);
  const bool partial = layout.tiled() && layout.groups > 1 && !stream.clusters;
  return (normalised ? normed_bytes(layout, rows) : 0) +
         (partial ? partial_bytes(layout, turn) : 0);
}

void matmul(const CudaStream& stream, const MatmulArgs& args, const Workspace& workspace) {
  const auto& weights = static_cast<const CudaPackedMatrix&>(*args.weights);
  const MatrixLayout& layout = weights.layout();
  CONVOKE_CHECK(!layout.plain);
  check_fits(args, layout);
  const bool normalised = args.norm_weight != nullptr;
  CONVOKE_CHECK_GE(workspace.bytes,
                   matmul_workspace_bytes(stream, layout, int(args.x.rows), normalised));
  TensorView x = args.x;
  auto* free_space = static_cast<std::byte*>(workspace.data);
  if (normalised) {
    x = TensorView::matrix(free_space, layout.activation(), args.x.rows, layout.inputs);
    rms_norm(stream, {args.x, args.norm_weight, args.norm_epsilon, x, {}});
    free_space += normed_bytes(layout, args.x.rows);
  }
  for (int64_t begin = 0; begin < x.rows; begin += kMostRows) {
    const int64_t end = std::min(begin + kMostRows, x.rows);
    const TensorView rows = x.row_range(begin, end), y = args.y.row_range(begin, end);
    const MatmulOutput out = {y.data,    y.row_stride,    layout.outputs,
                              args.bias, args.accumulate, layout.gated};
    if (!layout.tiled()) {
      matmul_float(stream, rows, weights, out);
      continue;
    }
    const bool partial = layout.groups > 1 && !stream.clusters;
    const Job job = {rows.data,
                     rows.row_stride,
                     int(rows.rows),
                     static_cast<const uint4*>(weights.data()),
                     layout.tiles(),
                     layout.group_inputs(),
                     layout.chunks(),
                     layout.groups,
                     weights.scales(),
                     out,
                     y.dtype == DType::kFloat32,
                     partial ? reinterpret_cast<float*>(free_space) : nullptr};
    if (layout.float8()) {
      launch_rows<Float8>(stream, job);
    } else {
      layout.dtype == DType::kFloat16 ? launch_rows<Float16>(stream, job)
                                      : launch_rows<BFloat16>(stream, job);
    }
  }
}

}  // namespace convoke::cuda
