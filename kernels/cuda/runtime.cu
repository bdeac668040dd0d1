// What only a real device has: error codes.
#include "kernels/cuda/device.cuh"

namespace convoke::cuda {

void check_cuda(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  throw_error(ErrorKind::kResource, "CUDA: {}: {} ({})", what, cudaGetErrorString(code),
              cudaGetErrorName(code));
}

}  // namespace convoke::cuda
