// The communicator between ranks whose backends are CUDA devices that can reach each other: sums
// and logits stay on the devices and in the stream, so that a whole pass is one graph and one wait.
//
// Which collective, and why. Every tensor-parallel size must give the same bits, so a sum has one
// order: a balanced tree over the ranks, added to the target once (communicator.h). A library's
// all-reduce promises none (rings and trees are chosen by size and topology), so nothing but copies
// is asked of it:
//  - Small sums, those of decoding, where a message's latency is what counts: every rank gets all
//    contributions and adds them. (tp - 1) times the bytes arrive at each rank. Between ranks of
//    one host that reach each other's memory that is one kernel, the norm behind the sum included
//    (kernels/cuda/one_shot.cu); elsewhere an all-gather and a kernel that adds.
//  - Large ones, those of prompts: an all-to-all after which each rank has its piece of every
//    contribution, the sum of the piece, an all-gather of the sums. Twice the bytes arrive at each
//    rank, as in a ring. Without a library: the one kernel in turns.
// Either way an element is the same tree.
#pragma once

#include <memory>

#include "parallel/communicator.h"
#include "parallel/device_transport.h"
#include "parallel/peer_memory.h"

namespace convoke {

/// Sums up to so many bytes are small for an all-gather. A multiple of 16 floats.
inline constexpr int64_t kSmallSumBytes = 256 * 1024;
/// And for one kernel over memory that all ranks of a host reach: where (ranks - 1) times the bytes
/// over NVLink begin to take longer than a second exchange. The borders that vLLM has measured for
/// its own (csrc/custom_all_reduce.cuh); with two ranks there is nothing to gain by a second.
int64_t one_shot_bytes(int ranks);

/// How floats get from device to device: at least one of the two.
struct DeviceLinks {
  std::unique_ptr<DeviceTransport> transport;
  std::unique_ptr<PeerMemory> peers;  ///< with a capacity of at least 16 floats
  std::string note;  ///< what else describe() is to say: why one of them is not there
};

/// `host` carries everything that is host memory (plans, bids, picks) and names the rank that is
/// missing; `backend`, a CUDA one that must outlive the communicator, watches the links while it
/// waits for the device.
std::unique_ptr<Communicator> make_device_communicator(Backend& backend,
                                                       std::unique_ptr<Communicator> host,
                                                       DeviceLinks links,
                                                       const CommunicatorOptions& options);

}  // namespace convoke
