// One line that says how far something is: drawn again and again on a terminal, written anew every
// few seconds elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <ostream>
#include <string>

namespace convoke {

class StatusLine {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Style { kNone, kLines, kBar };
  /// One line without LF, at most `columns` characters (0 = no limit); with `bar`, a bar and
  /// colours.
  using Render = std::function<std::string(bool bar, int columns)>;

  StatusLine(std::ostream& err, Style style, int columns, Clock::time_point now);
  /// Draws if it is time to: 10 times a second as a bar, every 5 s as lines.
  void update(const Render& render, Clock::time_point now);
  /// Draws for the last time and leaves the line.
  void finish(const Render& render);
  /// Takes the bar away so that a message can be printed; update() brings it back.
  void clear();

 private:
  void draw(const Render& render);

  std::ostream& err_;
  Style style_;
  int columns_;
  Clock::time_point next_;
  bool drawn_ = false;
};

/// `head` and `tail` with a bar between them where there is room; `share` < 0 = unknown.
std::string bar_line(double share, const std::string& head, const std::string& tail, int columns);

/// "  eta 4:05" where something is left of `total` (-1 = unknown) and was done since `before`, when
/// this run began; else the seconds of this run.
std::string time_text(int64_t done, int64_t before, int64_t total, double seconds);

}  // namespace convoke
