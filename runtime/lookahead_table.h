// Learned look-ahead embeddings (PaSS): what probe rows with negative tokens enter the model as.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "runtime/model_config.h"

namespace convoke {

inline constexpr int kMaxLookahead = 16;

/// Row i is the embedding of token -1 - i.
struct LookaheadTable {
  int count = 0;
  int hidden = 0;
  std::vector<float> values;  ///< [count, hidden]
};

/// How many embeddings a directory's config.json announces ("lookahead_tokens", 1 to
/// kMaxLookahead), checked against the target: "drafter" is "pass" and "hidden_size" the target's.
/// Throws Error(kModel) naming file, key and both numbers.
int lookahead_count(const std::filesystem::path& directory, const ModelConfig& target);

/// Reads `lookahead.weight` [lookahead_tokens, hidden_size] of model.safetensors, in any float
/// dtype. Throws Error(kModel) naming file and tensor for a wrong shape or dtype and for values
/// that are not finite.
LookaheadTable load_lookahead(const std::filesystem::path& directory, const ModelConfig& target);

/// Embeddings that mean nothing, the same on every machine: to measure what probes cost.
LookaheadTable random_lookahead(int count, int hidden);

}  // namespace convoke
