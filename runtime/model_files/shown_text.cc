#include "runtime/model_files/shown_text.h"

#include <nlohmann/json.hpp>

namespace convoke {

std::string shown_text(std::string_view text) {
  constexpr size_t kShownBytes = 60;
  const bool cut = text.size() > kShownBytes;
  const nlohmann::json part = std::string(text.substr(0, kShownBytes));
  constexpr auto kReplace = nlohmann::json::error_handler_t::replace;
  return part.dump(-1, ' ', false, kReplace) + (cut ? "..." : "");
}

}  // namespace convoke
