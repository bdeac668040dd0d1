// A small model of the same family as a drafter: the runtime's own transformer on one rank, with a
// vocabulary that is the target's token for token.
#pragma once

#include <filesystem>
#include <memory>

#include "parallel/communicator.h"
#include "runtime/heads/branch_factory.h"
#include "runtime/heads/paged_branch_model.h"
#include "runtime/transformer.h"

namespace convoke {

class DraftTransformer final : public PagedBranchModel {
 public:
  /// `context.dtype` and `context.load_format` hold for the draft model as well. Throws
  /// Error(kModel) where its vocabulary is not the target's.
  DraftTransformer(Backend& backend, const std::filesystem::path& directory,
                   const DraftContext& context, const BranchOptions& options);

 protected:
  void forward(Stream& stream, const Pass& pass, const KvCache& cache) override;
  TensorView logits(Stream& stream, std::span<const int32_t> rows) override;

 private:
  const ModelConfig config_;
  const ShardPlan plan_;
  std::unique_ptr<Communicator> communicator_;
  ModelWeights weights_;
  std::unique_ptr<Transformer> transformer_;
};

/// Throws Error(kModel) unless both directories have the same tokens under the same ids: equal
/// tokenizer.json files, or equal entries; the message shows the first that differs. Directories
/// without a tokenizer are compared by their vocabulary's size alone.
void check_same_vocabulary(const std::filesystem::path& draft, const ModelConfig& draft_config,
                           const std::filesystem::path& target, const ModelConfig& target_config);

}  // namespace convoke
