#include "launcher/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/check.h"
#include "launcher/text_assembler.h"

namespace convoke {

namespace {

// In units of the drawing, which the page scales: narrow, so that text stays readable on a phone.
constexpr double kWidth = 400;
constexpr double kFont = 13;
constexpr double kCharacter = 7.2;  // average width at that size, on the wide side
constexpr int kStyles = 8;

/// Bytes of the character that `text` (not empty) begins with; 0 if it is not one of UTF-8 that XML
/// may hold (The Unicode Standard, table 3-7; XML 1.0, production 2).
size_t utf8_length(std::string_view text) {
  const auto lead = uint8_t(text[0]);
  if (lead < 0x80) return 1;
  const size_t length = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((uint8_t(text[i]) & 0xC0) != 0x80) return 0;
  }
  const auto second = uint8_t(text[1]);
  const bool too_long = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
  const bool no_character = (lead == 0xED && second >= 0xA0) || (lead == 0xF4 && second >= 0x90) ||
                            (lead == 0xEF && second == 0xBF && uint8_t(text[2]) >= 0xBE);
  return too_long || no_character ? 0 : length;
}

std::string style_class(int style) {
  return style == kPlainStyle ? "sp" : fmt::format("s{}", style % kStyles);
}

/// Two decimals at most, none that say nothing.
std::string place(double value) {
  std::string text = fmt::format("{:.2f}", value);
  while (text.ends_with('0')) text.pop_back();
  if (text.ends_with('.')) text.pop_back();
  return text == "-0" ? "0" : text;
}

std::string mark_text(double value, double step) {
  const int digits = std::max(0, int(std::ceil(-std::log10(step) - 1e-9)));
  return fmt::format("{:.{}f}", value, digits);
}

/// What fits in `width` units, with "…" for the rest. By characters, not bytes.
std::string fitted(const std::string& text, double width) {
  const auto room = size_t(std::max(1.0, width / kCharacter));
  if (count_characters(text) <= room) return text;
  std::string shown;
  size_t characters = 0;
  for (size_t i = 0; i < text.size() && characters + 1 < room; ++characters) {
    size_t end = i + 1;
    while (end < text.size() && (uint8_t(text[end]) & 0xC0) == 0x80) ++end;
    shown.append(text, i, end - i);
    i = end;
  }
  return shown + "\xE2\x80\xA6";
}

std::string text_at(double x, double y, const char* classes, const std::string& text) {
  return fmt::format("<text x=\"{}\" y=\"{}\" class=\"{}\">{}</text>", place(x), place(y), classes,
                     escape_markup(text));
}

std::string line_at(double x1, double y1, double x2, double y2, const char* classes) {
  return fmt::format("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" class=\"{}\"/>", place(x1),
                     place(y1), place(x2), place(y2), classes);
}

/// The shape is another for every style: colours alone do not reach everybody.
std::string marker(double x, double y, int style) {
  const std::string classes = style_class(style);
  const auto polygon = [&](std::initializer_list<std::pair<double, double>> points) {
    std::string list;
    for (const auto& [dx, dy] : points) {
      list += fmt::format("{}{},{}", list.empty() ? "" : " ", place(x + dx), place(y + dy));
    }
    return fmt::format("<polygon points=\"{}\" class=\"{} fill\"/>", list, classes);
  };
  switch (style == kPlainStyle ? 0 : style % 4) {
    case 1:
      return polygon({{-3.2, -3.2}, {3.2, -3.2}, {3.2, 3.2}, {-3.2, 3.2}});
    case 2:
      return polygon({{0, -4.2}, {4, 3.2}, {-4, 3.2}});
    case 3:
      return polygon({{0, -4.6}, {4.6, 0}, {0, 4.6}, {-4.6, 0}});
    default:
      return fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"3.5\" class=\"{} fill\"/>", place(x),
                         place(y), classes);
  }
}

std::string figure(const std::string& id, const std::string& title, double height,
                   const std::string& drawing, const std::string& legend) {
  return fmt::format(
      "<figure class=\"chart\" id=\"{}\"><figcaption>{}</figcaption>\n"
      "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n{}\n</svg>\n{}</figure>\n",
      escape_markup(id), escape_markup(title), place(kWidth), place(height), escape_markup(title),
      drawing, legend);
}

std::string legend_entry(const std::string& symbol, const std::string& label) {
  return fmt::format(
      "<li><svg viewBox=\"0 0 24 12\" class=\"key\" aria-hidden=\"true\">{}</svg>{}</li>", symbol,
      escape_markup(label));
}

std::string legend(const std::string& entries) {
  return entries.empty() ? "" : "<ul class=\"legend\">" + entries + "</ul>\n";
}

/// Horizontal bars with their names above them, and the axis below.
class Bars {
 public:
  static constexpr double kTop = 4, kPitch = 40, kBar = 14, kLeft = 4, kRight = 74, kFoot = 22;

  Bars(size_t count, double top) : count_(count), marks_(axis_marks(top)) {}

  double x(double value) const {
    return kLeft + (kWidth - kLeft - kRight) * std::max(0.0, value) / marks_.back();
  }
  double label_y(size_t bar) const { return kTop + kPitch * double(bar) + kFont; }
  double bar_y(size_t bar) const { return label_y(bar) + 4; }
  double bottom() const { return kTop + kPitch * double(count_); }
  double height() const { return bottom() + kFoot; }

  std::string axis() const {
    std::string svg;
    const double step = marks_[1] - marks_[0];
    for (const double mark : marks_) {
      svg += line_at(x(mark), kTop, x(mark), bottom(), "grid");
      svg +=
          text_at(mark == 0 ? x(0) + 3 : x(mark), bottom() + 16, "tick mid", mark_text(mark, step));
    }
    return svg;
  }
  std::string label(size_t bar, const std::string& text) const {
    return text_at(kLeft + 2, label_y(bar), "name", fitted(text, kWidth - 2 * kLeft));
  }

 private:
  size_t count_;
  std::vector<double> marks_;
};

/// A scale for values from 0 up and places along the x axis.
class Plane {
 public:
  static constexpr double kTop = 8, kPlot = 200, kRight = 14, kFoot = 44;

  Plane(const LineChart& chart, double top)
      : marks_(axis_marks(top)), count_(chart.x_labels.size()) {
    const double step = marks_[1] - marks_[0];
    size_t widest = 0;
    for (const double mark : marks_) widest = std::max(widest, mark_text(mark, step).size());
    left_ = 10 + kCharacter * double(widest);
    if (chart.x_places.empty()) {
      for (size_t i = 0; i < count_; ++i) places_.push_back(double(i));
    } else {
      places_ = chart.x_places;
    }
  }
  double x(size_t index) const {
    const double span = places_.back() - places_.front();
    const double width = kWidth - left_ - kRight - 16;
    return left_ + 8 + (span > 0 ? width * (places_[index] - places_.front()) / span : width / 2);
  }
  double y(double value) const { return kTop + kPlot * (1 - value / marks_.back()); }
  double height() const { return kTop + kPlot + kFoot; }

  std::string axes(const LineChart& chart) const {
    std::string svg;
    const double step = marks_[1] - marks_[0];
    for (const double mark : marks_) {
      svg += line_at(left_, y(mark), kWidth - kRight, y(mark), mark == 0 ? "axis" : "grid");
      svg += text_at(left_ - 5, y(mark) + 4, "tick end", mark_text(mark, step));
    }
    double free = -1e9;  // where the next label may begin
    for (size_t i = 0; i < count_; ++i) {
      const double half = kCharacter * double(count_characters(chart.x_labels[i])) / 2;
      if (x(i) - half < free) continue;
      free = x(i) + half + 4;
      svg += text_at(x(i), kTop + kPlot + 17, "tick mid", chart.x_labels[i]);
    }
    svg += text_at((left_ + kWidth - kRight) / 2, kTop + kPlot + 36, "tick mid", chart.x_title);
    return svg;
  }
  double left() const { return left_; }

 private:
  std::vector<double> marks_;
  size_t count_;
  double left_ = 0;
  std::vector<double> places_;
};

bool usable(const std::optional<double>& value) {
  return value && std::isfinite(*value);
}

std::string draw_line(const LineChart::Line& line, const LineChart& chart, const Plane& plane) {
  const std::string classes = style_class(line.style);
  std::string path, marks;
  bool joined = false;
  for (size_t i = 0; i < line.values.size(); ++i) {
    if (!usable(line.values[i])) {
      joined = false;
      continue;
    }
    const double x = plane.x(i), y = plane.y(*line.values[i]);
    path += fmt::format("{}{} {}", joined ? "L" : "M", place(x), place(y));
    joined = true;
    marks += fmt::format("<g><title>{}</title>{}</g>",
                         escape_markup(fmt::format("{}, {} {}: {:.3g}", line.label, chart.x_title,
                                                   chart.x_labels[i], *line.values[i])),
                         marker(x, y, line.style));
  }
  if (path.empty()) return "";
  return fmt::format("<path d=\"{}\" class=\"{} line{}\"/>{}", path, classes,
                     line.style >= kStyles ? " dashed" : "", marks);
}

}  // namespace

std::string escape_markup(std::string_view text) {
  constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  std::string safe;
  for (size_t i = 0; i < text.size();) {
    const auto byte = uint8_t(text[i]);
    const size_t length = utf8_length(text.substr(i));
    if (length == 0 || (byte < 0x20 && byte != '\t' && byte != '\n') || byte == 0x7F) {
      safe += kReplacement;
      ++i;
      continue;
    }
    switch (byte) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      case '\'':
        safe += "&#39;";
        break;
      default:
        safe.append(text, i, length);
    }
    i += length;
  }
  return safe;
}

std::vector<double> axis_marks(double top) {
  if (!(top > 0) || !std::isfinite(top)) top = 1;
  const double rough = top / 5;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * (1 - 1e-9)) {
      step = factor * power;
      break;
    }
  }
  std::vector<double> marks = {0};
  while (marks.back() < top * (1 - 1e-9)) marks.push_back(step * double(marks.size()));
  return marks;
}

std::string bar_chart(const BarChart& chart) {
  double top = chart.reference.value_or(0);
  for (const BarChart::Bar& bar : chart.bars) {
    for (const double value : {bar.value, bar.high.value_or(0)}) {
      if (std::isfinite(value)) top = std::max(top, value);
    }
  }
  const Bars bars(chart.bars.size(), top);
  std::string svg = bars.axis();
  if (chart.reference) {
    svg += line_at(bars.x(*chart.reference), Bars::kTop, bars.x(*chart.reference), bars.bottom(),
                   "reference");
  }
  for (size_t i = 0; i < chart.bars.size(); ++i) {
    const BarChart::Bar& bar = chart.bars[i];
    const double value = std::isfinite(bar.value) ? bar.value : 0, y = bars.bar_y(i);
    const double middle = y + Bars::kBar / 2;
    svg += bars.label(i, bar.label);
    svg += fmt::format(
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"2\" class=\"{} fill\">"
        "<title>{}</title></rect>",
        place(bars.x(0)), place(y), place(std::max(0.5, bars.x(value) - bars.x(0))),
        place(Bars::kBar), style_class(bar.style),
        escape_markup(fmt::format("{}: {}", bar.label, bar.text)));
    double end = bars.x(value);
    if (usable(bar.low) && usable(bar.high)) {
      const double low = bars.x(*bar.low), high = bars.x(*bar.high);
      end = std::max(end, high);
      svg += line_at(low, middle, high, middle, "whisker");
      for (const double x : {low, high}) svg += line_at(x, middle - 3, x, middle + 3, "whisker");
    }
    svg += text_at(end + 6, middle + 4, "value", bar.text);
  }
  return figure(chart.id, chart.title, bars.height(), svg, "");
}

std::string line_chart(const LineChart& chart) {
  CONVOKE_CHECK(!chart.x_labels.empty());
  CONVOKE_CHECK(chart.x_places.empty() || chart.x_places.size() == chart.x_labels.size());
  double top = std::max(chart.least_top, chart.reference.value_or(0));
  for (const LineChart::Line& line : chart.lines) {
    CONVOKE_CHECK_EQ(line.values.size(), chart.x_labels.size());
    for (const auto& value : line.values) {
      if (usable(value)) top = std::max(top, *value);
    }
  }
  const Plane plane(chart, top);
  std::string svg = plane.axes(chart), keys;
  if (chart.reference) {
    svg += line_at(plane.left(), plane.y(*chart.reference), kWidth - Plane::kRight,
                   plane.y(*chart.reference), "reference");
    keys += legend_entry(line_at(0, 6, 24, 6, "reference"), chart.reference_label);
  }
  for (const LineChart::Line& line : chart.lines) {
    svg += draw_line(line, chart, plane);
    keys +=
        legend_entry(fmt::format("<path d=\"M0 6L24 6\" class=\"{} line{}\"/>",
                                 style_class(line.style), line.style >= kStyles ? " dashed" : "") +
                         marker(12, 6, line.style),
                     line.label);
  }
  return figure(chart.id, chart.title, plane.height(), svg, legend(keys));
}

std::string stacked_chart(const StackedChart& chart) {
  double top = 0;
  for (const StackedChart::Bar& bar : chart.bars) {
    double sum = 0;
    for (const double value : bar.values) sum += std::isfinite(value) ? value : 0;
    top = std::max(top, sum);
  }
  const Bars bars(chart.bars.size(), top);
  std::string svg = bars.axis(), keys;
  for (size_t i = 0; i < chart.bars.size(); ++i) {
    const StackedChart::Bar& bar = chart.bars[i];
    CONVOKE_CHECK_EQ(bar.values.size(), chart.parts.size());
    svg += bars.label(i, bar.label);
    double sum = 0;
    for (size_t part = 0; part < bar.values.size(); ++part) {
      const double value = std::isfinite(bar.values[part]) ? bar.values[part] : 0;
      const double begin = bars.x(sum), end = bars.x(sum + value);
      sum += value;
      if (end - begin < 0.05) continue;
      svg += fmt::format(
          "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" class=\"p{}\"><title>{}</title>"
          "</rect>",
          place(begin), place(bars.bar_y(i)), place(end - begin), place(Bars::kBar), part,
          escape_markup(fmt::format("{}, {}: {:.3g}", bar.label, chart.parts[part], value)));
    }
    svg += text_at(bars.x(sum) + 6, bars.bar_y(i) + Bars::kBar / 2 + 4, "value", bar.text);
  }
  for (size_t part = 0; part < chart.parts.size(); ++part) {
    keys += legend_entry(
        fmt::format("<rect x=\"6\" y=\"0\" width=\"12\" height=\"12\" rx=\"2\" class=\"p{}\"/>",
                    part),
        chart.parts[part]);
  }
  return figure(chart.id, chart.title, bars.height(), svg, legend(keys));
}

}  // namespace convoke
