// Settings that a benchmark runs over, `--sweep NAME=VALUES`, and the points they span.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/drafter.h"

namespace convoke {

struct Sweep {
  std::string name;                 ///< lookahead-tokens, temperature, ...
  std::vector<std::string> values;  ///< as they are shown; all different
  bool operator==(const Sweep&) const = default;
};

/// For --help and messages.
std::string sweep_names();

/// "lookahead-tokens=1..8", "temperature=0,0.5,1", "shared-noise=on,off". Throws Error(kUsage)
/// beginning with `flag`.
Sweep parse_sweep(std::string_view flag, const std::string& text);

/// At most two, of different names, few enough points, and for `lookahead-tokens` a drafter that
/// has such. Throws Error(kUsage).
void check_sweeps(std::string_view flag, const std::vector<Sweep>& sweeps,
                  const std::vector<DrafterSpec>& drafters);

/// Of the values of `batch`; 0 if that is not swept.
int largest_batch(const std::vector<Sweep>& sweeps);

struct SweepSetting {
  std::string name, value;
  bool operator==(const SweepSetting&) const = default;
};
using SweepPoint = std::vector<SweepSetting>;

/// Every combination, the last sweep's values fastest. One point without settings if there are no
/// sweeps.
std::vector<SweepPoint> sweep_points(const std::vector<Sweep>& sweeps);

/// "temperature 0.5, batch 4".
std::string point_text(const SweepPoint& point);

/// What one point makes of one drafter. Points that make the same of it need not measure it again.
struct BenchConfiguration {
  DrafterSpec drafter;
  std::optional<float> temperature;  ///< over the prompts' own
  int batch = 0;                     ///< sequences in flight; 0: one at a time, not swept

  bool same_drafter(const BenchConfiguration& other) const;
  bool operator==(const BenchConfiguration& other) const {
    return same_drafter(other) && temperature == other.temperature && batch == other.batch;
  }
};
BenchConfiguration configure(const DrafterSpec& drafter, const SweepPoint& point);

}  // namespace convoke
