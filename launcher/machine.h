// What the figures of a measurement were taken on.
#pragma once

#include <string>

namespace convoke {

/// Processor, cores this process may use, memory. No host name: reports are passed on.
std::string describe_machine();

/// "2026-11-22 02:45 UTC".
std::string utc_now();

}  // namespace convoke
