// A model that extends paths of tokens: what EAGLE heads and small draft models have in common. A
// tree drafter (runtime/drafters/tree_drafter.h) decides which paths; this evaluates them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/pick.h"
#include "kernels/tensor.h"
#include "runtime/sampling_params.h"

namespace convoke {

/// Every sequence has a place and, in it, two kinds of cache entries: true ones, one per committed
/// position, and guessed ones, one per tree node, in `scratch` slots that the caller hands out.
/// Committing adds true entries; guessed ones are never promoted, only overwritten (entries made
/// from true target features are the ones to keep: reference implementations of EAGLE do the same).
/// Calls come from one thread. Results are valid until the next absorb() or expand().
class BranchModel {
 public:
  virtual ~BranchModel() = default;

  virtual int places() const = 0;
  virtual int scratch_slots() const = 0;  ///< guessed entries that a place can hold
  virtual int max_rows() const = 0;       ///< of one expand()

  virtual void open(int place, const SamplingParams& sampling, int32_t prompt_tokens) = 0;
  virtual void close(int place) = 0;

  /// What was committed. `tokens` are all tokens of the sequence so far; `features` those of the
  /// target for positions [feature_begin, feature_begin + rows), or their names
  /// (runtime/feature_ring.h), empty for models that need none.
  /// Calls for one place continue each other; a position that comes again is ignored, and one that
  /// never came (the drafter joined late) is made up for as well as can be.
  struct Committed {
    int place = 0;
    std::span<const int32_t> tokens;
    int32_t feature_begin = 0;
    TensorView features;
    bool rank = true;  ///< children of the last token are wanted (false inside a prompt)
  };
  /// Afterwards children(i) are the candidates to follow the last token of committed[i].
  virtual void absorb(std::span<const Committed> committed, int count) = 0;

  /// A tree node to be evaluated. `path` lists the scratch slots of its ancestors, the child of the
  /// last committed token first, itself last; all ancestors have been evaluated before. The node's
  /// token stands at position tokens.size() - 1 + path.size() of the sequence.
  struct Row {
    int place = 0;
    int32_t token = 0;
    std::span<const int32_t> path;
    /// Tokens along `path`, for penalties; as long as `path`.
    std::span<const int32_t> path_tokens;
  };
  /// Afterwards children(i) are the candidates to follow rows[i].
  virtual void expand(std::span<const Row> rows, int count) = 0;

  /// The `count` best-ranked tokens (fewer if the vocabulary is smaller), with the pick rule's
  /// noise unless it is off. At T > 0 scores are in units of logit / T.
  virtual std::span<const RankedToken> children(int i) const = 0;
};

}  // namespace convoke
