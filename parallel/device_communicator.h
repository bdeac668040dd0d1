// The communicator between ranks whose backends are CUDA devices that can reach each other: sums
// and logits stay on the devices and in the stream, so that a whole pass is one graph and one wait.
//
// Which collective, and why. Every tensor-parallel size must give the same bits, so a sum has one
// order: a balanced tree over the ranks, added to the target once (communicator.h). A library's
// all-reduce promises none (rings and trees are chosen by size and topology), so nothing but copies
// is asked of it:
//  - Small sums, those of decoding, where a message's latency is what counts: one all-gather, and
//    every rank adds all contributions. (tp - 1) times the bytes arrive at each rank.
//  - Large ones, those of prompts: an all-to-all after which each rank has its piece of every
//    contribution, the sum of the piece, an all-gather of the sums. Twice the bytes arrive at each
//    rank, as in a ring.
// Either way an element is the same tree.
#pragma once

#include <memory>

#include "parallel/communicator.h"
#include "parallel/device_transport.h"

namespace convoke {

/// Sums up to so many bytes are small. A multiple of 16 floats.
inline constexpr int64_t kSmallSumBytes = 256 * 1024;

/// `host` carries everything that is host memory (plans, bids, picks) and names the rank that is
/// missing; `backend`, a CUDA one that must outlive the communicator, watches the
/// transport while it waits for the device.
std::unique_ptr<Communicator> make_device_communicator(Backend& backend,
                                                       std::unique_ptr<Communicator> host,
                                                       std::unique_ptr<DeviceTransport> transport,
                                                       const CommunicatorOptions& options);

}  // namespace convoke
