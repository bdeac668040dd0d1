// Where the checkout is that tests read their files from.
#pragma once

#include <cstdlib>
#include <filesystem>

namespace convoke {

/// CONVOKE_SOURCE names the checkout where programs run elsewhere than they were built.
inline std::filesystem::path checkout() {
  const char* const moved = std::getenv("CONVOKE_SOURCE");
  return moved != nullptr ? moved : CONVOKE_SOURCE_DIR;
}

}  // namespace convoke
