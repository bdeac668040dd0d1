// Copies between devices by NCCL, which is loaded when it is asked for.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/device_transport.h"
#include "parallel/rank_place.h"

namespace convoke {

/// Collective over the ranks of `host`, outside of programs; `device` is the number of this rank's.
/// Null on all ranks, and `why` on each, where NCCL cannot be used: it is not there on some rank,
/// or two threads of a process share a device.
/// Processes that do are told apart by NCCL_HOSTID, which NCCL insists on. Throws Error(kTimeout)
/// when NCCL does not come up on all ranks within a minute, Error(kResource) when it fails.
std::unique_ptr<DeviceTransport> make_nccl_transport(Communicator& host, int device,
                                                     std::string& why);

/// What the ranks' places mean for NCCL: why it cannot be used (the same on all ranks), or nothing
/// and which ranks share their device with another.
struct TransportChoice {
  std::string why_not;
  std::vector<bool> shares_device;
};
TransportChoice choose_transport(const std::vector<RankPlace>& places);

}  // namespace convoke
