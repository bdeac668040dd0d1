// Memory by which ranks of one host exchange contributions in a kernel (kernels/cuda/one_shot.cu):
// one region on every rank's device, which the others reach directly (threads of a process) or by
// CUDA IPC (processes).
#pragma once

#include <memory>
#include <string>

#include "kernels/backend.h"
#include "kernels/cuda/kernels.h"
#include "parallel/communicator.h"
#include "parallel/rank_place.h"

namespace convoke {

class PeerMemory {
 public:
  virtual ~PeerMemory() = default;
  virtual const cuda::PeerRegions& regions() const = 0;
  /// "CUDA IPC" or "peer access"
  virtual const char* describe() const = 0;
  /// Kernels that wait for other ranks end, with whatever results; from now on all do. From any
  /// thread.
  virtual void abort() noexcept = 0;
};

struct PeerMemoryOptions {
  int64_t capacity = 0;                    ///< floats of the largest sum
  int blocks = cuda::kMostExchangeBlocks;  ///< of a sum; fewer only in tests
};

/// Collective over the ranks of `host`, outside of programs. `backend` is a CUDA one and must
/// outlive the result; `mine` is this rank's place. Null on all ranks, and `why` on each, where
/// some rank cannot reach the memory of another. Throws Error(kResource) when memory runs out.
std::unique_ptr<PeerMemory> make_peer_memory(Backend& backend, Communicator& host,
                                             const RankPlace& mine,
                                             const PeerMemoryOptions& options, std::string& why);

/// Why the ranks' places rule it out, or nothing.
std::string why_no_peers(const std::vector<RankPlace>& places);

}  // namespace convoke
