// Lists of drafters as people write them, and what to call each of them in tables.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/drafter.h"

namespace convoke {

/// "none,lookahead,pass:DIR,mode=two-pass,eagle:DIR" or "pass:DIR;eagle:DIR". Where there is a ';',
/// entries end there and nowhere else. Otherwise an entry ends at a comma, but one that has an
/// argument ends at a comma before the name of a method only: the argument may hold commas itself.
/// Throws Error(kUsage) beginning with `flag` for an empty entry, and as DrafterSpec::parse does.
std::vector<DrafterSpec> parse_drafter_list(std::string_view flag, const std::string& text);

/// Whether the drafter's weights mean nothing: it can be measured for its cost alone.
bool has_random_weights(const DrafterSpec& spec);

/// A short name per drafter, all different: the method; where several have the same, with the last
/// part of the path and the options; where that is not enough, the whole.
std::vector<std::string> drafter_labels(const std::vector<DrafterSpec>& drafters);

}  // namespace convoke
