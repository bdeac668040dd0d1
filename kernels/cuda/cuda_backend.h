// The backend on one GPU: everything in its memory, one stream, one wait of the host per pass.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "kernels/backend.h"
#include "kernels/cuda/graph_cache.h"

namespace convoke::cuda {

/// Whose matrix products.
enum class CudaMatmul {
  kExact,  ///< ours for every number of rows, more than 64 in turns of 64: one order for every sum
  kFast,   ///< cuBLASLt's for every number of rows: its order depends on how many there are
};

struct CudaOptions {
  int device = 0;  ///< as CUDA numbers them: of those that CUDA_VISIBLE_DEVICES leaves
  /// Bytes of work space that attention may take before it takes the rows of a pass in several
  /// turns. No bit depends on it.
  size_t attention_workspace = size_t{256} << 20;
  /// Passes of few rows come as one of a few sizes and are replayed as graphs (graph_cache.h). No
  /// bit depends on it.
  bool graphs = true;
  /// Of weights of 16 bits. kFast: throws Error(kResource) where cuBLASLt is not there.
  CudaMatmul matmul = CudaMatmul::kExact;
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

// For what works beside the backend on its device: these take a backend of make_cuda_backend(), and
// a stream of one of its programs.

int device_of(const Backend& backend);
/// Where the program enqueues. It may have a log (launch_log.h: enqueue()).
const CudaStream& queue_of(const Stream& stream);
/// Destroys the backend's graphs; those that run now end first. What they refer to may go then.
void forget_graphs(Backend& backend);
/// Called again and again while the host waits for the device, with the seconds that it has waited,
/// and with 0 when the wait is over; ends the wait, and the program, by throwing. What is enqueued
/// must be about to end then. Empty: nobody looks.
void set_wait_monitor(Backend& backend, std::function<void(double seconds)> monitor);

/// How many devices there are; if none, `why` says what CUDA answered.
int device_count(std::string* why);
/// Free memory of a device, in bytes.
size_t free_memory(int device);

}  // namespace convoke::cuda
