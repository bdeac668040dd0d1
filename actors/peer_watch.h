// Who has died? The supervisor's policy, without sockets and with the caller's clock.
//
// Only what this process itself saw on its own steady clock counts, so clocks of hosts may differ
// as they like. Heartbeats come from supervisor threads, so a rank that computes for long is alive.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace convoke {

struct PeerIdentity {
  int32_t rank = 0;
  std::string host;
  std::string role;  ///< "shard 1 of replica 0"
};

struct PeerWatchOptions {
  using Duration = std::chrono::steady_clock::duration;
  Duration silence = std::chrono::seconds(5);  ///< without a heartbeat
  /// From a lost connection to death: a goodbye may still be queued, or the peer come back.
  Duration grace = std::chrono::milliseconds(150);
  Duration join = std::chrono::seconds(60);  ///< until the first heartbeat of a peer
  /// A longer gap between two checks was our own absence (stopped, starved, suspended): the peers
  /// are not blamed for it.
  Duration stall = std::chrono::seconds(1);
};

class PeerWatch {
 public:
  using Time = std::chrono::steady_clock::time_point;

  struct Death {
    PeerIdentity peer;
    std::string reason;
  };

  PeerWatch(std::vector<PeerIdentity> peers, PeerWatchOptions options, Time now);

  void heard(int32_t rank, Time now);
  void connection_lost(int32_t rank, Time now);
  void left(int32_t rank);  ///< it said goodbye

  /// The first death among the peers, if any; to be called after all that arrived was reported.
  std::optional<Death> check(Time now);

  const PeerIdentity* find(int32_t rank) const;
  bool watching() const;  ///< whether any peer has not left
  bool doubtful() const;  ///< whether a connection is lost and its grace not yet over

 private:
  struct Peer {
    PeerIdentity identity;
    Time heard;
    std::optional<Time> lost;
    bool joined = false;
    bool left = false;
  };
  Peer* find_peer(int32_t rank);

  std::vector<Peer> peers_;
  PeerWatchOptions options_;
  Time last_check_;
};

/// "rank 1 (host h2, shard 1 of replica 0)"
std::string describe(const PeerIdentity& peer);

}  // namespace convoke
