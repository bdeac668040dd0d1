#include "launcher/bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "launcher/speculation_stats.h"
#include "launcher/table.h"

namespace convoke {

namespace {

double decode_seconds(const RequestStats& stats) {
  return stats.total_seconds - stats.first_token_seconds;
}

template <typename F>
double median_of(const std::vector<BenchSample>& repeats, F&& value) {
  std::vector<double> values;
  for (const BenchSample& sample : repeats) values.push_back(value(sample.stats));
  return quantile(std::move(values), 0.5);
}

bool same_output(const BenchSample& a, const BenchSample& b) {
  const auto same = [](const OutputToken& x, const OutputToken& y) {
    return x.token == y.token && (x.digest == y.digest || x.digest == 0 || y.digest == 0);
  };
  return a.finish == b.finish && std::ranges::equal(a.tokens, b.tokens, same);
}

BenchRow make_row(const std::vector<std::vector<BenchSample>>& prompts,
                  const std::vector<std::vector<BenchSample>>& reference) {
  BenchRow row;
  double decode = 0, total = 0, reference_decode = 0;
  int64_t decoded = 0, tokens = 0;
  std::vector<double> speedups, first_tokens;
  for (size_t p = 0; p < prompts.size(); ++p) {
    const double seconds = median_of(prompts[p], decode_seconds);
    const double reference_seconds = median_of(reference[p], decode_seconds);
    decode += seconds;
    reference_decode += reference_seconds;
    total += median_of(prompts[p], [](const auto& s) { return s.total_seconds; });
    const auto count = int64_t(prompts[p].front().tokens.size());
    tokens += count;
    decoded += std::max<int64_t>(0, count - 1);
    first_tokens.push_back(median_of(prompts[p], [](const auto& s) {
      return 1000 * (s.first_token_seconds - s.queue_seconds);
    }));
    if (seconds > 0 && reference_seconds > 0) speedups.push_back(reference_seconds / seconds);
    for (const BenchSample& sample : prompts[p]) {
      add_stats(row.stats, sample.stats);
      row.differing += same_output(sample, reference[p].front()) ? 0 : 1;
    }
  }
  if (decode > 0) row.tokens_per_second = double(decoded) / decode;
  if (total > 0) row.output_throughput = double(tokens) / total;
  row.first_token_ms = quantile(first_tokens, 0.5);
  if (decode > 0) row.speedup = reference_decode / decode;
  if (!speedups.empty()) {
    row.speedup_low = quantile(speedups, 0.25);
    row.speedup_median = quantile(speedups, 0.5);
    row.speedup_high = quantile(speedups, 0.75);
  }
  return row;
}

std::string floor_text(const BenchReport& report) {
  const FloorReport& floor = *report.floor;
  std::string text = fmt::format(
      "Floor: memory reads at {:.1f} GB/s, large matrix products at {:.0f} GFLOP/s (measured in "
      "this run).\n",
      floor.read_bandwidth_gb_s, floor.matmul_gflop_s);
  const double rate = report.rows[report.reference].tokens_per_second;
  if (rate > 0) {
    text += fmt::format("Plain decoding reads {} per token, {:.1f} GB/s: {:.0f} % of its floor.\n",
                        format_bytes(double(floor.bytes_per_pass)),
                        double(floor.bytes_per_pass) * rate / 1e9, 100 * report.floor_ratio());
  }
  Table table({"pass of", "ms", "floor ms", "of floor", "against first"});
  for (const FloorReport::Pass& pass : floor.passes) {
    table.add_row({fmt::format("{} rows", pass.rows), fmt::format("{:.3f}", pass.ms),
                   fmt::format("{:.3f}", pass.floor_ms), format_share(pass.floor_ms, pass.ms),
                   floor.passes.front().ms > 0
                       ? fmt::format("{:.2f}x", pass.ms / floor.passes.front().ms)
                       : "-"});
  }
  return text + table.text();
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

double BenchReport::floor_ratio() const {
  if (!floor || rows.empty()) return 0;
  const double rate = rows[reference].tokens_per_second;
  for (const FloorReport::Pass& pass : floor->passes) {
    if (pass.rows == 1) return pass.floor_ms * rate / 1000;
  }
  return 0;
}

BenchReport make_bench_report(const std::vector<std::string>& drafters, const BenchSamples& samples,
                              size_t reference) {
  CONVOKE_CHECK_EQ(drafters.size(), samples.size());
  CONVOKE_CHECK_LT(reference, samples.size());
  CONVOKE_CHECK(!samples[reference].empty());
  BenchReport report;
  report.reference = reference;
  report.prompts = int(samples[reference].size());
  report.repeats = int(samples[reference].front().size());
  for (size_t d = 0; d < drafters.size(); ++d) {
    report.rows.push_back(make_row(samples[d], samples[reference]));
    report.rows.back().drafter = drafters[d];
  }
  return report;
}

nlohmann::ordered_json bench_json(const BenchReport& report) {
  using nlohmann::ordered_json;
  ordered_json json;
  if (report.floor) {
    ordered_json rows = ordered_json::array();
    for (const FloorReport::Pass& pass : report.floor->passes) {
      rows.push_back({{"rows", pass.rows}, {"ms", pass.ms}, {"floor_ms", pass.floor_ms}});
    }
    json["floor"] = {{"bandwidth_gb_s", report.floor->read_bandwidth_gb_s},
                     {"matmul_gflop_s", report.floor->matmul_gflop_s},
                     {"bytes_per_token", report.floor->bytes_per_pass},
                     {"ratio", report.floor_ratio()},
                     {"rows", std::move(rows)}};
  }
  json["prompts"] = report.prompts;
  json["repeats"] = report.repeats;
  json["runs"] = ordered_json::array();
  for (const BenchRow& row : report.rows) {
    const StepTime step = step_time(row.stats);
    json["runs"].push_back(
        {{"drafter", row.drafter},
         {"tokens_per_second", row.tokens_per_second},
         {"output_throughput", row.output_throughput},
         {"median_ttft_ms", row.first_token_ms},
         {"speedup", row.speedup},
         {"speedup_quartiles", {row.speedup_low, row.speedup_median, row.speedup_high}},
         {"mean_acceptance_length", mean_acceptance_length(row.stats)},
         {"acceptance_rate", acceptance_rate(row.stats)},
         {"acceptance_by_depth", acceptance_by_depth(row.stats)},
         {"num_drafts", row.stats.drafts},
         {"num_draft_tokens", row.stats.draft_tokens},
         {"num_accepted_tokens", row.stats.accepted_tokens},
         {"late_drafts", row.stats.late_drafts},
         {"step_ms",
          {{"draft", step.draft},
           {"target", step.target},
           {"communication", step.communication},
           {"rest", step.rest}}},
         {"identical_to_none", row.differing == 0},
         {"differing_outputs", row.differing}});
  }
  return json;
}

std::string bench_text(const BenchReport& report) {
  std::string text;
  if (report.floor) text += floor_text(report) + '\n';
  Table table({"drafter", "tokens/s", "speed-up", "quartiles", "accepted", "draft ms", "target ms",
               "comm ms", "rest ms", "output"});
  for (const BenchRow& row : report.rows) {
    const StepTime step = step_time(row.stats);
    table.add_row({row.drafter, fmt::format("{:.1f}", row.tokens_per_second),
                   fmt::format("{:.2f}x", row.speedup),
                   fmt::format("{:.2f}-{:.2f}", row.speedup_low, row.speedup_high),
                   fmt::format("{:.2f}", mean_acceptance_length(row.stats)),
                   fmt::format("{:.3f}", step.draft), fmt::format("{:.3f}", step.target),
                   fmt::format("{:.3f}", step.communication), fmt::format("{:.3f}", step.rest),
                   row.differing == 0 ? "identical" : fmt::format("{} DIFFER", row.differing)});
  }
  text += table.text();
  size_t deepest = 0;
  for (const BenchRow& row : report.rows) {
    deepest = std::max(deepest, row.stats.drafted_by_depth.size());
  }
  if (deepest > 0) {
    std::vector<std::string> header = {"\nacceptance by depth"};
    header[0].erase(0, 1);
    for (size_t d = 1; d <= deepest; ++d) header.push_back(fmt::format("{}", d));
    Table depths(std::move(header));
    for (const BenchRow& row : report.rows) {
      if (row.stats.drafted_by_depth.empty()) continue;
      std::vector<std::string> cells = {row.drafter};
      for (const double share : acceptance_by_depth(row.stats)) {
        cells.push_back(fmt::format("{:.2f}", share));
      }
      depths.add_row(std::move(cells));
    }
    text += '\n' + depths.text();
  }
  text += fmt::format(
      "\n{} prompts, {} run(s) each, drafters in turn. tokens/s counts decoding after the first "
      "token;\nspeed-up is the ratio of the sums over prompts, with the quartiles of the prompts' "
      "own;\naccepted is the mean acceptance length, 1 + accepted tokens per draft.\n",
      report.prompts, report.repeats);
  return text;
}

}  // namespace convoke
