// The drafter as an actor: it feeds a Drafter with what the coordinator commits and answers every
// VerdictBatch with DraftTrees. It owns no thread: run_drafter() is a loop for any thread, and
// DrafterActor alone is that loop's logic, testable message by message.
//
// Nothing that arrives can break it. Messages may be lost, repeated or out of order: a verdict that
// does not continue what is known of its sequence makes the actor forget the sequence and ask, by
// DrafterReady, to have every live sequence opened again.
#pragma once

#include <atomic>
#include <chrono>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "actors/mailbox.h"
#include "runtime/drafter.h"

namespace convoke {

/// Misbehaviour on purpose, for tests of everybody else. Never used otherwise.
/// Text form: "die-at=3,delay-ms=20"; all counts are of messages received or answers sent.
struct DrafterFaults {
  int die_at = -1;         ///< ends without goodbye at message i (from 0); first incarnation only
  int die_every = -1;      ///< the same in every incarnation
  int garbage_every = 0;   ///< every n-th answer is replaced by random bytes
  int stale_every = 0;     ///< every n-th answer is for a base length one too small
  int oversize_every = 0;  ///< every n-th answer has trees beyond the limits asked for
  int mute_every = 0;      ///< every n-th answer is not sent
  int delay_ms = 0;        ///< every answer is late by this

  static DrafterFaults parse(const std::string& text);  ///< throws Error(kUsage)
  static DrafterFaults from_environment();              ///< CONVOKE_TEST_DRAFTER_FAULTS
};

struct DrafterActorOptions {
  int vocabulary = 0;
  int lookahead_count = 0;   ///< look-ahead embeddings that probes may name
  bool ahead = false;        ///< draft while no message waits
  uint32_t incarnation = 0;  ///< how often it was started before
  int32_t rank = 0;
  std::string host;
  std::string role = "drafter";
  std::chrono::milliseconds heartbeat{500};
  /// With the link down for this long, the coordinator is gone for good.
  std::chrono::milliseconds coordinator_silence{30000};
  /// With sequences open and nothing heard for this long, it introduces itself again (then after
  /// twice as long, and so on): perhaps an answer was lost and the coordinator has given up on it.
  std::chrono::milliseconds reintroduce{5000};
  DrafterFaults faults;
};

class DrafterActor {
 public:
  DrafterActor(Drafter& drafter, DrafterActorOptions options, Clock::time_point now);

  /// Messages that arrived together, in order; replies are appended to `out`. Where a later batch
  /// asks for the tree of the same sequence again, the earlier one is not made: it would be stale.
  void handle(std::span<Letter> letters, Clock::time_point now, std::vector<Message>& out);
  /// What time alone brings: the first introduction, heartbeats, another introduction.
  void tick(Clock::time_point now, bool connected, std::vector<Message>& out);

  /// One increment of drafting ahead; false when it is off or there is nothing worth doing.
  bool work_ahead();

  bool finished() const { return finished_; }
  const std::string& reason() const { return reason_; }  ///< why it finished
  bool coordinator_gone() const { return gone_; }        ///< it finished for silence
  /// The longest that tick() may be put off.
  Clock::time_point next_tick() const { return next_heartbeat_; }

 private:
  void on(SequenceOpened& message);
  void on(const SequenceClosed& message);
  void on(VerdictBatch& message, std::span<const std::byte> attachment);
  void on(const Shutdown& message);
  template <typename T>
  void on(const T&) {}  // what a drafter never receives

  void apply(const DraftVerdict& verdict);
  void forget(SequenceId id);
  DraftTrees answer(const VerdictBatch& batch, const std::vector<SequenceId>& wanted);
  void introduce(Clock::time_point now, std::vector<Message>& out);
  void refuse(SequenceId id, const char* what, const std::exception& error);

  Drafter& drafter_;
  DrafterActorOptions options_;
  std::unordered_map<SequenceId, int64_t> lengths_;  ///< committed tokens of open sequences
  /// Sequences the method itself failed on: they get no trees, and asking again would not help.
  std::unordered_set<SequenceId> refused_;
  bool finished_ = false;
  bool gone_ = false;
  std::string reason_;
  bool introduced_ = false;
  bool lost_track_ = false;    ///< a sequence has to be opened again
  double hidden_seconds_ = 0;  ///< spent drafting ahead since the last answer
  bool was_connected_ = false;
  bool was_ever_connected_ = false;
  uint64_t heartbeats_ = 0;
  Clock::time_point next_heartbeat_;
  Clock::time_point last_heard_;
  Clock::time_point last_reachable_;
  Clock::time_point last_introduced_;
  Clock::duration patience_;  ///< until the next introduction out of silence
  Clock::duration pause_;     ///< between introductions for having lost track
};

enum class DrafterEnd {
  kShutdown,         ///< the coordinator said so
  kStopped,          ///< the flag was set
  kCoordinatorGone,  ///< silent for long
  kDied              ///< DrafterFaults; no goodbye was said
};

/// Runs until one of the above, on the calling thread. Never throws.
DrafterEnd run_drafter(Link& link, Drafter& drafter, const DrafterActorOptions& options,
                       const std::atomic<bool>& stop);

}  // namespace convoke
