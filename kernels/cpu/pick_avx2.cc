#if defined(__x86_64__)

#define CONVOKE_PICK_BYTES 32
#include "kernels/cpu/pick_kernels_impl.h"

namespace convoke::cpu {

const PickKernels& pick_kernels_avx2() {
  return kKernels;
}

}  // namespace convoke::cpu

#endif
