// A communicator over host memory for a backend that has memory of its own: sums and logits go
// through the host. What tensor parallelism on GPUs uses where there is no faster way; the bits are
// those of the communicator underneath.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace convoke {

/// Communicator::all_gather_floats for memory of a backend, by way of a communicator over the
/// host's.
class HostGather {
 public:
  HostGather(Backend& backend, Communicator& host) : backend_(backend), host_(host) {}
  void reserve(int64_t count);
  void gather(Stream& stream, const float* mine, float* all, int64_t count);

 private:
  Backend& backend_;
  Communicator& host_;
  int64_t capacity_ = 0;  ///< floats
  std::unique_ptr<Buffer> mine_, all_;
};

/// `backend` must outlive it. reduce_buffer(), all_reduce_add's target and what
/// all_gather_floats gathers are the backend's memory then; all_gather stays with host memory.
/// describe() says `note`, why this way.
std::unique_ptr<Communicator> make_staged_communicator(Backend& backend,
                                                       std::unique_ptr<Communicator> host,
                                                       const CommunicatorOptions& options,
                                                       const std::string& note = "");

}  // namespace convoke
