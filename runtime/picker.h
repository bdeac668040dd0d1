// The pick rule over a vocabulary that is spread over ranks.
//
// Plain rows (no filters, no log-probabilities): every rank bids for its slice, bids are gathered,
// the best wins. Other rows need the whole distribution: their logits are gathered, each rank
// processes its share of the rows, and the picks are gathered. Which way a row goes depends on its
// own parameters only, and both give the same bits. Rankings for drafting have no filters: every
// rank ranks its slice, and the best of all are kept.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "parallel/communicator.h"
#include "parallel/shard_plan.h"
#include "runtime/transformer.h"

namespace convoke {

/// One row whose next token is wanted.
struct PickRequest {
  int32_t row = 0;  ///< of the forward pass
  PickRow params;   ///< edits are set from edits_begin/end when the step is closed
  size_t edits_begin = 0, edits_end = 0;
  Pick* pick = nullptr;                           ///< out
  std::vector<TokenLogprob>* logprobs = nullptr;  ///< out; resized to 1 + params.logprobs, or null
  std::vector<RankedToken>* ranked = nullptr;     ///< out; resized to rank_probes(), or null
};

class Picker {
 public:
  Picker(Backend& backend, Communicator& communicator, const ShardPlan& plan, int vocabulary,
         int max_rows);

  /// How many tokens a ranking has from now on, 0 to kMaxRanked (allocates).
  void rank_probes(int count);

  /// Collects the requests of a step (leader only, outside of programs).
  void begin();
  std::vector<LogitEdit>& edit_storage() { return edits_; }
  void add(const PickRequest& request);
  void end();
  /// Says which arrays run() reads; to be asked after end().
  void announce(PassArrays& arrays) const;

  /// Part of a backend program: computes logits of all requested rows and picks. Collective.
  void run(Stream& stream, Transformer& transformer);
  /// After the program: copies picks to where the requests want them.
  void deliver();

 private:
  struct Group {  ///< rows that go the same way
    std::vector<PickRequest> requests;
    std::vector<int32_t> rows;
    std::vector<PickRow> params;
    std::vector<Pick> picks;
    size_t ranked_rows = 0;             ///< the first so many are ranked
    std::vector<RankedToken> rankings;  ///< [ranked_rows][rank_count]
  };
  void pad(Group& group, size_t ranked);
  template <typename Work>
  static void in_parts(const Group& group, Work work);
  std::span<RankedToken> rankings_of(Group& group, size_t begin, size_t count);
  Range share_of(int rank, size_t count) const;
  // What backends do.
  void rank(Stream& stream, Group& group, const TensorView& logits, size_t begin, size_t count);
  void pick_whole(Stream& stream, const TensorView& logits, size_t begin, size_t count);
  TensorView gather_rows(Stream& stream, const TensorView& logits, size_t count);
  // What hosts exchange then.
  void choose_bids(Stream& stream, size_t begin, size_t count);
  void merge_ranks(Stream& stream, Group& group, size_t begin, size_t count);
  void exchange_shares(Stream& stream, size_t begin, size_t count);

  Backend& backend_;
  Communicator& communicator_;
  const ShardPlan& plan_;
  int vocabulary_;
  int64_t slice_width_;  ///< of the widest rank: gathered slices are padded to it
  Group plain_, filtered_;
  std::vector<LogitEdit> edits_;
  size_t rank_count_ = 0;
  std::vector<RankedToken> gathered_rankings_;  ///< [tp][kLogitRows][rank_count]
  std::vector<Pick> bids_;                      ///< [tp * kLogitRows]
  std::vector<TokenLogprob> logprobs_;          ///< [max filtered rows][1 + max_logprobs_]
  std::vector<TokenLogprob> gathered_logprobs_;
  int max_logprobs_ = -1;  ///< the most that a row of this step asks for
  // All float32, in the backend's memory, made on demand.
  std::unique_ptr<Buffer> packed_slice_;  ///< [kLogitRows][slice_width_]: this rank's, dense
  std::unique_ptr<Buffer> gathered_;      ///< [tp][kLogitRows][slice_width_]
  std::unique_ptr<Buffer> whole_;         ///< [kLogitRows][vocabulary]
  std::unique_ptr<Buffer> scratch_;       ///< [kLogitRows][2 * vocabulary]
};

/// Bytes of one rank's contribution to Communicator::all_gather that a picker needs.
int64_t gather_capacity(int vocabulary, int tp);

}  // namespace convoke
