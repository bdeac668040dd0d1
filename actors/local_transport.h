// Mailboxes and links in memory, for tests of actors: no sockets, no threads of its own, the same
// interleaving every time, and faults where the test wants them. Messages pass through the codec
// as on a real wire. Every end may be used from a thread of its own.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "actors/mailbox.h"

namespace convoke {

/// What happens to the `index`-th message (from 0) of one direction of one link.
struct LocalFault {
  enum class Kind {
    kDrop,
    kDuplicate,
    kDelay,    ///< overtaken by the next `amount` messages (1 = swapped with the next one)
    kCorrupt,  ///< byte `amount` (modulo the size) is flipped
    kTruncate  ///< the last `amount` bytes are cut off
  };
  Kind kind = Kind::kDrop;
  uint64_t index = 0;
  uint32_t amount = 1;
};

namespace detail {
class LocalQueue;
struct LocalHub;
}  // namespace detail

/// A set of named mailboxes; one per test. Mailboxes and links may outlive it.
class LocalNetwork {
 public:
  std::unique_ptr<Mailbox> make_mailbox(const std::string& name);
  /// The peer of the n-th link of the network is known to mailboxes as "link-n", from 0. The
  /// mailbox must exist.
  std::unique_ptr<Link> make_link(const std::string& mailbox,
                                  std::vector<LocalFault> to_mailbox = {},
                                  std::vector<LocalFault> to_link = {});

 private:
  std::map<std::string, std::shared_ptr<detail::LocalHub>> hubs_;
  int links_ = 0;
};

}  // namespace convoke
