#include "launcher/status_line.h"

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

}  // namespace

std::string bar_line(double share, const std::string& head, const std::string& tail, int columns) {
  // The last column stays free: some terminals wrap when it is written.
  const auto limit = columns > 1 ? size_t(columns - 1) : size_t(1000);
  const size_t used = head.size() + tail.size();
  if (used > limit) return (head + tail).substr(0, limit);
  const int width = std::min(30, int(limit) - int(used) - 2);
  if (share < 0 || width < 5) return head + tail;
  return bar_text(share, width) + "  " + head + tail;
}

std::string time_text(int64_t done, int64_t before, int64_t total, double seconds) {
  const int64_t fresh = done - before;
  if (total <= done || fresh <= 0) return fmt::format("  {}", format_duration(seconds));
  return fmt::format("  eta {}", format_duration(double(total - done) / double(fresh) * seconds));
}

StatusLine::StatusLine(std::ostream& err, Style style, int columns, Clock::time_point now)
    : err_(err),
      style_(style),
      columns_(columns),
      next_(style == Style::kLines ? now + kLineInterval : now) {}

void StatusLine::update(const Render& render, Clock::time_point now) {
  if (style_ == Style::kNone || now < next_) return;
  next_ = style_ == Style::kBar ? now + kBarInterval : now + kLineInterval;
  draw(render);
}

void StatusLine::finish(const Render& render) {
  if (style_ == Style::kNone) return;
  draw(render);
  if (style_ == Style::kBar) err_ << '\n' << std::flush;
  drawn_ = false;
}

void StatusLine::clear() {
  if (drawn_) err_ << "\r\x1b[K" << std::flush;
  drawn_ = false;
}

void StatusLine::draw(const Render& render) {
  const std::string line = render(style_ == Style::kBar, columns_);
  if (style_ == Style::kBar) {
    err_ << '\r' << line << "\x1b[K" << std::flush;
    drawn_ = true;
  } else {
    err_ << line << '\n' << std::flush;
  }
}

}  // namespace convoke
