// `convoke train` is a program of its own, convoke-train, so that nothing else needs LibTorch.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace convoke {

/// Turns this process into the convoke-train beside this program. Returns only by throwing
/// Error(kUsage): that it was not built, and what builds it.
int become_trainer(const std::vector<std::string>& arguments);

}  // namespace convoke
