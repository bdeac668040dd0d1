// What a comparison of drafters found. Pure: measurements in, figures out.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launcher/bench_sweep.h"
#include "launcher/engine.h"

namespace convoke {

/// One prompt run once with one drafter.
struct BenchSample {
  RequestStats stats;
  std::vector<OutputToken> tokens;
  FinishReason finish = FinishReason::kNone;
};

/// One configuration of a drafter, measured.
struct BenchMeasurement {
  std::vector<std::vector<BenchSample>> prompts;  ///< [prompt][repeat]
  /// [repeat] seconds for all prompts; only where several were in flight together.
  std::vector<double> wall_seconds;
};

/// Where an output parts from plain decoding's.
struct OutputDifference {
  std::string prompt;
  size_t position = 0;  ///< of the first token that differs
  std::string text;     ///< "17 instead of 4", ...
  std::string describe() const;
};

struct BenchRow {
  std::string drafter;          ///< as it was given
  std::string label;            ///< short, and no other row's
  bool plain = false;           ///< plain decoding
  bool random_weights = false;  ///< its outputs are right, its acceptance means nothing
  int64_t requests = 0;         ///< prompts times repeats
  double seconds = 0;           ///< what speed-ups compare: decoding, or all if several in flight
  double tokens_per_second = 0;
  double output_throughput = 0;  ///< all tokens ÷ all time, prompts included
  double first_token_ms = 0;     ///< median over prompts
  double speedup = 1;            ///< seconds of plain decoding ÷ of this
  double speedup_low = 1;  ///< of the prompts' (or repeats') own speed-ups: the quartile below,
  double speedup_median = 1;
  double speedup_high = 1;  ///< and the one above
  /// Seconds of the first lookahead / medusa drafter with weights that mean something ÷ of this.
  std::optional<double> over_lookahead, over_medusa;
  RequestStats stats;  ///< summed over prompts and repeats
  int differing = 0;   ///< outputs that are not those of plain decoding
  /// Tokens that follow the same text in both: up to the first that differs, or to the end.
  int64_t tokens_compared = 0;
  /// Places where one output has another token than the other, or none; what follows a first
  /// difference mostly does.
  int64_t tokens_differing = 0;
  std::optional<OutputDifference> first_difference;
};

struct BenchPoint {
  SweepPoint settings;  ///< none unless something was swept
  std::vector<BenchRow> rows;
  size_t reference = 0;  ///< the row of plain decoding

  bool has_lookahead() const { return !rows.empty() && rows[0].over_lookahead.has_value(); }
  bool has_medusa() const { return !rows.empty() && rows[0].over_medusa.has_value(); }
};

/// What was measured on what: for whoever reads the figures later.
struct BenchSubject {
  std::string version, date, model, machine, engine, command;
};

struct BenchReport {
  BenchSubject subject;
  std::vector<Sweep> sweeps;
  std::vector<BenchPoint> points;  ///< one if nothing was swept
  int prompts = 0;
  int repeats = 0;
  bool together = false;  ///< several prompts were in flight: the whole time counts
  /// Outputs may differ: sums depend on what shares a pass (--gpu-matmul fast).
  bool may_differ = false;
  std::optional<FloorReport> floor;
  /// Floor of a pass over one row ÷ time per token of plain decoding; 0 = not known.
  double floor_ratio() const;
  int differing() const;  ///< of all rows
};

/// Of several repeats of a prompt the median time counts. Outputs are compared with those of
/// drafters[reference], token by token, and by digest where rows have one. `names` are the
/// prompts', for messages.
BenchPoint make_bench_point(const std::vector<DrafterSpec>& drafters,
                            const std::vector<const BenchMeasurement*>& measured, size_t reference,
                            const std::vector<std::string>& names);

nlohmann::ordered_json bench_json(const BenchReport& report);
std::string bench_text(const BenchReport& report);

/// The same words in every form of the report.
namespace bench_words {
inline constexpr char kRandomWeights[] = "random weights: cost only";
std::string output_text(const BenchRow& row);  ///< "identical" or "3 DIFFER"
/// "2 of 10 outputs differ, 2.1 of 1000 tokens after the same text; 40 tokens in all"
std::string difference_text(const BenchRow& row);
std::string counting_text(const BenchReport& report);
}  // namespace bench_words

/// Linear interpolation between order statistics; `values` is not empty, 0 <= share <= 1.
double quantile(std::vector<double> values, double share);

}  // namespace convoke
