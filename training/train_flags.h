// The command line of convoke-train, which is what `convoke train` starts.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "launcher/command_line.h"
#include "training/train_options.h"

namespace convoke::training {

/// Options, or a text to show (--help). `arguments` are those behind "train". Throws Error(kUsage)
/// naming the flag.
std::variant<ShowText, TrainOptions> parse_train_flags(const std::vector<std::string>& arguments);

}  // namespace convoke::training
