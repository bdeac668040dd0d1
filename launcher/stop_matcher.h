// Stop strings in a growing text. Pure: positions in, positions out.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace convoke {

/// The stop string that is complete first ends the text, and of several that end at the same byte
/// the longest; the text is cut where it begins. So the result is a function of the text alone,
/// however the tokens divide it.
class StopMatcher {
 public:
  /// Throws Error(kUsage) if a stop string is empty.
  explicit StopMatcher(std::vector<std::string> stops);

  bool empty() const { return stops_.empty(); }
  /// Where to cut `text`, of which the bytes from `fresh` on were not searched before.
  std::optional<size_t> find(std::string_view text, size_t fresh) const;
  /// How many bytes at the end of `text` could be the beginning of a stop string.
  size_t held_back(std::string_view text) const;

 private:
  std::vector<std::string> stops_;
  size_t longest_ = 0;
};

}  // namespace convoke
