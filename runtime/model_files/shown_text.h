#pragma once

#include <string>
#include <string_view>

namespace convoke {

/// A text from a file for a message: quoted, control characters escaped, cut short. Need not be
/// UTF-8; what is not is replaced.
std::string shown_text(std::string_view text);

}  // namespace convoke
