// How actors reach each other. Two ends: a Mailbox, which many peers may write to (one per actor
// that is addressed by others), and a Link, a peer's connection to a mailbox.
//
// Contract: a Mailbox or Link is used by one thread. Sending never blocks: a full queue or an
// unreachable peer makes send() return false. Receiving waits at most until the deadline. A
// malformed message is logged and dropped, and counted; it never throws. No exception crosses.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "actors/messages.h"

namespace convoke {

using Clock = std::chrono::steady_clock;
using PeerId = std::string;

struct Letter {
  PeerId from;  ///< empty on a Link
  Message message;
  std::vector<std::byte> attachment;  ///< raw second frame (features), if any
};

class Mailbox {
 public:
  virtual ~Mailbox() = default;
  /// False when the peer is unknown or gone, its queue is full, or the message is too large.
  virtual bool send(const PeerId& to, const Message& message,
                    std::span<const std::byte> attachment = {}) = 0;
  virtual std::optional<Letter> receive(Clock::time_point deadline) = 0;
  virtual uint64_t dropped() const = 0;                    ///< malformed messages so far
  virtual std::vector<std::string> endpoints() const = 0;  ///< where peers connect (ports resolved)
  /// Peers whose connection ended since the last call. Peers of the same process (inproc) never
  /// appear here; nor do those that never wrote.
  virtual std::vector<PeerId> departed() { return {}; }
};

class Link {
 public:
  virtual ~Link() = default;
  virtual bool send(const Message& message, std::span<const std::byte> attachment = {}) = 0;
  virtual std::optional<Letter> receive(Clock::time_point deadline) = 0;
  virtual uint64_t dropped() const = 0;
  /// Whether the mailbox can be reached just now, as far as this end knows. A link reconnects by
  /// itself; what was sent meanwhile may be lost.
  virtual bool connected() { return true; }
  /// Bytes that need not be a message; for tests of faults.
  virtual bool send_raw(std::span<const std::byte> bytes) = 0;
};

}  // namespace convoke
