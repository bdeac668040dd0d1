// What a comparison of drafters found. Pure: measurements in, figures out.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "launcher/engine.h"

namespace convoke {

/// One prompt run once with one drafter.
struct BenchSample {
  RequestStats stats;
  std::vector<OutputToken> tokens;
  FinishReason finish = FinishReason::kNone;
};

/// samples[drafter][prompt][repeat]
using BenchSamples = std::vector<std::vector<std::vector<BenchSample>>>;

struct BenchRow {
  std::string drafter;
  double tokens_per_second = 0;  ///< tokens after the first ÷ time after the first, all prompts
  double output_throughput = 0;  ///< all tokens ÷ all time, prompts included
  double first_token_ms = 0;     ///< median over prompts
  double speedup = 1;            ///< decoding time of the reference ÷ of this, summed over prompts
  double speedup_low = 1;        ///< of the prompts' own speed-ups: the quartile below,
  double speedup_median = 1;
  double speedup_high = 1;  ///< and the one above
  RequestStats stats;       ///< summed over prompts and repeats
  int differing = 0;        ///< outputs that are not those of the reference
};

struct BenchReport {
  std::vector<BenchRow> rows;  ///< as asked for
  size_t reference = 0;        ///< the row of plain decoding
  int prompts = 0;
  int repeats = 0;
  std::optional<FloorReport> floor;
  /// Floor of a pass over one row ÷ time per token of plain decoding; 0 = not known.
  double floor_ratio() const;
};

/// Of several repeats of a prompt the median time counts. `reference` is the drafter to compare
/// with. Outputs are compared token by token, and by digest where rows have one.
BenchReport make_bench_report(const std::vector<std::string>& drafters, const BenchSamples& samples,
                              size_t reference);

nlohmann::ordered_json bench_json(const BenchReport& report);
std::string bench_text(const BenchReport& report);

/// Linear interpolation between order statistics; `values` is not empty, 0 <= share <= 1.
double quantile(std::vector<double> values, double share);

}  // namespace convoke
