// The drafting methods that exist; a new one adds its entry in runtime/drafter.cc.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/drafter.h"

namespace convoke {

struct DraftMethod {
  const char* name;
  const char* help;  ///< one line for messages and --help
  /// Throws Error(kUsage) for an argument that cannot be right, before anything is started.
  void (*check)(const std::string& argument);
  std::unique_ptr<Drafter> (*make)(const DrafterSpec& spec, const DraftContext& context);
  DraftNeeds (*needs)(const DrafterSpec& spec,
                      const ModelConfig& target) = nullptr;  ///< null: none
  bool has_model = false;                                    ///< weights of its own
};

std::span<const DraftMethod> draft_methods();

/// "a=1,b=2" as pairs, in order. Throws Error(kUsage) naming `method` for anything else.
std::vector<std::pair<std::string, std::string>> parse_options(const std::string& method,
                                                               const std::string& argument);

/// A whole decimal number within [low, high]; throws Error(kUsage) naming method and key.
uint64_t parse_number(const std::string& method, const std::string& key, const std::string& text,
                      uint64_t low, uint64_t high);

}  // namespace convoke
