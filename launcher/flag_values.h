// Values of flags, from text: strict, and with errors that say what was given and what is allowed.
// All throw Error(kUsage) beginning with the flag's name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/drafter.h"

namespace convoke {

int64_t parse_int(std::string_view flag, std::string_view text, int64_t low, int64_t high);
uint64_t parse_uint64(std::string_view flag, std::string_view text);
/// A finite number in [low, high]; "(low" is meant with `open_low`.
double parse_number(std::string_view flag, std::string_view text, double low, double high,
                    bool open_low = false);
bool parse_bool(std::string_view flag, std::string_view text);
std::string parse_choice(std::string_view flag, std::string_view text,
                         const std::vector<const char*>& choices);
std::vector<int> parse_int_list(std::string_view flag, std::string_view text, int low, int high);

/// "123=2.5,7=-100" or the JSON object {"123": 2.5, "7": -100}.
std::vector<std::pair<int32_t, float>> parse_logit_bias(std::string_view flag,
                                                        std::string_view text);

/// --speculative-config: {"method", "model", "num_speculative_tokens", "draft_depth"}. Keys that
/// mean nothing here but are common elsewhere are returned in `ignored`.
DrafterSpec parse_speculative_config(std::string_view text, std::vector<std::string>& ignored);

/// The candidate most like `word`, or "" if none is close.
std::string closest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace convoke
