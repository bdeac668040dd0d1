#if defined(__AVX512F__)
#define CONVOKE_SIMD_AVX512
#include "kernels/cpu/attention_tiles.h"
#else
#include "kernels/cpu/attention_kernels.h"
namespace convoke::cpu::avx512 {
const AttentionKernels* attention_kernels() {
  return nullptr;
}
}  // namespace convoke::cpu::avx512
#endif
