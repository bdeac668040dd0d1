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

}  // namespace convoke::cuda
