// Embedding, RMSNorm and the gated activation on the CPU. See kernels/backend.h for what each
// computes; here is how they meet its contract: every thread of the team calls them with equal
// arguments, they split rows (or, when there are fewer rows than threads, the columns of a row) and
// end with stream.barrier(). Nothing is allocated.
#pragma once

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/elementwise_kernels.h"

namespace convoke::cpu {

const ElementwiseKernels& elementwise_kernels_for(Isa isa);

/// Checks that every index is a row of its matrix, or stands for none.
void copy_rows(CpuStream& stream, const CopyRowsArgs& args);

/// Checks that every token is in [0, ...) or names a look-ahead row that exists.
void embed(CpuStream& stream, Isa isa, const EmbedArgs& args);

/// y may be x itself (same data and strides, no gather); any other overlap is not allowed.
void rms_norm(CpuStream& stream, Isa isa, const RmsNormArgs& args);

/// y must not overlap x.
void convert(CpuStream& stream, const TensorView& x, const TensorView& y);

/// y must not overlap x.
void silu_mul(CpuStream& stream, Isa isa, const SiluMulArgs& args);

}  // namespace convoke::cpu
