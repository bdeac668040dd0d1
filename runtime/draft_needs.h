// What a drafting method needs from the target's own passes. It follows from the flags and the
// head's config.json alone, so every rank works it out for itself before any weights are read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "runtime/model_config.h"

namespace convoke {

/// Hidden states of the target that go to the drafter, one row per committed token, in the
/// target's activation dtype (bfloat16 or float32; those of a float16 target in float32).
struct FeatureSpec {
  enum class Kind : uint8_t {
    kNone,
    kFinal,   ///< after the final RMSNorm: what enters lm_head (EAGLE-1/2, Medusa)
    kLayers,  ///< the residual stream entering each of `layers`, concatenated (EAGLE-3)
  };
  Kind kind = Kind::kNone;
  std::vector<int>
      layers;  ///< 0-based, ascending; layer index == number of layers: the last output

  int64_t width(const ModelConfig& target) const {
    if (kind == Kind::kNone) return 0;
    return kind == Kind::kFinal ? target.hidden : int64_t(layers.size()) * target.hidden;
  }
  bool operator==(const FeatureSpec&) const = default;
};

struct DraftNeeds {
  FeatureSpec features;
  /// Learned embeddings that probe rows with negative tokens name; `lookahead_directory` holds
  /// them.
  int lookahead_count = 0;
  std::filesystem::path lookahead_directory;
  /// How many ranked tokens come back per probe row; 0: the pick alone.
  int probe_candidates = 0;
};

}  // namespace convoke
