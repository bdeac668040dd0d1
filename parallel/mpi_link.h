// PeerLink over MPI point-to-point messages. Only parallel/*.cc include this: it brings in mpi.h.
#pragma once

#include <mpi.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "parallel/peer_link.h"

namespace convoke {

/// MPI runs at MPI_THREAD_SERIALIZED: whoever calls it holds this. All calls under it return at
/// once, but for set-up and finishing, which a watchdog bounds.
using MpiGate = std::timed_mutex;

/// "MPI_Comm_split failed: ..." as Error(kPeer), unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* call);

class MpiLink final : public PeerLink {
 public:
  /// Uses `comm` alone, and does not free it. `crowded`: ranks outnumber the cores of their host.
  MpiLink(MPI_Comm comm, MpiGate& gate, bool crowded);

  int run(std::span<const Transfer> transfers, std::chrono::nanoseconds limit,
          FunctionRef<bool()> stopped) override;
  std::string failure() const override { return failure_; }
  void send_abort(const Error& error) noexcept override;
  std::optional<Error> take_abort() override;

 private:
  struct AbortLetter {
    uint32_t kind;
    char reason[1020];
  };

  bool start(std::span<const Transfer> transfers);
  bool all_over(bool& over);
  int first_open();
  void give_up();
  bool ok(int code, const char* call);

  MPI_Comm comm_;
  MpiGate& gate_;
  bool crowded_;
  int rank_ = 0;
  int size_ = 0;
  std::string failure_;
  std::vector<MPI_Request> requests_;
  std::vector<int> peers_;  // of requests_
  AbortLetter abort_letter_{};
  bool abort_sent_ = false;
  std::vector<MPI_Request> abort_requests_;
};

}  // namespace convoke
