// Where a drafter runs when it has no rank of its own: on a thread of this process, or in a child
// process of it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/drafter.h"

namespace convoke {

class DrafterHost {
 public:
  virtual ~DrafterHost() = default;  ///< ends the drafter, orderly if it can be
};

/// `endpoints` are the coordinator's: the first is for threads of this process, the last for
/// others. `placement`: auto, thread or process.
std::unique_ptr<DrafterHost> make_drafter_host(const DrafterSpec& spec,
                                               const std::string& placement,
                                               const std::vector<std::string>& endpoints,
                                               const DraftContext& context);

/// A child process of this one (a drafter rank's, say), restarted when it dies.
std::unique_ptr<DrafterHost> make_drafter_process(const DrafterSpec& spec,
                                                  const std::string& endpoint,
                                                  const DraftContext& context, int rank,
                                                  const std::string& role);

}  // namespace convoke
