#include "parallel/mpi_link.h"

#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstring>
#include <thread>
#include <utility>

namespace convoke {
namespace {

using std::chrono::microseconds;

constexpr int kDataTag = 1;
constexpr int kLetterTag = 2;

// Between polls: at first nothing, then the core is offered to others, then it is left alone for
// longer and longer. A rank that idles between requests polls 5000 times a second.
class Backoff {
 public:
  explicit Backoff(bool crowded) : spins_(crowded ? 20 : 2000) {}

  /// Pauses. True when it slept: the time to look at clocks and flags.
  bool pause() {
    ++round_;
    if (round_ <= spins_) return false;
    if (round_ <= spins_ + kYields) {
      std::this_thread::yield();
      return false;
    }
    // By default Linux lets timers of ordinary threads come 50 us late, more than our naps.
    thread_local const bool punctual = prctl(PR_SET_TIMERSLACK, 1UL, 0, 0, 0) == 0;
    static_cast<void>(punctual);
    std::this_thread::sleep_for(nap_);
    nap_ = std::min(nap_ + nap_ / 4, kLongestNap);
    return true;
  }

 private:
  static constexpr int kYields = 50;
  static constexpr microseconds kLongestNap{200};
  int spins_;
  int round_ = 0;
  microseconds nap_{20};
};

std::string mpi_error(int code, const char* call) {
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  return fmt::format("{} failed: {}", call, text);
}

int int_bytes(size_t bytes) {
  CONVOKE_CHECK_LE(bytes, size_t(INT_MAX));
  return int(bytes);
}

}  // namespace

void check_mpi(int code, const char* call) {
  if (code != MPI_SUCCESS) throw Error(ErrorKind::kPeer, mpi_error(code, call));
}

MpiLink::MpiLink(MPI_Comm comm, MpiGate& gate, bool crowded)
    : comm_(comm), gate_(gate), crowded_(crowded) {
  const std::lock_guard lock(gate_);
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
  requests_.reserve(4 * size_t(size_));
  peers_.reserve(4 * size_t(size_));
  mark_slots_.resize(size_t(size_));
  marks_.resize(size_t(size_));
}

bool MpiLink::ok(int code, const char* call) {
  if (code == MPI_SUCCESS) return true;
  failure_ = mpi_error(code, call);
  return false;
}

// Receives first, so that what comes finds its place.
bool MpiLink::start(std::span<const Transfer> transfers) {
  requests_.clear();
  peers_.clear();
  for (const Transfer& t : transfers) {
    if (t.in == nullptr) continue;
    requests_.emplace_back();
    peers_.push_back(t.peer);
    if (!ok(MPI_Irecv(t.in, int_bytes(t.in_bytes), MPI_BYTE, t.peer, kDataTag, comm_,
                      &requests_.back()),
            "MPI_Irecv")) {
      return false;
    }
  }
  for (const Transfer& t : transfers) {
    if (t.out == nullptr) continue;
    requests_.emplace_back();
    peers_.push_back(t.peer);
    if (!ok(MPI_Isend(t.out, int_bytes(t.out_bytes), MPI_BYTE, t.peer, kDataTag, comm_,
                      &requests_.back()),
            "MPI_Isend")) {
      return false;
    }
  }
  return true;
}

bool MpiLink::all_over(bool& over) {
  int flag = 0;
  const int code = MPI_Testall(int(requests_.size()), requests_.data(), &flag, MPI_STATUSES_IGNORE);
  over = flag != 0;
  return ok(code, "MPI_Testall");
}

int MpiLink::first_open() {
  for (size_t i = 0; i < requests_.size(); ++i) {
    int flag = 0;
    MPI_Test(&requests_[i], &flag, MPI_STATUS_IGNORE);
    if (flag == 0) return peers_[i];
  }
  return kDone;
}

// Withdraws the receives that have not begun: their memory may go away. Sends cannot be withdrawn.
void MpiLink::give_up() {
  for (MPI_Request& request : requests_) {
    if (request == MPI_REQUEST_NULL) continue;
    MPI_Cancel(&request);
    MPI_Request_free(&request);
  }
}

int MpiLink::run(std::span<const Transfer> transfers, FunctionRef<bool()> stopped) {
  {
    const std::lock_guard lock(gate_);
    if (!start(transfers)) return kFailed;
  }
  Backoff backoff(crowded_);
  while (true) {
    {
      const std::lock_guard lock(gate_);
      bool over = false;
      if (!all_over(over)) return kFailed;
      if (over) return kDone;
    }
    if (!backoff.pause() || !stopped()) continue;
    const std::lock_guard lock(gate_);
    if (first_open() == kDone) return kDone;
    give_up();
    return kStopped;
  }
}

int MpiLink::awaited() {
  const std::lock_guard lock(gate_);
  return first_open();
}

// --- letters ------------------------------------------------------------------------------------

void MpiLink::send_abort(const Error& error) noexcept {
  const std::unique_lock lock(gate_, std::chrono::seconds(1));
  if (!lock.owns_lock() || abort_sent_) return;
  abort_sent_ = true;
  abort_letter_.type = Letter::kAbort;
  abort_letter_.kind = error.kind();
  std::strncpy(abort_letter_.reason, error.what(), sizeof abort_letter_.reason - 1);
  abort_requests_.resize(size_t(size_), MPI_REQUEST_NULL);
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    // Small enough to leave at once; nobody waits for it here.
    MPI_Isend(&abort_letter_, sizeof abort_letter_, MPI_BYTE, peer, kLetterTag, comm_,
              &abort_requests_[size_t(peer)]);
  }
}

std::optional<Error> MpiLink::take_abort() {
  const std::lock_guard lock(gate_);
  receive_letters();
  return std::exchange(abort_heard_, std::nullopt);
}

void MpiLink::publish(uint64_t mark) {
  const std::lock_guard lock(gate_);
  mark_ = mark;
  for (MarkSlot& slot : mark_slots_) slot.due = true;
  send_marks();
}

void MpiLink::read(std::span<uint64_t> marks) {
  const std::lock_guard lock(gate_);
  receive_letters();
  send_marks();
  std::copy(marks_.begin(), marks_.end(), marks.begin());
}

void MpiLink::send_marks() {
  for (int peer = 0; peer < size_; ++peer) {
    MarkSlot& slot = mark_slots_[size_t(peer)];
    if (peer == rank_ || !slot.due) continue;
    int free = 0;
    if (MPI_Test(&slot.request, &free, MPI_STATUS_IGNORE) != MPI_SUCCESS || free == 0) continue;
    slot.due = false;
    slot.letter.mark = mark_;
    MPI_Isend(&slot.letter, int(kMarkBytes), MPI_BYTE, peer, kLetterTag, comm_, &slot.request);
  }
}

// Errors are left to the transfers, which report them.
void MpiLink::receive_letters() {
  int flag = 0;
  MPI_Status status;
  while (MPI_Iprobe(MPI_ANY_SOURCE, kLetterTag, comm_, &flag, &status) == MPI_SUCCESS && flag) {
    Letter letter;
    letter.reason[0] = '\0';
    if (MPI_Recv(&letter, sizeof letter, MPI_BYTE, status.MPI_SOURCE, kLetterTag, comm_,
                 MPI_STATUS_IGNORE) != MPI_SUCCESS) {
      return;
    }
    if (letter.type == Letter::kMark) {
      marks_[size_t(status.MPI_SOURCE)] = letter.mark;
    } else if (!abort_heard_) {
      letter.reason[sizeof letter.reason - 1] = '\0';
      abort_heard_.emplace(letter.kind, letter.reason);
    }
  }
}

}  // namespace convoke
