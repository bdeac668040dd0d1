#pragma once

#include <atomic>

namespace convoke {

/// From now on the first SIGINT or SIGTERM only sets what is returned here to its number; the
/// second one ends the process as if this had not been called. SIGPIPE is ignored: writing fails.
const std::atomic<int>& watch_interrupts();

}  // namespace convoke
