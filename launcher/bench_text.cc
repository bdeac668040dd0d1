// A comparison of drafters for the terminal.
#include <fmt/format.h>

#include <algorithm>

#include "launcher/bench_report.h"
#include "launcher/speculation_stats.h"
#include "launcher/table.h"

namespace convoke {

namespace {

std::string floor_text(const BenchReport& report) {
  const FloorReport& floor = *report.floor;
  std::string text = fmt::format(
      "Floor: memory reads at {:.1f} GB/s, large matrix products at {:.0f} GFLOP/s (measured in "
      "this run).\n",
      floor.read_bandwidth_gb_s, floor.matmul_gflop_s);
  const double ratio = report.floor_ratio();
  if (ratio > 0) {
    const double rate = report.points[0].rows[report.points[0].reference].tokens_per_second;
    text += fmt::format("Plain decoding reads {} per token, {:.1f} GB/s: {:.0f} % of its floor.\n",
                        format_bytes(double(floor.bytes_per_pass)),
                        double(floor.bytes_per_pass) * rate / 1e9, 100 * ratio);
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

std::string name_of(const BenchRow& row) {
  return row.random_weights ? fmt::format("{} [{}]", row.label, bench_words::kRandomWeights)
                            : row.label;
}

std::string speed_table(const BenchPoint& point) {
  const bool hidden = std::ranges::any_of(
      point.rows, [](const BenchRow& row) { return hidden_share(row.stats) > 0; });
  std::vector<std::string> header = {"drafter",  "tokens/s", "tok/pass",
                                     "accepted", "vs none",  "quartiles"};
  if (point.has_lookahead()) header.emplace_back("vs lookahead");
  if (point.has_medusa()) header.emplace_back("vs medusa");
  if (hidden) header.insert(header.end(), {"hidden", "in tree"});
  header.emplace_back("output");
  Table table(std::move(header));
  for (const BenchRow& row : point.rows) {
    std::vector<std::string> cells = {
        name_of(row),
        fmt::format("{:.1f}", row.tokens_per_second),
        fmt::format("{:.2f}", tokens_per_pass(row.stats, row.requests)),
        fmt::format("{:.2f}", mean_acceptance_length(row.stats)),
        fmt::format("{:.2f}x", row.speedup),
        fmt::format("{:.2f}-{:.2f}", row.speedup_low, row.speedup_high)};
    if (row.over_lookahead) cells.push_back(fmt::format("{:.2f}x", *row.over_lookahead));
    if (row.over_medusa) cells.push_back(fmt::format("{:.2f}x", *row.over_medusa));
    if (hidden) {
      const bool ahead = hidden_share(row.stats) > 0;
      cells.push_back(ahead ? fmt::format("{:.0f} %", 100 * hidden_share(row.stats)) : "-");
      cells.push_back(ahead ? fmt::format("{:.0f} %", 100 * outcomes_in_tree(row.stats)) : "-");
    }
    cells.push_back(bench_words::output_text(row));
    table.add_row(std::move(cells));
  }
  return table.text();
}

std::string step_table(const BenchPoint& point) {
  Table table({"time of a step", "ms", "draft", "", "target", "", "comm", "", "rest", ""});
  for (const BenchRow& row : point.rows) {
    const StepTime step = step_time(row.stats);
    std::vector<std::string> cells = {row.label, fmt::format("{:.3f}", step.total())};
    for (const double part : {step.draft, step.target, step.communication, step.rest}) {
      cells.push_back(fmt::format("{:.3f}", part));
      cells.push_back(format_share(part, step.total()));
    }
    table.add_row(std::move(cells));
  }
  return table.text();
}

std::string depth_table(const BenchPoint& point) {
  size_t deepest = 0;
  for (const BenchRow& row : point.rows) {
    deepest = std::max(deepest, row.stats.drafted_by_depth.size());
  }
  if (deepest == 0) return "";
  std::vector<std::string> header = {"acceptance by depth"};
  for (size_t d = 1; d <= deepest; ++d) header.push_back(fmt::format("{}", d));
  Table table(std::move(header));
  for (const BenchRow& row : point.rows) {
    if (row.stats.drafted_by_depth.empty()) continue;
    std::vector<std::string> cells = {row.label};
    for (const double share : acceptance_by_depth(row.stats)) {
      cells.push_back(fmt::format("{:.2f}", share));
    }
    table.add_row(std::move(cells));
  }
  return '\n' + table.text();
}

/// What short names stand for, and where outputs differ.
std::string notes(const BenchReport& report) {
  std::string text;
  for (const BenchRow& row : report.points.front().rows) {
    if (row.label != row.drafter) text += fmt::format("{}: {}\n", row.label, row.drafter);
  }
  for (const BenchPoint& point : report.points) {
    for (const BenchRow& row : point.rows) {
      if (!row.first_difference) continue;
      const std::string where = point_text(point.settings);
      text += fmt::format("{}{}{} differs first at {}\n", where, where.empty() ? "" : ": ",
                          row.label, row.first_difference->describe());
      text += fmt::format("  {}\n", bench_words::difference_text(row));
    }
  }
  if (report.may_differ && report.differing() > 0) {
    text += "With --gpu-matmul fast outputs may differ: sums depend on what shares a pass.\n";
  }
  return text.empty() ? "" : '\n' + text;
}

}  // namespace

std::string bench_words::output_text(const BenchRow& row) {
  return row.differing == 0 ? "identical" : fmt::format("{} DIFFER", row.differing);
}

std::string bench_words::difference_text(const BenchRow& row) {
  // Each output has at most one first difference; what follows it has another text before it.
  const double rate = 1000.0 * row.differing / double(std::max<int64_t>(row.tokens_compared, 1));
  return fmt::format("{} of {} outputs differ, {:.1f} of 1000 tokens after the same text; {} {}",
                     row.differing, row.requests, rate, row.tokens_differing,
                     row.tokens_differing == 1 ? "token in all" : "tokens in all");
}

std::string bench_words::counting_text(const BenchReport& report) {
  return fmt::format(
      "{} prompts, {} run(s) each, drafters in turn. {} tok/pass is what a pass of the target "
      "model "
      "gained; accepted is the mean acceptance length, 1 + accepted tokens per draft. The time of "
      "a "
      "step is split into waiting for drafts, the target's pass, communication of its ranks, and "
      "the coordinator's rest.",
      report.prompts, report.repeats,
      report.together
          ? "Prompts ran together: tokens/s counts all tokens and all time, speed-up is the ratio "
            "of the median times, with the quartiles of the repeats' own."
          : "tokens/s counts decoding after the first token; speed-up is the ratio of the sums "
            "over "
            "prompts, with the quartiles of the prompts' own.");
}

namespace {

/// Lines of at most `width` characters, broken at spaces.
std::string wrapped(const std::string& text, size_t width) {
  std::string result;
  size_t column = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    if (column > 0 && column + 1 + end - begin > width) {
      result += '\n';
      column = 0;
    }
    if (column > 0) {
      result += ' ';
      ++column;
    }
    result.append(text, begin, end - begin);
    column += end - begin;
    begin = end + 1;
  }
  return result + '\n';
}

}  // namespace

std::string bench_text(const BenchReport& report) {
  std::string text;
  if (report.floor) text += floor_text(report) + '\n';
  for (const BenchPoint& point : report.points) {
    if (!point.settings.empty()) text += fmt::format("== {} ==\n", point_text(point.settings));
    text += speed_table(point) + '\n' + step_table(point) + depth_table(point);
    if (&point != &report.points.back()) text += '\n';
  }
  text += notes(report) + '\n' + wrapped(bench_words::counting_text(report), 96);
  return text;
}

}  // namespace convoke
