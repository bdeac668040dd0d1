// The outside world of a process of ours: terminal, signals, log.
#pragma once

#include "launcher/command_context.h"

namespace convoke {

/// Sends the log to standard error, watches signals and asks the terminal. Without `start_engine`
/// and what else a command may run. Throws Error(kUsage) for a launcher's environment that
/// contradicts itself.
CommandContext process_context();

}  // namespace convoke
