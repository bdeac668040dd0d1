// Every rank runs one, on a thread of its own: it sends heartbeats, notices the death of a rank
// within seconds, sees to it that exactly one message says so, and turns signals into an orderly
// end.
//
// Rank 0 watches all, and all watch rank 0. Rank 0 prints and tells the others; if rank 0 itself
// dies, the ranks ask below themselves, and the lowest one that lives prints.
//
// Use: construct (binds its mailbox), exchange endpoints, start(). Callbacks run on the
// supervisor's thread; at most one of them is called with a given cause, and on_death at most once.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/mailbox.h"
#include "actors/peer_watch.h"

namespace convoke {

struct SupervisorPeer {
  PeerIdentity identity;
  std::string endpoint;  ///< Supervisor::endpoint() of that rank
};

struct SupervisorOptions {
  PeerIdentity self;
  std::string bind = "tcp://127.0.0.1:*";  ///< where others find this rank
  PeerWatchOptions watch;
  std::chrono::milliseconds heartbeat{500};
  bool handle_signals = true;  ///< SIGINT and SIGTERM
  /// After the first signal: how long to wait for news of a dead rank, because a launcher sends
  /// SIGTERM to all when one has died.
  std::chrono::milliseconds signal_news{300};
  std::chrono::milliseconds failure_news{300};  ///< the same after fail()
  std::chrono::milliseconds election{600};      ///< for lower ranks to answer when rank 0 has died
  /// From the message to on_death when rank 0 has died: others must find us alive until then.
  std::chrono::milliseconds afterglow{1500};

  /// A rank died or failed; the message has been printed, here or elsewhere. The job must end now.
  std::function<void(const std::string& message)> on_death;
  /// First SIGINT or SIGTERM, and nobody is known to have died: finish in good order. The second
  /// signal ends the process on the spot.
  std::function<void(int signal)> on_shutdown;
  /// Default: one line on standard error.
  std::function<void(const std::string& line)> print;
};

class Supervisor {
 public:
  explicit Supervisor(SupervisorOptions options);  ///< throws Error(kResource) if it cannot bind
  ~Supervisor();                                   ///< leave()
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  const std::string& endpoint() const;

  /// `peers[r]` is rank r, this one included. With one rank only signals are left to handle.
  void start(std::vector<SupervisorPeer> peers);

  /// This rank cannot go on: tells the job why. Returns at once; on_death follows.
  void fail(const std::string& reason);

  /// Says goodbye and stops; afterwards no callback is called. Not from a callback.
  void leave();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoke
