// One step of one replica, decided by the coordinator and obeyed by every shard.
//
// Shards mirror the state of live sequences (block table, tokens, sampling parameters), so a plan
// carries only what changed: its size is proportional to the rows of the step.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/pick.h"
#include "runtime/draft_tree.h"
#include "runtime/sampling_params.h"

namespace convoke {

using SequenceId = uint64_t;

/// A sequence enters (first time, or again after preemption, with its output so far as tokens to be
/// recomputed). `place` is its index in the shards' tables until it is closed.
struct OpenSequence {
  int32_t place = 0;
  SequenceId id = 0;
  int32_t prompt_tokens = 0;  ///< tokens at index >= this count as output for penalties
  SamplingParams sampling;
};

/// The rows of one sequence: a chain of committed tokens whose keys and values are not yet computed
/// (a prompt chunk, or the one pending token), and a draft tree whose root is the last of the
/// chain. Token i of the chain has position = slot = context + i; node j of the tree is stored in
/// slot context + chain.size() + j.
struct SequenceRows {
  int32_t place = 0;
  /// Nodes of this sequence's tree in the step before that were accepted: their keys and values
  /// move to the slots behind that step's chain, and `context` already counts them.
  std::vector<int32_t> commit;
  std::vector<int32_t> new_blocks;  ///< appended to the block table before the rows run
  int32_t context = 0;              ///< slots already valid, after the commit
  std::vector<int32_t> chain;       ///< at least one token
  DraftTree tree;
  bool pick = false;  ///< the chain ends the known tokens: pick after it (a tree implies it)
};

struct StepPlan {
  uint64_t step = 0;
  bool last = false;            ///< shards leave their loop after this plan
  std::vector<int32_t> closed;  ///< places freed, before `opened` is applied
  std::vector<OpenSequence> opened;
  std::vector<SequenceRows> sequences;  ///< distinct places; may be empty (a heartbeat)

  int rows() const {
    int count = 0;
    for (const auto& s : sequences) count += int(s.chain.size()) + s.tree.size();
    return count;
  }
};

/// Picks of one sequence: [0] after the chain, [1 + i] after node i. Empty when nothing was asked.
struct SequencePicks {
  std::vector<Pick> picks;
  /// [picks or more][1 + logprobs]: empty unless the request asks.
  std::vector<std::vector<TokenLogprob>> logprobs;
  /// Parallel to `picks`, maybe longer: rankings after probe nodes, empty for other rows. Without
  /// an entry unless probes are ranked.
  std::vector<std::vector<RankedToken>> ranked;
  int32_t first_row = 0;  ///< of the sequence's rows in the pass: its chain, then its tree
};

struct StepResult {
  std::vector<SequencePicks> sequences;  ///< parallel to StepPlan::sequences
  /// [rows of the pass, width] hidden states as FeatureSpec asks, or their names
  /// (runtime/feature_ring.h); empty on ranks other than the first and unless a drafter wants them.
  /// Valid until the next step.
  TensorView features;
  double compute_seconds = 0;        ///< of the pass on this shard
  double communication_seconds = 0;  ///< of that, waiting in collectives
};

}  // namespace convoke
