// The methods that grow trees with a model of their own: eagle, eagle3, draft-model.
#pragma once

#include <memory>
#include <string>

#include "runtime/drafters/tree_drafter.h"

namespace convoke {

struct TreeMethodOptions {
  std::string directory;  ///< of the head or model; "random": a head without weights
  TreeShape shape = TreeShape::kDynamic;
  /// "DIR[,tree=dynamic|static]". Throws Error(kUsage).
  static TreeMethodOptions parse(const std::string& method, const std::string& argument);
};

/// Throws Error(kModel) where `spec`'s head or model does not fit the target.
std::unique_ptr<Drafter> make_tree_drafter(const DrafterSpec& spec, const DraftContext& context);

/// Features for heads, nothing for a draft model.
DraftNeeds tree_method_needs(const DrafterSpec& spec, const ModelConfig& target);

}  // namespace convoke
