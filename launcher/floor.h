// What the hardware allows, measured beside what the engine achieves.
#pragma once

#include <span>

#include "launcher/engine.h"
#include "launcher/replica.h"

namespace convoke {

/// Measures, in this process and now: the read bandwidth over a buffer as large as one pass's
/// weights, the rate of a large bf16 matrix product, and passes of the idle engine over each of
/// `row_counts` rows (a committed token and a one-level tree of row - 1 nodes). The floor of a pass
/// is the larger of its weight bytes over the bandwidth and its operations over the rate. Exchanges
/// the drafter; the caller sets its own again.
FloorReport measure_floor(Engine& engine, const ReplicaSetup& setup,
                          std::span<const int> row_counts);

}  // namespace convoke
