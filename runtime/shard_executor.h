// Executes step plans on one shard: mirrors the live sequences, turns a plan into rows, runs the
// transformer and the pick rule, and returns what was picked. It decides nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "parallel/communicator.h"
#include "runtime/draft_setup.h"
#include "runtime/feature_ring.h"
#include "runtime/kv_cache.h"
#include "runtime/penalties.h"
#include "runtime/picker.h"
#include "runtime/step_plan.h"
#include "runtime/transformer.h"

namespace convoke {

struct ShardLimits {
  int max_sequences = 16;   ///< places
  int max_rows = 512;       ///< of one step
  int max_positions = 512;  ///< of one sequence, tree rows included
  int32_t kv_blocks = 0;
  const DraftSetup* draft_setup = nullptr;  ///< outlives the executor; null: no drafter ever
  /// Where a drafter on this shard's device takes features; outlives the executor. May be null.
  FeatureRing* feature_ring = nullptr;
};

class ShardExecutor {
 public:
  /// All references must outlive the executor.
  ShardExecutor(Backend& backend, Communicator& communicator, const ModelConfig& config,
                const ShardPlan& plan, const ModelWeights& weights, const ShardLimits& limits);

  /// Runs one step. `result` is filled on every shard alike (its vectors are reused: in a steady
  /// state nothing is allocated). CHECKs that the plan is consistent with the mirrored state;
  /// throws Error(kPeer / kTimeout) when a collective fails.
  void execute(const StepPlan& plan, StepResult& result);

 private:
  struct Place {
    bool open = false;
    SamplingParams sampling;
    TokenCounts counts;
    std::vector<int32_t> blocks;
    /// The tree of the last step: where its first node was stored, and the tokens of its nodes.
    int32_t tree_slot = 0;
    std::vector<DraftNode> tree;
  };

  void follow_draft_setup();
  void apply_opens_and_closes(const StepPlan& plan);
  void apply_commit(const SequenceRows& rows, Place& place);
  void lay_out_rows(const StepPlan& plan, StepResult& result);
  void pad_rows();
  void name_features(int rows, PassArrays& arrays);
  void lay_out_sequence(const SequenceRows& rows, Place& place, int index, SequencePicks& picks);
  void add_chain_row(int32_t token, int32_t position, int index);
  void add_tree_row(const SequenceRows& rows, int node, int first_row, int index);
  void request_pick(Place& place, int row, int64_t position, std::span<const int32_t> path,
                    Pick* pick, std::vector<TokenLogprob>* logprobs,
                    std::vector<RankedToken>* ranked);

  Backend& backend_;
  const ShardLimits limits_;
  Transformer transformer_;
  KvCache cache_;
  Picker picker_;
  std::vector<Place> places_;
  std::shared_ptr<const DraftSupport> support_;
  uint64_t support_version_ = 0;

  // The rows of the current step; capacity reserved once.
  std::vector<int32_t> tokens_, sequence_, position_, slot_, context_, path_begin_, path_slots_;
  std::vector<const int32_t*> block_tables_;
  std::vector<KvMove> moves_;
  std::vector<int64_t> feature_names_;  ///< of the rows, if they have names
  std::vector<int32_t> feature_rows_;   ///< where they go in the ring; of padding rows -1
  std::vector<int32_t> path_tokens_;    ///< scratch
  std::vector<LogitEdit> edit_scratch_;
};

}  // namespace convoke
