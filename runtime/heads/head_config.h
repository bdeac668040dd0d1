// What the config.json of a drafting head says, checked against the target it is to draft for.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runtime/draft_needs.h"
#include "runtime/model_config.h"

namespace convoke {

enum class HeadKind {
  kEagle,   ///< EAGLE-1 and -2, which differ in their trees only
  kEagle3,  ///< several layers' features, possibly a reduced vocabulary
  kMedusa,
};

/// "eagle", "eagle3", "medusa". Throws Error(kUsage) for anything else.
HeadKind parse_head_kind(const std::string& method);
const char* head_kind_name(HeadKind kind);

/// The argument that stands for a head without weights: random ones, to measure costs.
inline constexpr char kRandomHead[] = "random";

struct HeadConfig {
  HeadKind kind = HeadKind::kEagle;
  std::string file;  ///< config.json with its path, for messages
  bool random = false;
  int target_hidden = 0;
  int vocabulary = 0;  ///< of the target

  // EAGLE:
  /// Geometry of the decoder layer; its `hidden` is the head's, which only EAGLE-3 may choose. The
  /// rotary base is the head's own or 10000, never the target's.
  ModelConfig layer;
  bool fc_bias = false;
  std::optional<bool> qkv_bias;     ///< unset: as the tensors have it
  int draft_vocabulary = 0;         ///< == vocabulary unless reduced
  std::vector<int> feature_layers;  ///< EAGLE-3: FeatureSpec::layers
  bool norm_before_residual = false;

  // Medusa; 0: as the tensors have it.
  int medusa_heads = 0;
  int medusa_layers = 0;

  int64_t feature_width() const {
    return kind == HeadKind::kEagle3 ? int64_t(feature_layers.size()) * target_hidden
                                     : target_hidden;
  }
};

/// Reads DIR/config.json: as published with EAGLE, EAGLE-3 and Medusa checkpoints, or with our own
/// key `drafter` that says which of them it is. Medusa's may be absent. `directory` may also be the
/// file of the weights, whose directory is then looked at. Throws Error(kModel) naming file and
/// key, with both numbers where head and target differ. kRandomHead gives a head of the usual
/// shape: one layer like the target's; for EAGLE-3, 32000 tokens at most.
HeadConfig load_head_config(HeadKind kind, const std::filesystem::path& directory,
                            const ModelConfig& target);

/// The same from the text of a config.json.
HeadConfig parse_head_config(HeadKind kind, std::string_view text, const std::string& file,
                             const ModelConfig& target);

/// Throws Error(kUsage) for a method that was named without its head.
void require_head(const std::string& method, const std::string& argument);

/// What the target's passes have to export for a head. Reads its config.json at most.
DraftNeeds head_needs(const std::string& method, const std::string& argument,
                      const ModelConfig& target);

}  // namespace convoke
