// A communicator over host memory for a backend that has memory of its own: sums and logits go
// through the host. What tensor parallelism on GPUs uses where there is no faster way; the bits are
// those of the communicator underneath.
#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace convoke {

/// `backend` must outlive it. reduce_buffer(), all_reduce_add's target and what
/// all_gather_floats gathers are the backend's memory then; all_gather stays with host memory.
std::unique_ptr<Communicator> make_staged_communicator(Backend& backend,
                                                       std::unique_ptr<Communicator> host,
                                                       const CommunicatorOptions& options);

}  // namespace convoke
