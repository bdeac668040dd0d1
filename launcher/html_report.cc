#include "launcher/html_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>

#include "launcher/html_style.h"
#include "launcher/speculation_stats.h"
#include "launcher/svg_chart.h"
#include "launcher/table.h"

namespace convoke {

namespace {

std::string element(const char* name, const std::string& content) {
  return fmt::format("<{}>{}</{}>\n", name, content, name);
}

/// Plain decoding has a style of its own, the others are counted without it: a drafter looks the
/// same in every chart.
int style_of(const BenchPoint& point, size_t row) {
  if (point.rows[row].plain) return kPlainStyle;
  int style = 0;
  for (size_t i = 0; i < row; ++i) style += point.rows[i].plain ? 0 : 1;
  return style;
}

/// A table; cells are markup already. The first column names the row.
class HtmlTable {
 public:
  explicit HtmlTable(const std::vector<std::string>& header) {
    for (const std::string& cell : header) head_ += "<th scope=\"col\">" + cell + "</th>";
  }
  void add_row(const std::vector<std::string>& cells) {
    body_ += "<tr>";
    for (size_t i = 0; i < cells.size(); ++i) {
      body_ += i == 0 ? "<th scope=\"row\">" + cells[i] + "</th>" : "<td>" + cells[i] + "</td>";
    }
    body_ += "</tr>\n";
  }
  std::string text() const {
    return "<div class=\"wide\"><table><thead><tr>" + head_ + "</tr></thead>\n<tbody>" + body_ +
           "</tbody></table></div>\n";
  }

 private:
  std::string head_, body_;
};

std::string name_cell(const BenchRow& row) {
  std::string cell = escape_markup(row.label);
  if (row.random_weights) {
    cell += fmt::format("<span class=\"tag\">{}</span>", bench_words::kRandomWeights);
  }
  return cell;
}

std::string output_cell(const BenchRow& row) {
  if (row.differing == 0) return "<span class=\"yes\">identical</span>";
  std::string cell =
      fmt::format("<span class=\"no\">{}</span>", escape_markup(bench_words::output_text(row)));
  if (row.first_difference) {
    cell += "<br/>" + escape_markup(row.first_difference->describe());
    cell += "<br/>" + escape_markup(bench_words::difference_text(row));
  }
  return cell;
}

std::string speed_table(const BenchPoint& point) {
  const bool hidden = std::ranges::any_of(
      point.rows, [](const BenchRow& row) { return hidden_share(row.stats) > 0; });
  std::vector<std::string> header = {"drafter",         "tokens/s",           "tokens per pass",
                                     "accepted length", "speed-up over none", "quartiles"};
  if (point.has_lookahead()) header.emplace_back("over lookahead");
  if (point.has_medusa()) header.emplace_back("over medusa");
  if (hidden) header.insert(header.end(), {"drafting hidden", "outcome in tree"});
  header.emplace_back("output");
  HtmlTable table(header);
  for (const BenchRow& row : point.rows) {
    std::vector<std::string> cells = {
        name_cell(row),
        fmt::format("{:.1f}", row.tokens_per_second),
        fmt::format("{:.2f}", tokens_per_pass(row.stats, row.requests)),
        fmt::format("{:.2f}", mean_acceptance_length(row.stats)),
        fmt::format("{:.2f}x", row.speedup),
        fmt::format("{:.2f} to {:.2f}", row.speedup_low, row.speedup_high)};
    if (row.over_lookahead) cells.push_back(fmt::format("{:.2f}x", *row.over_lookahead));
    if (row.over_medusa) cells.push_back(fmt::format("{:.2f}x", *row.over_medusa));
    if (hidden) {
      const bool ahead = hidden_share(row.stats) > 0;
      cells.push_back(ahead ? format_share(hidden_share(row.stats), 1) : "-");
      cells.push_back(ahead ? format_share(outcomes_in_tree(row.stats), 1) : "-");
    }
    cells.push_back(output_cell(row));
    table.add_row(cells);
  }
  return table.text();
}

std::string step_table(const BenchPoint& point) {
  HtmlTable table({"time of a step", "ms", "draft", "target", "communication", "rest"});
  for (const BenchRow& row : point.rows) {
    const StepTime step = step_time(row.stats);
    std::vector<std::string> cells = {escape_markup(row.label),
                                      fmt::format("{:.3f}", step.total())};
    for (const double part : {step.draft, step.target, step.communication, step.rest}) {
      cells.push_back(step.total() > 0
                          ? fmt::format("{:.3f} ({})", part, format_share(part, step.total()))
                          : "-");
    }
    table.add_row(cells);
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
  HtmlTable table(header);
  for (const BenchRow& row : point.rows) {
    const std::vector<double> shares = acceptance_by_depth(row.stats);
    if (shares.empty()) continue;
    std::vector<std::string> cells = {escape_markup(row.label)};
    for (const double share : shares) cells.push_back(fmt::format("{:.2f}", share));
    cells.resize(deepest + 1);
    table.add_row(cells);
  }
  return table.text();
}

std::string speed_chart(const BenchPoint& point, const std::string& id) {
  BarChart chart{id + "-speed", "Speed-up over plain decoding", {}, 1.0};
  for (size_t r = 0; r < point.rows.size(); ++r) {
    const BenchRow& row = point.rows[r];
    if (row.plain) continue;
    chart.bars.push_back(
        {row.random_weights ? row.label + ", " + bench_words::kRandomWeights : row.label,
         row.speedup, row.speedup_low, row.speedup_high, style_of(point, r),
         fmt::format("{:.2f}x", row.speedup)});
  }
  return chart.bars.empty() ? "" : bar_chart(chart);
}

std::string depth_chart(const BenchPoint& point, const std::string& id) {
  LineChart chart{id + "-depth", "Acceptance by depth", "depth in the tree", {}, {}, {}, {}, {}, 1};
  size_t deepest = 0;
  for (const BenchRow& row : point.rows) {
    deepest = std::max(deepest, row.stats.drafted_by_depth.size());
  }
  for (size_t d = 1; d <= deepest; ++d) chart.x_labels.push_back(fmt::format("{}", d));
  for (size_t r = 0; r < point.rows.size(); ++r) {
    const std::vector<double> shares = acceptance_by_depth(point.rows[r].stats);
    if (shares.empty()) continue;
    LineChart::Line line{point.rows[r].label, style_of(point, r), {}};
    line.values.assign(shares.begin(), shares.end());
    line.values.resize(deepest);
    chart.lines.push_back(std::move(line));
  }
  return chart.lines.empty() ? "" : line_chart(chart);
}

std::string step_chart(const BenchPoint& point, const std::string& id) {
  StackedChart chart{id + "-step",
                     "Time of a step, in ms",
                     {"waiting for drafts", "target", "communication", "coordinator's rest"},
                     {}};
  double most = 0;
  for (const BenchRow& row : point.rows) {
    const StepTime step = step_time(row.stats);
    most = std::max(most, step.total());
    chart.bars.push_back({row.label,
                          {step.draft, step.target, step.communication, step.rest},
                          fmt::format("{:.3g} ms", step.total())});
  }
  return most > 0 ? stacked_chart(chart) : "";
}

/// Charts over one swept setting.
class SweepCharts {
 public:
  /// `points` are those where only `sweep` changes, in the order of its values.
  SweepCharts(const Sweep& sweep, std::vector<const BenchPoint*> points, std::string id,
              std::string where)
      : sweep_(sweep), points_(std::move(points)), id_(std::move(id)), where_(std::move(where)) {}

  std::string text() const {
    const auto speedup = [](const BenchRow& row) { return row.speedup; };
    const auto rate = [](const BenchRow& row) { return row.tokens_per_second; };
    const auto gain = [](const BenchRow& row) { return tokens_per_pass(row.stats, row.requests); };
    std::string charts = chart("speed", "Speed-up", speedup, 1.0, false);
    // Plain decoding is no straight line over these.
    if (sweep_.name == "temperature" || sweep_.name == "batch") {
      charts += chart("rate", "Tokens per second", rate, std::nullopt, true);
    }
    return charts + chart("pass", "Tokens per pass", gain, 1.0, false);
  }

 private:
  std::string chart(const char* kind, const std::string& title,
                    const std::function<double(const BenchRow&)>& value,
                    std::optional<double> reference, bool with_plain) const {
    LineChart chart{id_ + "-" + kind,
                    title + " over " + sweep_.name + where_,
                    sweep_.name,
                    sweep_.values,
                    places(),
                    {},
                    reference,
                    "none",
                    0};
    for (size_t r = 0; r < points_.front()->rows.size(); ++r) {
      const BenchRow& first = points_.front()->rows[r];
      if (first.plain ? !with_plain : !affected(first)) continue;
      LineChart::Line line{first.label, style_of(*points_.front(), r), {}};
      for (const size_t p : order_) line.values.emplace_back(value(points_[p]->rows[r]));
      chart.lines.push_back(std::move(line));
    }
    if (chart.lines.empty()) return "";
    chart.x_labels.clear();
    for (const size_t p : order_) chart.x_labels.push_back(sweep_.values[p]);
    return line_chart(chart);
  }

  /// Over the number of look-ahead tokens only those change that have such.
  bool affected(const BenchRow& row) const {
    return sweep_.name != "lookahead-tokens" || row.drafter.starts_with("pass");
  }

  /// Temperatures lie where they are; of other settings the values asked for are the steps.
  std::vector<double> places() const {
    if (sweep_.name != "temperature") return {};
    std::vector<double> places;
    for (const size_t p : order_) places.push_back(std::stod(sweep_.values[p]));
    return places;
  }

  std::vector<size_t> ascending() const {
    std::vector<size_t> order(sweep_.values.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    const auto number = [&](size_t i) {
      const std::string& text = sweep_.values[i];
      double value = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
      return error == std::errc() ? value : 1e300;  // words behind the numbers
    };
    std::ranges::stable_sort(order, {}, number);
    return order;
  }

  const Sweep& sweep_;
  const std::vector<const BenchPoint*> points_;
  const std::string id_, where_;
  const std::vector<size_t> order_ = ascending();
};

/// With two sweeps, the charts over the first stand once for each value of the second.
std::string sweep_section(const BenchReport& report) {
  if (report.sweeps.empty()) return "";
  const Sweep& sweep = report.sweeps.front();
  const size_t others = report.points.size() / sweep.values.size();
  std::string charts;
  for (size_t other = 0; other < others; ++other) {
    std::vector<const BenchPoint*> points;
    for (size_t v = 0; v < sweep.values.size(); ++v) {
      points.push_back(&report.points[v * others + other]);
    }
    std::string where;
    if (report.sweeps.size() > 1) {
      where = fmt::format(", {} {}", report.sweeps[1].name, report.sweeps[1].values[other]);
    }
    charts += SweepCharts(sweep, points, fmt::format("sweep-{}", other + 1), where).text();
  }
  return fmt::format(
      "<section id=\"sweep\">\n<h2>Over {}</h2>\n<div class=\"charts\">\n{}</div>\n"
      "</section>\n",
      escape_markup(sweep.name), charts);
}

std::string point_section(const BenchReport& report, size_t index) {
  const BenchPoint& point = report.points[index];
  const std::string id = fmt::format("point-{}", index + 1);
  const std::string title =
      point.settings.empty() ? "Drafters compared" : point_text(point.settings);
  return fmt::format("<section id=\"{}\">\n<h2>{}</h2>\n", id, escape_markup(title)) +
         speed_table(point) + "<div class=\"charts\">\n" + speed_chart(point, id) +
         depth_chart(point, id) + step_chart(point, id) + "</div>\n" + step_table(point) +
         depth_table(point) + "</section>\n";
}

std::string floor_section(const BenchReport& report) {
  if (!report.floor) return "";
  const FloorReport& floor = *report.floor;
  std::string text = fmt::format(
      "Memory was read at {:.1f} GB/s and large matrix products ran at {:.0f} GFLOP/s, measured "
      "in this run; a pass can take no less than its floor.",
      floor.read_bandwidth_gb_s, floor.matmul_gflop_s);
  if (report.floor_ratio() > 0) {
    text +=
        fmt::format(" Plain decoding ran at {:.0f} % of its floor.", 100 * report.floor_ratio());
  }
  HtmlTable table({"pass of", "ms", "floor ms", "of floor", "against first"});
  for (const FloorReport::Pass& pass : floor.passes) {
    table.add_row({fmt::format("{} row{}", pass.rows, pass.rows == 1 ? "" : "s"),
                   fmt::format("{:.3f}", pass.ms), fmt::format("{:.3f}", pass.floor_ms),
                   format_share(pass.floor_ms, pass.ms),
                   floor.passes.front().ms > 0
                       ? fmt::format("{:.2f}x", pass.ms / floor.passes.front().ms)
                       : "-"});
  }
  return "<section id=\"floor\">\n<h2>The machine's floor</h2>\n" + element("p", text) +
         table.text() + "</section>\n";
}

/// The best of those whose figures mean something, at the first point.
std::string headline(const BenchReport& report) {
  const BenchRow* best = nullptr;
  const BenchPoint* where = nullptr;
  for (const BenchPoint& point : report.points) {
    for (const BenchRow& row : point.rows) {
      if (row.plain || row.random_weights || (best && row.speedup <= best->speedup)) continue;
      best = &row;
      where = &point;
    }
  }
  std::string text = report.differing() == 0
                         ? "Every output is identical to plain decoding's."
                         : fmt::format(
                               "<span class=\"no\">{} outputs differ from plain "
                               "decoding's{}.</span>",
                               report.differing(),
                               report.may_differ ? ", as they may with --gpu-matmul fast" : "");
  if (best == nullptr) return text;
  const std::string settings = point_text(where->settings);
  return fmt::format("Fastest: {}, {:.2f} times plain decoding{}. {}", escape_markup(best->label),
                     best->speedup, settings.empty() ? "" : " (" + escape_markup(settings) + ")",
                     text);
}

std::string header(const BenchReport& report) {
  const BenchSubject& subject = report.subject;
  std::string list;
  const auto entry = [&](const char* term, const std::string& markup) {
    if (!markup.empty()) list += fmt::format("<dt>{}</dt><dd>{}</dd>\n", term, markup);
  };
  entry("Model", escape_markup(subject.model));
  entry("Machine", escape_markup(subject.machine));
  entry("Engine", escape_markup(subject.engine));
  entry("Date", escape_markup(subject.date));
  entry("Program", escape_markup(subject.version));
  if (!subject.command.empty()) entry("Command", element("code", escape_markup(subject.command)));
  for (const BenchRow& row : report.points.front().rows) {
    if (row.label != row.drafter) {
      entry("Drafter",
            escape_markup(row.label) + " is " + element("code", escape_markup(row.drafter)));
    }
  }
  return "<header>\n<h1>Drafters compared by Convoke</h1>\n<p class=\"lead\">" + headline(report) +
         "</p>\n<dl>\n" + list + "</dl>\n</header>\n";
}

std::string contents(const BenchReport& report) {
  if (report.points.size() < 2) return "";
  std::string list = "<li><a href=\"#sweep\">Charts over " +
                     escape_markup(report.sweeps.front().name) + "</a></li>\n";
  for (size_t p = 0; p < report.points.size(); ++p) {
    list += fmt::format("<li><a href=\"#point-{}\">{}</a></li>\n", p + 1,
                        escape_markup(point_text(report.points[p].settings)));
  }
  return "<nav aria-label=\"Contents\">\n<ul>\n" + list + "</ul>\n</nav>\n";
}

}  // namespace

std::string html_report(const BenchReport& report) {
  std::string page =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
      "<title>Convoke: drafters compared</title>\n<style>";
  page += kReportStyle;
  page += "</style>\n</head>\n<body>\n" + header(report) + contents(report) + "<main>\n";
  page += sweep_section(report);
  for (size_t p = 0; p < report.points.size(); ++p) page += point_section(report, p);
  page += floor_section(report) + "</main>\n<footer>\n" +
          element("p", escape_markup(bench_words::counting_text(report))) +
          "</footer>\n</body>\n</html>\n";
  return page;
}

}  // namespace convoke
