#define CONVOKE_PICK_BYTES 16
#include "kernels/cpu/pick_kernels_impl.h"

namespace convoke::cpu {

const PickKernels& pick_kernels_portable() {
  return kKernels;
}

}  // namespace convoke::cpu
