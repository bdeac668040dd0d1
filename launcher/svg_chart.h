// Charts as inline SVG: no scripts, no fonts or images from elsewhere; colours come from the page's
// style sheet, so one chart serves light, dark and print. Text is escaped here.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace convoke {

/// Text for an element or a quoted attribute of HTML or XML: markup, control characters and bytes
/// that are not UTF-8 lose their meaning.
std::string escape_markup(std::string_view text);

/// Style of a series: plain decoding's is kPlainStyle, the others' count from 0 (colours and marks
/// repeat after 8).
inline constexpr int kPlainStyle = -1;

struct BarChart {
  struct Bar {
    std::string label;
    double value = 0;
    std::optional<double> low, high;  ///< a whisker
    int style = 0;
    std::string text;  ///< at the end of the bar
  };
  std::string id, title;
  std::vector<Bar> bars;
  std::optional<double> reference;  ///< a line across
};

struct LineChart {
  struct Line {
    std::string label;
    int style = 0;
    std::vector<std::optional<double>> values;  ///< one per place on the x axis; unset: a gap
  };
  std::string id, title, x_title;
  std::vector<std::string> x_labels;  ///< as many as values
  std::vector<double> x_places;       ///< ascending; empty: evenly spaced
  std::vector<Line> lines;
  std::optional<double> reference;
  std::string reference_label;
  double least_top = 0;  ///< the y axis, which begins at 0, reaches at least this
};

struct StackedChart {
  struct Bar {
    std::string label;
    std::vector<double> values;  ///< one per part
    std::string text;
  };
  std::string id, title;
  std::vector<std::string> parts;
  std::vector<Bar> bars;
};

/// A <figure> with caption, drawing and legend. Values that are not finite count as missing.
std::string bar_chart(const BarChart& chart);
std::string line_chart(const LineChart& chart);
std::string stacked_chart(const StackedChart& chart);

/// Places for the marks of an axis from 0 to at least `top` (> 0): round numbers, evenly spaced, 3
/// to 7 of them, the last one the end of the axis.
std::vector<double> axis_marks(double top);

}  // namespace convoke
