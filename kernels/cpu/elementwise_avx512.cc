#if defined(__AVX512F__)
#define CONVOKE_SIMD_AVX512
#include "kernels/cpu/elementwise_rows.h"
#else
#include "kernels/cpu/elementwise_kernels.h"
namespace convoke::cpu::avx512 {
const ElementwiseKernels* elementwise_kernels() {
  return nullptr;
}
}  // namespace convoke::cpu::avx512
#endif
