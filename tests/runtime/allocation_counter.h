// How often a test program has called operator new. Its source replaces the operator, so it is
// linked only into the programs that count.
#pragma once

#include <atomic>
#include <cstdint>

extern std::atomic<int64_t> allocations;
