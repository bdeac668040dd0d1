// Who is at fault when a wait takes too long.
//
// The rank that a wait is for is often not the one that is missing: it may wait itself, perhaps in
// an operation that the waiting rank has left already. So ranks tell each other whom they wait for.
// Half-way to the deadline a waiting rank becomes suspicious and publishes a mark: "I wait for rank
// B". Every live rank that is in a wait of its own then, or comes to one, publishes its mark too,
// and withdraws it when what it waited for comes. At the deadline the suspicious rank follows the
// marks from the rank it waits for to one that has none: that one is stopped, dead, or still busy
// with something else, and the others wait for it. Where the marks run in a circle, which only
// messages lost between live ranks can cause, the last rank before the circle closes is named.
//
// A mark counts only if it was published after the suspicion began: a rank may have been stopped
// while an older mark of it stood.
//
// Nothing of this is touched by a wait that is over before its first nap.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kernels/function_ref.h"

namespace convoke {

/// What a rank publishes about itself. On a board it is packed in 64 bits; 0 says nothing.
struct WaitMark {
  int awaited = -1;         ///< the rank it waits for; -1: it is in no wait (worth mentioning)
  int operation = 0;        ///< 0..127, for the message
  bool suspicious = false;  ///< asks the others where they stand
  uint16_t suspicion = 0;   ///< number of the suspicion, counted by the rank that has it
  uint16_t version = 0;     ///< of the mark; moves on every time

  uint64_t packed() const;
  static WaitMark unpack(uint64_t bits);
};

/// Where marks are seen: shared memory, or what messages have told. Of a rank's marks the last one
/// stands; none needs to arrive while nobody is stuck.
class WaitBoard {
 public:
  virtual ~WaitBoard() = default;
  /// This rank's mark, to all others; does not wait for them.
  virtual void publish(uint64_t mark) = 0;
  /// marks[r] = the last one known of rank r, 0 if there is none.
  virtual void read(std::span<uint64_t> marks) = 0;
};

/// One rank's watch over its own waits, one at a time. Used by one thread at a time.
class WaitWatch {
 public:
  using Time = std::chrono::steady_clock::time_point;
  struct Blame {
    int rank = 0;
    int operation = 0;  ///< to which it did not come
  };

  WaitWatch(WaitBoard& board, int rank, int size, double deadline_seconds);

  void begin(int operation) {
    operation_ = operation;
    started_ = {};
  }

  /// During the wait, again and again, at least some 50 times before the deadline, which counts
  /// from the first call. `awaited` gives the rank that is missing now, or -1 when none is any
  /// more. Returns the rank at fault at the deadline; until then nothing.
  std::optional<Blame> look(Time now, FunctionRef<int()> awaited);

  /// The wait is over and well. (After a failed one the mark stays: others may need it.)
  void end() {
    if (published_) withdraw();
  }

 private:
  bool asked() const;
  void publish(int awaited);
  void withdraw();
  Blame judge(int awaited);

  WaitBoard& board_;
  int rank_;
  std::chrono::nanoseconds deadline_;

  int operation_ = 0;
  Time started_{};
  Time looked_{};
  Time suspected_{};
  bool published_ = false;
  WaitMark mine_;
  std::vector<uint64_t> marks_;     // as read last
  std::vector<uint64_t> old_;       // as they were when the suspicion began
  std::vector<uint16_t> answered_;  // suspicions of others that our mark is newer than
  std::vector<bool> visited_;
};

}  // namespace convoke
