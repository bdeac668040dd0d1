#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define CONVOKE_SIMD_AVX2
#include "kernels/cpu/attention_tiles.h"
#else
#include "kernels/cpu/attention_kernels.h"
namespace convoke::cpu::avx2 {
const AttentionKernels* attention_kernels() {
  return nullptr;
}
}  // namespace convoke::cpu::avx2
#endif
