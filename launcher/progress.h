// How far a batch job is: one line that is drawn again and again on a terminal, a line every few
// seconds elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <ostream>
#include <string>

namespace convoke {

struct ProgressState {
  int64_t done = 0;    ///< requests, those of an earlier run included
  int64_t before = 0;  ///< of those, of an earlier run
  int64_t total = -1;  ///< -1 = unknown
  int64_t running = 0;
  int64_t tokens = 0;            ///< generated in this run
  double acceptance_length = 0;  ///< 0 = nothing drafted
  int64_t errors = 0;            ///< error lines and failures
  double seconds = 0;            ///< since the start of this run
};

/// One line without LF, at most `columns` characters (0 = no limit). With `bar`, a bar and colours.
std::string render_progress(const ProgressState& state, bool bar, int columns);

class Progress {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Style { kNone, kLines, kBar };

  Progress(std::ostream& err, Style style, int columns, Clock::time_point now);
  /// Draws if it is time to: 10 times a second as a bar, every 5 s as lines.
  void update(const ProgressState& state, Clock::time_point now);
  /// Draws the last state and leaves its line.
  void finish(const ProgressState& state);
  /// Takes the bar away so that a message can be printed; update() brings it back.
  void clear();

 private:
  void draw(const ProgressState& state);

  std::ostream& err_;
  Style style_;
  int columns_;
  Clock::time_point next_;
  bool drawn_ = false;
};

}  // namespace convoke
