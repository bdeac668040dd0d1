#include "launcher/progress.h"

#include <fmt/format.h>

#include "launcher/table.h"

namespace convoke {

namespace {

std::string figures(const ProgressState& state) {
  std::string text;
  if (state.seconds > 0)
    text += fmt::format("  {:.0f} tok/s", double(state.tokens) / state.seconds);
  if (state.acceptance_length > 0) text += fmt::format("  accept {:.2f}", state.acceptance_length);
  if (state.errors > 0) text += fmt::format("  errors {}", state.errors);
  text += time_text(state.done, state.before, state.total, state.seconds);
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
  const double share = state.total > 0 ? double(state.done) / double(state.total) : -1.0;
  return bar_line(share, head, tail, columns);
}

}  // namespace convoke
