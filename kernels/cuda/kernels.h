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

// --- matmul.cu ---

/// What matmul needs of a workspace for so many rows; `normalised`: with a norm_weight.
size_t matmul_workspace_bytes(const CudaStream& stream, const MatrixLayout& layout, int rows,
                              bool normalised);
/// The weights are a CudaPackedMatrix. y is not read before it is written unless it accumulates.
void matmul(const CudaStream& stream, const MatmulArgs& args, const Workspace& workspace);

}  // namespace convoke::cuda
