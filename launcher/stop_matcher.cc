#include "launcher/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace convoke {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) {
    if (stop.empty()) throw_error(ErrorKind::kUsage, "stop: an empty stop string matches nothing");
    longest_ = std::max(longest_, stop.size());
  }
}

std::optional<size_t> StopMatcher::find(std::string_view text, size_t fresh) const {
  for (size_t end = fresh + 1; end <= text.size(); ++end) {
    size_t length = 0;
    for (const std::string& stop : stops_) {
      if (stop.size() > length && stop.back() == text[end - 1] &&
          text.substr(0, end).ends_with(stop)) {
        length = stop.size();
      }
    }
    if (length > 0) return end - length;
  }
  return std::nullopt;
}

size_t StopMatcher::held_back(std::string_view text) const {
  if (longest_ < 2) return 0;
  for (size_t length = std::min(longest_ - 1, text.size()); length > 0; --length) {
    const std::string_view tail = text.substr(text.size() - length);
    for (const std::string& stop : stops_) {
      if (stop.size() > length && std::string_view(stop).starts_with(tail)) return length;
    }
  }
  return 0;
}

}  // namespace convoke
