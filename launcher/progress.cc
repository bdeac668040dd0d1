#include "launcher/progress.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "launcher/table.h"

namespace convoke {

namespace {

constexpr auto kBarInterval = std::chrono::milliseconds(100);
constexpr auto kLineInterval = std::chrono::seconds(5);

/// `width` characters, filled to half a character.
std::string bar_text(double share, int width) {
  const int halves = int(std::lround(std::clamp(share, 0.0, 1.0) * 2 * width));
  std::string text = "\x1b[32m";
  for (int i = 0; i < halves / 2; ++i) text += "━";
  if (halves % 2 != 0) text += "╸";
  text += "\x1b[90m";
  for (int i = (halves + 1) / 2; i < width; ++i) text += "━";
  return text + "\x1b[0m";
}

std::string figures(const ProgressState& state) {
  std::string text;
  if (state.seconds > 0)
    text += fmt::format("  {:.0f} tok/s", double(state.tokens) / state.seconds);
  if (state.acceptance_length > 0) text += fmt::format("  accept {:.2f}", state.acceptance_length);
  if (state.errors > 0) text += fmt::format("  errors {}", state.errors);
  const int64_t fresh = state.done - state.before;
  if (state.total > state.done && fresh > 0) {
    const double left = double(state.total - state.done) / double(fresh) * state.seconds;
    text += fmt::format("  eta {}", format_duration(left));
  } else {
    text += fmt::format("  {}", format_duration(state.seconds));
  }
  return text;
}

}  // namespace

std::string render_progress(const ProgressState& state, bool bar, int columns) {
  std::string head = fmt::format("{}", state.done);
  if (state.total >= 0) head += fmt::format("/{}", state.total);
  std::string tail = figures(state);
  if (!bar) {
    std::string percent;
    if (state.total > 0) {
      percent = fmt::format(" ({:.0f} %)", 100.0 * double(state.done) / double(state.total));
    }
    return fmt::format("batch: {} requests done{}, {} running{}", head, percent, state.running,
                       tail);
  }
  // The last column stays free: some terminals wrap when it is written.
  const auto limit = columns > 1 ? size_t(columns - 1) : size_t(1000);
  const size_t used = head.size() + tail.size();
  if (used > limit) return (head + tail).substr(0, limit);
  const int width = std::min(30, int(limit) - int(used) - 2);
  if (state.total <= 0 || width < 5) return head + tail;
  return bar_text(double(state.done) / double(state.total), width) + "  " + head + tail;
}

Progress::Progress(std::ostream& err, Style style, int columns, Clock::time_point now)
    : err_(err),
      style_(style),
      columns_(columns),
      next_(style == Style::kLines ? now + kLineInterval : now) {}

void Progress::update(const ProgressState& state, Clock::time_point now) {
  if (style_ == Style::kNone || now < next_) return;
  next_ = style_ == Style::kBar ? now + kBarInterval : now + kLineInterval;
  draw(state);
}

void Progress::finish(const ProgressState& state) {
  if (style_ == Style::kNone) return;
  draw(state);
  if (style_ == Style::kBar) err_ << '\n' << std::flush;
  drawn_ = false;
}

void Progress::clear() {
  if (drawn_) err_ << "\r\x1b[K" << std::flush;
  drawn_ = false;
}

void Progress::draw(const ProgressState& state) {
  const std::string line = render_progress(state, style_ == Style::kBar, columns_);
  if (style_ == Style::kBar) {
    err_ << '\r' << line << "\x1b[K" << std::flush;
    drawn_ = true;
  } else {
    err_ << line << '\n' << std::flush;
  }
}

}  // namespace convoke
