// PeerLink over MPI point-to-point messages. Only parallel/*.cc include this: it brings in mpi.h.
#pragma once

#include <mpi.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
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

  int run(std::span<const Transfer> transfers, FunctionRef<bool()> stopped) override;
  int awaited() override;
  std::string failure() const override { return failure_; }
  void send_abort(const Error& error) noexcept override;
  std::optional<Error> take_abort() override;
  void publish(uint64_t mark) override;
  void read(std::span<uint64_t> marks) override;

 private:
  // What ranks tell each other beside the data.
  struct Letter {
    enum Type : uint32_t { kMark, kAbort };
    Type type = kMark;
    ErrorKind kind{};   // of an abort
    uint64_t mark = 0;  // only so far goes a mark's letter
    char reason[1008];
  };
  static constexpr size_t kMarkBytes = offsetof(Letter, reason);

  // The newest mark on its way to one peer: the next one waits until the slot is free.
  struct MarkSlot {
    MPI_Request request = MPI_REQUEST_NULL;
    Letter letter;
    bool due = false;
  };

  bool start(std::span<const Transfer> transfers);
  bool all_over(bool& over);
  int first_open();
  void receive_letters();
  void send_marks();
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

  // Under the gate, as all calls of MPI.
  Letter abort_letter_{};
  bool abort_sent_ = false;
  std::vector<MPI_Request> abort_requests_;
  std::optional<Error> abort_heard_;
  uint64_t mark_ = 0;                 // this rank's
  std::vector<MarkSlot> mark_slots_;  // by peer
  std::vector<uint64_t> marks_;       // heard, by peer
};

}  // namespace convoke
