// Point-to-point messages between ranks that share no memory: what the block communicator needs of
// MPI, and no more.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "kernels/check.h"
#include "kernels/function_ref.h"
#include "parallel/wait_watch.h"

namespace convoke {

/// One message to and one from `peer`. A null pointer leaves that direction out; zero bytes do not.
struct Transfer {
  int peer = 0;  ///< rank in the communicator
  const void* out = nullptr;
  size_t out_bytes = 0;
  void* in = nullptr;
  size_t in_bytes = 0;  ///< room; the message may be shorter
};

/// Messages between two ranks arrive in the order they were sent. Transfers are for one thread at a
/// time; aborts and the board are for any.
class PeerLink : public WaitBoard {
 public:
  static constexpr int kDone = -1;
  static constexpr int kStopped = -2;
  static constexpr int kFailed = -3;

  /// Does all transfers at once and returns kDone, or kStopped when `stopped` said so (asked every
  /// now and then, so it also keeps the time), or kFailed when the transport reported an error.
  /// After anything but kDone the link must not be used for transfers again.
  virtual int run(std::span<const Transfer> transfers, FunctionRef<bool()> stopped) = 0;
  /// From `stopped`: a peer whose transfer is not over, or kDone.
  virtual int awaited() = 0;

  /// The transport's error after kFailed.
  virtual std::string failure() const = 0;

  /// Tells the other ranks of the communicator, without waiting for them.
  virtual void send_abort(const Error& error) noexcept = 0;
  /// The first abort message that has come in, once.
  virtual std::optional<Error> take_abort() = 0;
};

}  // namespace convoke
