// Mailboxes and links over ZeroMQ: a mailbox is a bound ROUTER, a link a connected DEALER. Frames:
// [message] or [message, attachment]; the router's identity frame in front is the PeerId.
//
// Endpoints:
//   inproc://NAME      threads of this process
//   ipc://*            a socket file in a private directory, which is removed with the mailbox
//   ipc://PATH
//   tcp://ADDRESS:*    a free port on that address or interface; endpoints() says which
//
// One ZeroMQ context serves the whole process while any socket lives. Waits end at their
// deadline to the microsecond, not to ZeroMQ's millisecond.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "actors/mailbox.h"

namespace convoke {

struct ZmqOptions {
  int high_water = 4096;  ///< messages queued per peer; beyond, send() returns false
  std::chrono::milliseconds linger{500};  ///< for unsent messages when the socket closes
  /// How long a receiver looks before it sleeps. Only for receivers with a core to themselves:
  /// where threads share cores, spinning keeps the awaited sender from running.
  std::chrono::microseconds spin{0};
  std::chrono::milliseconds heartbeat{1000};  ///< of the connection itself (ZMTP PING)
  std::chrono::milliseconds silence{10000};   ///< then the connection counts as broken
};

/// Throws Error(kUsage) for an endpoint that cannot be understood, Error(kResource) for one that
/// cannot be bound.
std::unique_ptr<Mailbox> make_zmq_mailbox(const std::vector<std::string>& endpoints,
                                          const ZmqOptions& options = {});

/// Connects in the background, again and again; a mailbox that is not there yet is no error.
std::unique_ptr<Link> make_zmq_link(const std::string& endpoint, const ZmqOptions& options = {});

}  // namespace convoke
