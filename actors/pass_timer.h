// What passes of the target take, measured at start-up.
#pragma once

#include <vector>

#include "actors/coordinator.h"
#include "runtime/pass_cost.h"
#include "runtime/scheduler.h"

namespace convoke {

/// Runs passes of 1, 2, 4, ... 64 rows (as far as a step may have) over a short made-up sequence,
/// and leaves no trace of it: their plans are step 0, which no scheduler's is. Only while no
/// sequence is live: it uses place 0 and the first blocks. As many points of each row count as
/// passes were timed; empty if the cache is too small.
std::vector<PassCost::Point> time_passes(StepRunner& runner, const SchedulerOptions& options);

}  // namespace convoke
