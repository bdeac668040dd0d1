#include "actors/peer_watch.h"

#include <fmt/format.h>

#include <algorithm>

namespace convoke {

std::string describe(const PeerIdentity& peer) {
  const std::string host = peer.host.empty() ? "unknown host" : "host " + peer.host;
  const std::string role = peer.role.empty() ? "" : ", " + peer.role;
  return fmt::format("rank {} ({}{})", peer.rank, host, role);
}

PeerWatch::PeerWatch(std::vector<PeerIdentity> peers, PeerWatchOptions options, Time now)
    : options_(options), last_check_(now) {
  for (PeerIdentity& identity : peers) peers_.push_back({std::move(identity), now, {}});
}

PeerWatch::Peer* PeerWatch::find_peer(int32_t rank) {
  const auto peer =
      std::ranges::find_if(peers_, [&](const Peer& p) { return p.identity.rank == rank; });
  return peer == peers_.end() ? nullptr : &*peer;
}

const PeerIdentity* PeerWatch::find(int32_t rank) const {
  const auto peer =
      std::ranges::find_if(peers_, [&](const Peer& p) { return p.identity.rank == rank; });
  return peer == peers_.end() ? nullptr : &peer->identity;
}

bool PeerWatch::watching() const {
  return std::ranges::any_of(peers_, [](const Peer& p) { return !p.left; });
}

bool PeerWatch::doubtful() const {
  return std::ranges::any_of(peers_, [](const Peer& p) { return p.lost && !p.left; });
}

void PeerWatch::heard(int32_t rank, Time now) {
  if (Peer* peer = find_peer(rank)) {
    peer->heard = now;
    peer->joined = true;
    peer->lost.reset();
  }
}

void PeerWatch::connection_lost(int32_t rank, Time now) {
  Peer* peer = find_peer(rank);
  if (peer && !peer->lost) peer->lost = now;
}

void PeerWatch::left(int32_t rank) {
  if (Peer* peer = find_peer(rank)) peer->left = true;
}

std::optional<PeerWatch::Death> PeerWatch::check(Time now) {
  if (now - last_check_ > options_.stall) {
    const auto absence = now - last_check_;
    for (Peer& peer : peers_) {
      peer.heard += absence;
      if (peer.lost) *peer.lost += absence;
    }
  }
  last_check_ = now;
  // When several are gone (a host, or the launcher is already clearing up), the first one is news.
  const Peer* first = nullptr;
  Time first_time = Time::max();
  for (const Peer& peer : peers_) {
    if (peer.left) continue;
    const bool lost = peer.lost && now - *peer.lost >= options_.grace;
    const bool silent = now - peer.heard >= (peer.joined ? options_.silence : options_.join);
    if (!lost && !silent) continue;
    const Time since = lost ? *peer.lost : peer.heard;
    if (since < first_time) {
      first = &peer;
      first_time = since;
    }
  }
  if (!first) return std::nullopt;
  const auto seconds = [&](Time since) {
    return std::chrono::duration<double>(now - since).count();
  };
  const bool lost = first->lost && now - *first->lost >= options_.grace;
  if (lost) return Death{first->identity, "died: connection lost"};
  if (!first->joined) {
    return Death{first->identity,
                 fmt::format("did not report within {:.0f} s of the start", seconds(first->heard))};
  }
  return Death{first->identity,
               fmt::format("died: nothing heard for {:.1f} s", seconds(first->heard))};
}

}  // namespace convoke
