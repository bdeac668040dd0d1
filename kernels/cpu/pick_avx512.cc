#if defined(__x86_64__)

#define CONVOKE_PICK_BYTES 64
#include "kernels/cpu/pick_kernels_impl.h"

namespace convoke::cpu {

const PickKernels& pick_kernels_avx512() {
  return kKernels;
}

}  // namespace convoke::cpu

#endif
