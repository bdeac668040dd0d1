// Where kernels/cuda launches to, for code that need not see CUDA's headers.
#pragma once

#include <cstddef>

#include "kernels/backend.h"

struct CUstream_st;

namespace convoke::cuda {

class LaunchLog;

struct CudaStream {
  CUstream_st* handle = nullptr;  ///< a cudaStream_t
  /// The device has thread-block clusters (compute capability 9.0 and later). Without them the same
  /// sums go through global memory; no bit depends on it.
  bool clusters = true;
  /// Not null: launches are written down here instead of being enqueued (launch_log.h).
  LaunchLog* log = nullptr;
};

/// Device memory that a kernel may overwrite, given by the caller: kernels never allocate. Aligned
/// to 256 bytes.
struct Workspace {
  void* data = nullptr;
  size_t bytes = 0;
};

}  // namespace convoke::cuda
