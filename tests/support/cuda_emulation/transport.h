// Copies between emulated devices, as NCCL makes them between real ones, and their failures.
#pragma once

#include <memory>
#include <vector>

#include "parallel/device_transport.h"

namespace convoke::emulation {

/// What the transports of a test's ranks have in common.
class MeetingPlace;

/// One for each of `ranks` ranks, connected.
struct Transports {
  explicit Transports(int ranks);
  ~Transports();
  /// That of a rank, once.
  std::unique_ptr<DeviceTransport> take(int rank);

  /// From now on this rank never comes to an operation.
  void stall(int rank);
  /// From now on this rank's library reports an error.
  void fail(int rank);
  /// How many all-gathers and all-to-alls rank 0 has enqueued, or captured.
  int all_gathers() const;
  int all_to_alls() const;

 private:
  std::shared_ptr<MeetingPlace> exchange_;
};

}  // namespace convoke::emulation
