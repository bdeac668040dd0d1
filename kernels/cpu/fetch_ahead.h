// Fetching weights into the second-level cache while something else is computed, so that memory
// does not lie idle: kernels that read little take a few lines along at every step.
#pragma once

#include <cstddef>
#include <cstdint>

namespace convoke::cpu {

/// What one thread reads next, as ranges of memory in the order of use. Functions are static,
/// because files compiled for different instruction sets include this.
struct FetchAhead {
  static constexpr int kRanges = 2;
  const std::byte* next[kRanges] = {};
  int64_t lines[kRanges] = {};
};

/// Asks for up to `count` lines more. About 32 at a time are fetched without making the caller
/// wait.
static inline void fetch_lines(FetchAhead& ahead, int64_t count) {
  for (int range = 0; range < FetchAhead::kRanges && count > 0; ++range) {
    int64_t now = ahead.lines[range] < count ? ahead.lines[range] : count;
    const std::byte* line = ahead.next[range];
    ahead.lines[range] -= now;
    count -= now;
    for (; now > 0; --now, line += 64) __builtin_prefetch(line, 0, 2);
    ahead.next[range] = line;
  }
}

}  // namespace convoke::cpu
