// How actors reach each other. Two ends: a Mailbox, which many peers may write to (one per actor
// that is addressed by others), and a Link, a peer's connection to a mailbox.
//
// Contract: a Mailbox or Link is used by one thread. Sending never blocks: a full queue or an
// unreachable peer makes send() return false. Receiving waits at most until the deadline. A
// malformed message is logged and dropped, and counted; it never throws. No exception crosses.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "actors/messages.h"

namespace convoke {

using Clock = std::chrono::steady_clock;
using PeerId = std::string;

struct Letter {
  PeerId from;  ///< empty on a Link
  Message message;
};

class Mailbox {
 public:
  virtual ~Mailbox() = default;
  virtual bool send(const PeerId& to, const Message& message) = 0;
  virtual std::optional<Letter> receive(Clock::time_point deadline) = 0;
  virtual uint64_t dropped() const = 0;                    ///< malformed messages so far
  virtual std::vector<std::string> endpoints() const = 0;  ///< where peers connect (ports resolved)
};

class Link {
 public:
  virtual ~Link() = default;
  virtual bool send(const Message& message) = 0;
  virtual std::optional<Letter> receive(Clock::time_point deadline) = 0;
  virtual uint64_t dropped() const = 0;
};

}  // namespace convoke
