// What moves floats between the devices of ranks. Implemented over NCCL (nccl_transport.h), and by
// emulated devices for tests.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

struct CUstream_st;

namespace convoke {

/// All ranks enqueue the same operations in the same order, each on a stream of its own; they
/// happen in the order of the stream and may be captured into a graph. They only copy: sums are the
/// communicator's, which knows the order.
class DeviceTransport {
 public:
  virtual ~DeviceTransport() = default;
  virtual std::string describe() const = 0;  ///< "nccl 2.27.7"

  /// all[r * count + i] = mine[i] of rank r.
  virtual void all_gather(CUstream_st* stream, const float* mine, float* all, int64_t count) = 0;
  /// to[r * count + i] = from[own rank * count + i] of rank r.
  virtual void all_to_all(CUstream_st* stream, const float* from, float* to, int64_t count) = 0;

  /// What has gone wrong since it began, if anything. From any thread.
  virtual std::optional<std::string> failure() = 0;
  /// What is enqueued ends, with whatever results; nothing can be enqueued any more. From any
  /// thread.
  virtual void abort() noexcept = 0;
};

}  // namespace convoke
