// The backend on one GPU: everything in its memory, one stream, one wait of the host per pass.
#pragma once

#include <memory>
#include <string>

#include "kernels/backend.h"
#include "kernels/cuda/graph_cache.h"

namespace convoke::cuda {

struct CudaOptions {
  int device = 0;  ///< as CUDA numbers them: of those that CUDA_VISIBLE_DEVICES leaves
  /// Bytes of work space that attention may take before it takes the rows of a pass in several
  /// turns. No bit depends on it.
  size_t attention_workspace = size_t{256} << 20;
  /// Passes of few rows come as one of a few sizes and are replayed as graphs (graph_cache.h). No
  /// bit depends on it.
  bool graphs = true;
};

/// Throws Error(kResource) that says what to do when there is no such device or it cannot run the
/// kernels (compute capability 8.0 is the least). Keys and values, and weights, may be float16 too.
///
/// A program's arrays (kernels/backend.h: PassArrays) reach the device in one transfer before it,
/// what it picks comes back in one transfer after it, and only then does the host wait; once more
/// for every Stream::host(). Programs take no memory within the limits that reserve() was given.
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options);

/// What a backend of make_cuda_backend() has done with graphs.
const GraphCounters& graph_counters(const Backend& backend);

/// How many devices there are; if none, `why` says what CUDA answered.
int device_count(std::string* why);
/// Free memory of a device, in bytes.
size_t free_memory(int device);

}  // namespace convoke::cuda
