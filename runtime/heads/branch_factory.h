// Opens the model behind a drafting method that grows branches: eagle, eagle3, draft-model.
#pragma once

#include <memory>
#include <string>

#include "runtime/branch_model.h"
#include "runtime/drafter.h"
#include "runtime/heads/eagle_head.h"

namespace convoke {

struct BranchOptions {
  int scratch_slots = 256;   ///< tree nodes kept per sequence
  int max_rows = 64;         ///< of one pass
  bool shared_noise = true;  ///< rank with the pick rule's noise
  /// Weights that would be held in bfloat16 are held in 8 bits: half the bytes to read.
  bool float8 = false;
};

/// `method` is "eagle", "eagle3" or "draft-model"; `argument` the directory of the head or the
/// model
/// ("random" for a head without weights). Everything is checked against the target before memory is
/// taken. Throws Error(kUsage) for another method, Error(kModel) for files that are wrong.
std::unique_ptr<BranchModel> open_branch_model(const std::string& method,
                                               const std::string& argument,
                                               const DraftContext& context,
                                               const BranchOptions& options, Backend& backend);

/// The same with a backend of its own, which goes with the model.
std::unique_ptr<BranchModel> open_branch_model(const std::string& method,
                                               const std::string& argument,
                                               const DraftContext& context,
                                               const BranchOptions& options);

/// The backend of a drafter's own passes: context.threads of context.cpu_isa.
std::unique_ptr<Backend> make_draft_backend(const DraftContext& context);

/// What `context` allows: a place per sequence, texts as long as the target takes them.
BranchLimits branch_limits(const DraftContext& context, const ModelConfig& target,
                           const BranchOptions& options);

}  // namespace convoke
