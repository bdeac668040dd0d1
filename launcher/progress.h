// How far a batch job is.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>

#include "launcher/status_line.h"

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
  using Clock = StatusLine::Clock;
  using Style = StatusLine::Style;

  Progress(std::ostream& err, Style style, int columns, Clock::time_point now)
      : line_(err, style, columns, now) {}
  void update(const ProgressState& state, Clock::time_point now) {
    line_.update(renderer(state), now);
  }
  /// Draws the last state and leaves its line.
  void finish(const ProgressState& state) { line_.finish(renderer(state)); }
  /// Takes the bar away so that a message can be printed; update() brings it back.
  void clear() { line_.clear(); }

 private:
  static StatusLine::Render renderer(const ProgressState& state) {
    return [&state](bool bar, int columns) { return render_progress(state, bar, columns); };
  }

  StatusLine line_;
};

}  // namespace convoke
