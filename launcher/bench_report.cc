#include "launcher/bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "launcher/drafter_list.h"
#include "launcher/speculation_stats.h"

namespace convoke {

namespace {

using nlohmann::ordered_json;

double decode_seconds(const RequestStats& stats) {
  return stats.total_seconds - stats.first_token_seconds;
}

template <typename F>
double median_of(const std::vector<BenchSample>& repeats, F&& value) {
  std::vector<double> values;
  for (const BenchSample& sample : repeats) values.push_back(value(sample.stats));
  return quantile(std::move(values), 0.5);
}

std::optional<OutputDifference> find_difference(const BenchSample& got,
                                                const BenchSample& expected) {
  OutputDifference difference;
  const size_t common = std::min(got.tokens.size(), expected.tokens.size());
  for (size_t i = 0; i < common; ++i) {
    const OutputToken &a = got.tokens[i], &b = expected.tokens[i];
    difference.position = i;
    if (a.token != b.token) {
      difference.text = fmt::format("{} instead of {}", a.token, b.token);
      return difference;
    }
    if (a.digest != b.digest && a.digest != 0 && b.digest != 0) {
      difference.text = "other logits";
      return difference;
    }
  }
  difference.position = common;
  if (got.tokens.size() != expected.tokens.size()) {
    difference.text =
        fmt::format("{} tokens instead of {}", got.tokens.size(), expected.tokens.size());
    return difference;
  }
  if (got.finish == expected.finish) return std::nullopt;
  difference.text = "ends for another reason";
  return difference;
}

/// Places at which two outputs have different tokens, or one of them none.
int64_t count_differing(const BenchSample& got, const BenchSample& expected) {
  const size_t common = std::min(got.tokens.size(), expected.tokens.size());
  int64_t count = int64_t(std::max(got.tokens.size(), expected.tokens.size()) - common);
  for (size_t i = 0; i < common; ++i) count += got.tokens[i].token != expected.tokens[i].token;
  return count;
}

void compare_outputs(const BenchMeasurement& measured, const BenchMeasurement& reference,
                     const std::vector<std::string>& names, BenchRow& row) {
  for (size_t p = 0; p < measured.prompts.size(); ++p) {
    for (const BenchSample& sample : measured.prompts[p]) {
      const BenchSample& expected = reference.prompts[p].front();
      auto difference = find_difference(sample, expected);
      row.tokens_compared +=
          int64_t(difference ? difference->position + 1 : expected.tokens.size());
      if (!difference) continue;
      ++row.differing;
      row.tokens_differing += count_differing(sample, expected);
      if (row.first_difference) continue;
      difference->prompt = p < names.size() ? names[p] : fmt::format("{}", p + 1);
      row.first_difference = std::move(difference);
    }
  }
}

/// Sums over prompts, and the prompts' own speed-ups in `speedups`.
void add_up(const BenchMeasurement& measured, const BenchMeasurement& reference, BenchRow& row,
            std::vector<double>& speedups) {
  double total = 0;
  int64_t decoded = 0, tokens = 0;
  std::vector<double> first_tokens;
  for (size_t p = 0; p < measured.prompts.size(); ++p) {
    const std::vector<BenchSample>& repeats = measured.prompts[p];
    const double seconds = median_of(repeats, decode_seconds);
    const double plain = median_of(reference.prompts[p], decode_seconds);
    row.seconds += seconds;
    if (seconds > 0 && plain > 0) speedups.push_back(plain / seconds);
    total += median_of(repeats, [](const auto& s) { return s.total_seconds; });
    const auto count = int64_t(repeats.front().tokens.size());
    tokens += count;
    decoded += std::max<int64_t>(0, count - 1);
    first_tokens.push_back(median_of(
        repeats, [](const auto& s) { return 1000 * (s.first_token_seconds - s.queue_seconds); }));
    for (const BenchSample& sample : repeats) add_stats(row.stats, sample.stats);
    row.requests += int64_t(repeats.size());
  }
  row.first_token_ms = quantile(std::move(first_tokens), 0.5);
  if (measured.wall_seconds.empty()) {
    if (row.seconds > 0) row.tokens_per_second = double(decoded) / row.seconds;
    if (total > 0) row.output_throughput = double(tokens) / total;
    return;
  }
  row.seconds = quantile(measured.wall_seconds, 0.5);
  if (row.seconds > 0) row.tokens_per_second = double(tokens) / row.seconds;
  row.output_throughput = row.tokens_per_second;
  speedups.clear();
  for (size_t r = 0; r < measured.wall_seconds.size(); ++r) {
    const double seconds = measured.wall_seconds[r], plain = reference.wall_seconds[r];
    if (seconds > 0 && plain > 0) speedups.push_back(plain / seconds);
  }
}

BenchRow make_row(const BenchMeasurement& measured, const BenchMeasurement& reference,
                  const std::vector<std::string>& names) {
  CONVOKE_CHECK_EQ(measured.prompts.size(), reference.prompts.size());
  BenchRow row;
  std::vector<double> speedups;
  add_up(measured, reference, row, speedups);
  compare_outputs(measured, reference, names, row);
  if (!speedups.empty()) {
    row.speedup_low = quantile(speedups, 0.25);
    row.speedup_median = quantile(speedups, 0.5);
    row.speedup_high = quantile(speedups, 0.75);
  }
  return row;
}

/// What a rival's speed is compared with: the first of the method whose weights mean something.
const BenchRow* find_baseline(const BenchPoint& point, const std::vector<DrafterSpec>& drafters,
                              std::string_view method) {
  for (size_t d = 0; d < drafters.size(); ++d) {
    if (drafters[d].method == method && !has_random_weights(drafters[d])) return &point.rows[d];
  }
  return nullptr;
}

double ratio(double seconds, double of) {
  return of > 0 ? seconds / of : 1;
}

ordered_json floor_json(const BenchReport& report) {
  ordered_json rows = ordered_json::array();
  for (const FloorReport::Pass& pass : report.floor->passes) {
    rows.push_back({{"rows", pass.rows}, {"ms", pass.ms}, {"floor_ms", pass.floor_ms}});
  }
  return {{"bandwidth_gb_s", report.floor->read_bandwidth_gb_s},
          {"matmul_gflop_s", report.floor->matmul_gflop_s},
          {"bytes_per_token", report.floor->bytes_per_pass},
          {"ratio", report.floor_ratio()},
          {"rows", std::move(rows)}};
}

ordered_json difference_json(const BenchRow& row) {
  if (!row.first_difference) return nullptr;
  return {{"prompt", row.first_difference->prompt},
          {"position", row.first_difference->position},
          {"text", row.first_difference->text}};
}

ordered_json split_json(const StepTime& time, double scale) {
  return {{"draft", time.draft * scale},
          {"target", time.target * scale},
          {"communication", time.communication * scale},
          {"rest", time.rest * scale}};
}

ordered_json row_json(const BenchRow& row) {
  const StepTime step = step_time(row.stats);
  ordered_json json = {
      {"drafter", row.drafter},
      {"label", row.label},
      {"random_weights", row.random_weights},
      {"tokens_per_second", row.tokens_per_second},
      {"output_throughput", row.output_throughput},
      {"median_ttft_ms", row.first_token_ms},
      {"tokens_per_pass", tokens_per_pass(row.stats, row.requests)},
      {"mean_acceptance_length", mean_acceptance_length(row.stats)},
      {"acceptance_rate", acceptance_rate(row.stats)},
      {"acceptance_by_depth", acceptance_by_depth(row.stats)},
      {"speedup", row.speedup},
      {"speedup_quartiles", {row.speedup_low, row.speedup_median, row.speedup_high}}};
  if (row.over_lookahead) json["speedup_over_lookahead"] = *row.over_lookahead;
  if (row.over_medusa) json["speedup_over_medusa"] = *row.over_medusa;
  json.update({{"num_drafts", row.stats.drafts},
               {"num_draft_tokens", row.stats.draft_tokens},
               {"num_accepted_tokens", row.stats.accepted_tokens},
               {"late_drafts", row.stats.late_drafts},
               {"draft_passes", row.stats.draft_passes},
               {"hidden_draft_share", hidden_share(row.stats)},
               {"outcomes_in_tree", outcomes_in_tree(row.stats)},
               {"step_ms", split_json(step, 1)},
               {"step_share", split_json(step, step.total() > 0 ? 1 / step.total() : 0)},
               {"identical_to_none", row.differing == 0},
               {"differing_outputs", row.differing},
               {"compared_tokens", row.tokens_compared},
               {"differing_tokens", row.tokens_differing},
               {"first_difference", difference_json(row)}});
  return json;
}

}  // namespace

double quantile(std::vector<double> values, double share) {
  CONVOKE_CHECK(!values.empty());
  std::ranges::sort(values);
  const double place = share * double(values.size() - 1);
  const auto below = size_t(place);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (values[above] - values[below]) * (place - double(below));
}

std::string OutputDifference::describe() const {
  return fmt::format("prompt '{}', token {}: {}", prompt, position + 1, text);
}

double BenchReport::floor_ratio() const {
  if (!floor || points.empty() || points[0].rows.empty() || together) return 0;
  const double rate = points[0].rows[points[0].reference].tokens_per_second;
  for (const FloorReport::Pass& pass : floor->passes) {
    if (pass.rows == 1) return pass.floor_ms * rate / 1000;
  }
  return 0;
}

int BenchReport::differing() const {
  int count = 0;
  for (const BenchPoint& point : points) {
    for (const BenchRow& row : point.rows) count += row.differing;
  }
  return count;
}

BenchPoint make_bench_point(const std::vector<DrafterSpec>& drafters,
                            const std::vector<const BenchMeasurement*>& measured, size_t reference,
                            const std::vector<std::string>& names) {
  CONVOKE_CHECK_EQ(drafters.size(), measured.size());
  CONVOKE_CHECK_LT(reference, measured.size());
  CONVOKE_CHECK(!measured[reference]->prompts.empty());
  BenchPoint point;
  point.reference = reference;
  const std::vector<std::string> labels = drafter_labels(drafters);
  for (size_t d = 0; d < drafters.size(); ++d) {
    BenchRow& row = point.rows.emplace_back(make_row(*measured[d], *measured[reference], names));
    row.drafter = drafters[d].text();
    row.label = labels[d];
    row.plain = drafters[d].method == "none";
    row.random_weights = has_random_weights(drafters[d]);
  }
  const BenchRow* lookahead = find_baseline(point, drafters, "lookahead");
  const BenchRow* medusa = find_baseline(point, drafters, "medusa");
  for (BenchRow& row : point.rows) {
    row.speedup = ratio(point.rows[reference].seconds, row.seconds);
    if (lookahead) row.over_lookahead = ratio(lookahead->seconds, row.seconds);
    if (medusa) row.over_medusa = ratio(medusa->seconds, row.seconds);
  }
  return point;
}

nlohmann::ordered_json bench_json(const BenchReport& report) {
  const BenchSubject& subject = report.subject;
  ordered_json json = {{"version", subject.version}, {"date", subject.date},
                       {"model", subject.model},     {"machine", subject.machine},
                       {"engine", subject.engine},   {"command", subject.command}};
  if (report.floor) json["floor"] = floor_json(report);
  json["prompts"] = report.prompts;
  json["repeats"] = report.repeats;
  json["sweeps"] = ordered_json::object();
  for (const Sweep& sweep : report.sweeps) json["sweeps"][sweep.name] = sweep.values;
  json["runs"] = ordered_json::array();
  for (const BenchPoint& point : report.points) {
    for (const BenchRow& row : point.rows) {
      ordered_json run = row_json(row);
      run["settings"] = ordered_json::object();
      for (const SweepSetting& setting : point.settings) {
        run["settings"][setting.name] = setting.value;
      }
      json["runs"].push_back(std::move(run));
    }
  }
  return json;
}

}  // namespace convoke
