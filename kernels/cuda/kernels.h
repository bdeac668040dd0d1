// The CUDA kernels' launchers. What each computes is said in kernels/backend.h and kernels/pick.h.
//
// Every launcher checks shapes, enqueues kernels on the stream and returns: it allocates nothing
// and waits for nothing. The argument structs are read on the host, during the call; every pointer
// in them, and what every span in them refers to (spans inside of those included), is memory that
// the device can read. So a launch can be captured into a graph: what changes from step to step
// lies behind the pointers, and only extents (rows, bounds on lengths) are fixed.
//
// Activations are float32, or the weights' type at the inputs of matrix products: outputs that may
// be bfloat16 in kernels/backend.h may be float16 too.
#pragma once

#include "kernels/cuda/packed_matrix.h"
#include "kernels/cuda/stream.h"

namespace convoke::cuda {

// --- elementwise.cu ---

void embed(const CudaStream& stream, const EmbedArgs& args);
void silu_mul(const CudaStream& stream, const SiluMulArgs& args);
void add_bias(const CudaStream& stream, const TensorView& x, const float* bias);
void fill_zero(const CudaStream& stream, const TensorView& x);
/// Also what exports features: y may be columns of a wider matrix.
void convert(const CudaStream& stream, const TensorView& x, const TensorView& y);
void copy_rows(const CudaStream& stream, const CopyRowsArgs& args);

// --- random_matrix.cu ---

/// The bits of convoke::fill_random().
void fill_random(const CudaStream& stream, const RandomSlice& slice, const TensorView& to);

// --- norm.cu ---

void rms_norm(const CudaStream& stream, const RmsNormArgs& args);
/// x += addend, then y = rms_norm(x), with the bits of the two steps. `addend` as x; no gather.
void add_rms_norm(const CudaStream& stream, const RmsNormArgs& args, const TensorView& addend);

// --- kv_cache.cu ---

/// Heads are multiples of 8 wide, up to kMaxHeadDim; keys and values bfloat16, float16 or float32.
inline constexpr int kMaxHeadDim = 256;

/// Bytes of one block of one layer: for each key/value head 16 keys, then 16 values, each
/// contiguous.
size_t kv_block_bytes(const KvShape& shape);
void rope_append(const CudaStream& stream, const RopeAppendArgs& args);
/// All layers have the shape of `shape`; layers and moves lie in device memory.
void move_kv(const CudaStream& stream, std::span<const KvLayer> layers, const KvShape& shape,
             std::span<const KvMove> moves);

// --- attention.cu ---

/// How the rows of a pass are taken together; made once per pass, used by every layer.
struct AttentionPlan {
  /// [tiles + 1] in device memory: rows [tile_begin[i], tile_begin[i + 1]) form a tile.
  const int32_t* tile_begin = nullptr;
  int tiles = 0;
  int max_length = 0;  ///< no row sees more positions than this
};

/// On the host: cuts rows into tiles of one sequence each. `sequence` is AttentionBatch's, readable
/// by the host; tile_begin has room for rows + 1. Returns the number of tiles.
int plan_attention(std::span<const int32_t> sequence, int heads, int kv_heads,
                   std::span<int32_t> tile_begin);
size_t attention_workspace_bytes(int rows, int heads, int head_dim, int max_length);
/// A row that sees nothing (padding of a fixed number of rows) gets zeros.
void attention(const CudaStream& stream, const AttentionArgs& args, const AttentionPlan& plan,
               const Workspace& workspace);
void rope_attention(const CudaStream& stream, const RopeAppendArgs& rope, const AttentionArgs& args,
                    const AttentionPlan& plan, const Workspace& workspace);

// --- matmul.cu ---

/// What matmul needs of a workspace for so many rows; `normalised`: with a norm_weight.
size_t matmul_workspace_bytes(const CudaStream& stream, const MatrixLayout& layout, int rows,
                              bool normalised);
/// The weights are a CudaPackedMatrix. y is not read before it is written unless it accumulates.
void matmul(const CudaStream& stream, const MatmulArgs& args, const Workspace& workspace);

// --- collective.cu ---

/// target[i] (+)= tree sum over ranks of parts[r * stride + i], i < count; ranks 1, 2, 4 or 8.
void rank_sum(const CudaStream& stream, const float* parts, int64_t stride, int ranks,
              float* target, int64_t count, bool add);

// --- one_shot.cu ---

inline constexpr int kMostExchangeRanks = 8;
inline constexpr int kMostExchangeBlocks = 64;

/// The memory by which the ranks of a host exchange what they contribute: a region on the device of
/// each, which all of them reach.
struct PeerRegions {
  std::byte* regions[kMostExchangeRanks] = {};  ///< of all ranks, as this rank's device sees them
  /// In memory of allocate_mapped(): not 0 when nobody is to be waited for any more.
  const uint32_t* abort = nullptr;
  int64_t capacity = 0;  ///< floats of one contribution; a multiple of 4
  int rank = 0;
  int ranks = 1;                     ///< 2, 4 or 8
  int blocks = kMostExchangeBlocks;  ///< of a sum, at most; the same on all ranks
};
/// Of a region. It is all zeros before the first sum.
size_t exchange_bytes(int ranks, int64_t capacity);

/// target[r][c] += tree sum over ranks of mine[r][c], then += bias[c], then the row's norm: what
/// rank_sum, add_bias and rms_norm do one after another, with their bits.
struct OneShotSum {
  const float* mine = nullptr;  ///< [rows][columns], dense, as target
  float* target = nullptr;
  int64_t rows = 0, columns = 0;
  const float* bias = nullptr;         ///< [columns] or null
  const float* norm_weight = nullptr;  ///< [columns] or null: no norm
  float norm_epsilon = 0;
  TensorView normalised;  ///< out [rows, columns], where there is a norm
};
/// All ranks launch it in the same order with equal extents. Its blocks wait for those of the
/// others.
void one_shot_sum(const CudaStream& stream, const PeerRegions& peers, const OneShotSum& sum);

// --- pick.cu, pick_filter.cu, rank.cu: equal to the CPU's picks in every bit ---

size_t pick_workspace_bytes(int64_t rows, int64_t columns);
void pick_slice(const CudaStream& stream, const PickSliceArgs& args, const Workspace& workspace);

/// What some row of a pick asks for: the parameters of rows lie on the device, where the host does
/// not look. What no row asks for is not launched.
struct PickFullWants {
  bool filters = true;
  bool logprobs = true;
};
/// args.scratch: [rows, >= vocabulary] suffices. max_logprobs is at most kMaxRanked.
void pick_full(const CudaStream& stream, const PickFullArgs& args, const PickFullWants& wants,
               const Workspace& workspace);
void rank(const CudaStream& stream, const RankArgs& args);

}  // namespace convoke::cuda
