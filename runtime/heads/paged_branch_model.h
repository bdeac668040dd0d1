// What all branch models share: places with paged caches, rows of a pass, and the ranking of their
// logits. A model that derives from this says how rows are computed, and nothing else.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "runtime/branch_model.h"
#include "runtime/feature_ring.h"
#include "runtime/kv_cache.h"
#include "runtime/penalties.h"

namespace convoke {

struct BranchLimits {
  int places = 16;
  int scratch_slots = 256;
  int max_rows = 64;         ///< of one pass; longer prompts take several
  int max_positions = 4096;  ///< of one sequence
  int32_t kv_blocks = 0;     ///< 0: as many as all places can need
};

/// What is known before a row is computed, other than its token: the target's feature of a true
/// row, in host memory, or in a row of FeatureRing::Reading::all(). Neither: unknown, to be taken
/// as zeros.
struct FeatureRow {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int32_t ring_row = -1;
};

/// A place's cache: entry e of the true ones lies in slot e, guessed ones lie after the last slot
/// that a true one can have. A place that the cache has no room for, or whose text outgrows
/// `max_positions`, gives no candidates until it is closed: drafts may be missing, never in the
/// way.
class PagedBranchModel : public BranchModel {
 public:
  /// Keeps the backend that this was made with, which then goes with it.
  void own(std::unique_ptr<Backend> backend) { own_backend_ = std::move(backend); }
  /// Features may come as names of this ring's rows, which a sibling of its backend writes; it has
  /// two rows for every place. Once, before anything is absorbed. null: they come as rows.
  void read_features_from(std::shared_ptr<FeatureRing> ring);

  int places() const override { return limits_.places; }
  int scratch_slots() const override { return limits_.scratch_slots; }
  int max_rows() const override { return limits_.max_rows; }
  void open(int place, const SamplingParams& sampling, int32_t prompt_tokens) override;
  void close(int place) override;
  void absorb(std::span<const Committed> committed, int count) override;
  void expand(std::span<const Row> rows, int count) override;
  std::span<const RankedToken> children(int i) const override;

 protected:
  struct Shape {
    /// Entry e holds token e + shift: 1 where an entry pairs the feature of a position with the
    /// token after it, 0 for a model of tokens alone.
    int shift = 0;
    int64_t feature_width = 0;              ///< 0: needs none
    DType feature_dtype = DType::kFloat32;  ///< of Pass::features; kFloat32 or kBFloat16
    int layers = 1;
    int heads = 0;  ///< of queries
    KvShape kv;
    int64_t columns = 0;  ///< of the logits
    /// Vocabulary ids of the columns, ascending; empty: the columns are the vocabulary.
    std::vector<int32_t> column_tokens;
    bool noise = true;
  };
  /// One pass. Rows are all true entries or all guesses, and behind them maybe some that fill the
  /// pass up (kPaddingToken).
  struct Pass {
    std::span<const int32_t> tokens;
    const AttentionBatch& batch;
    bool guesses = false;
    TensorView features;  ///< [rows, feature_width] of true rows, in the backend's memory
    /// Where a model keeps what it hands from a row to the rows after it: `keep` of a row is where
    /// its own goes (-1: nowhere), `from` of a guess is where its parent's lies. Places have
    /// scratch_slots + 1 of these each: states() in all.
    std::span<const int32_t> keep;
    std::span<const int32_t> from;
  };

  PagedBranchModel(Backend& backend, const BranchLimits& limits);
  /// To be called once, by the deriving constructor, when all matrices have been packed.
  void set_shape(Shape shape);

  /// Part of a backend program: every thread of the team calls it.
  virtual void forward(Stream& stream, const Pass& pass, const KvCache& cache) = 0;
  /// Logits [rows.size(), columns] of at most logit_rows() rows of the last forward().
  virtual TensorView logits(Stream& stream, std::span<const int32_t> rows) = 0;

  const BranchLimits& limits() const { return limits_; }
  int logit_rows() const { return std::min(limits_.max_rows, kMostLogitRows); }
  int states() const { return limits_.places * (limits_.scratch_slots + 1); }
  /// Positions that a row can have: those of texts, and of trees that reach beyond their end.
  int positions() const { return limits_.max_positions + limits_.scratch_slots; }
  Backend& backend() { return backend_; }

 private:
  static constexpr int kMostLogitRows = 64;

  struct Place {
    bool open = false;
    bool stopped = false;  ///< gives no candidates any more
    SamplingParams sampling;
    TokenCounts counts;
    int32_t tokens = 0;   ///< committed
    int32_t entries = 0;  ///< true ones in the cache
    std::vector<int32_t> blocks, scratch_blocks;
    std::vector<int32_t> table;  ///< of both; the second begins at scratch_slot_
    /// The last two features that came: one may wait for its token, the other may be asked for
    /// again. Position p is held in [p & 1].
    int32_t held_position[2] = {-1, -1};
    bool held_in_ring[2] = {false, false};  ///< in the place's own rows there; else in `held`
    std::vector<float> held;                ///< [2 * feature_width]
  };
  /// The true rows that one place has yet to run.
  struct Work {
    const Committed* committed = nullptr;
    int32_t result = 0;
    int32_t next = 0;
    int32_t end = 0;
  };
  struct Wanted {
    int32_t row = 0;
    int32_t result = 0;
    size_t edits_begin = 0, edits_end = 0;
    PickRow params;
  };

  int32_t state_of(int place, int32_t slot) const {  // slot -1: of the last committed token
    return int32_t(place) * (limits_.scratch_slots + 1) + 1 + slot;
  }
  void begin_results(size_t results, int count);
  bool make_room(Place& place, int32_t entries);
  Work plan(const Committed& committed, int32_t result);
  void add_true_row(const Work& work, int32_t entry);
  void add_guess(const Row& row);
  void reserve_memory();
  void clear_rows();
  void sort_by_place(std::span<const Row> rows);
  void pad_rows();
  void stage_features(size_t rows);
  void want(const Place& place, int result, int64_t position, std::span<const int32_t> path);
  void run_pass(bool guesses);
  void run_program(const Pass& pass, std::span<RankedToken> ranked);
  FeatureRow feature(const Committed& committed, int32_t position) const;
  bool fits_pass(const Work& work) const;
  void start_reading(std::span<const Committed> committed);
  void hold(const Committed& committed, bool in_ring);
  /// What a program reads of the ring, and holds in it, as parts of one array that it is told of.
  struct RingLists {
    std::span<const int32_t> gather, hold_from, hold_to;
  };
  RingLists list_ring_rows(size_t rows);
  void read_ring(Stream& stream, const RingLists& lists, const TensorView& features);

  std::unique_ptr<Backend> own_backend_;  ///< first, since everything else lives in it
  Backend& backend_;
  const BranchLimits limits_;
  Shape shape_;
  int32_t scratch_slot_;  ///< where guessed entries begin
  std::unique_ptr<BlockAllocator> allocator_;
  std::unique_ptr<KvCache> cache_;
  std::vector<Place> places_;
  IndexArray column_tokens_;  ///< Shape::column_tokens where kernels read them
  /// Features of a pass: gathered in host memory, and where kernels read them.
  std::unique_ptr<FeatureRing::Reader> ring_;
  std::optional<FeatureRing::Reading> reading_;  ///< while absorb() is at work
  std::unique_ptr<Buffer> host_feature_memory_, feature_memory_;
  TensorView host_feature_rows_, feature_rows_;  ///< [max_rows, feature_width]

  // Of the current pass; vectors keep their capacity.
  std::vector<int32_t> tokens_, sequence_, position_, slot_, context_, path_begin_, path_slots_;
  std::vector<const int32_t*> block_tables_;
  std::vector<FeatureRow> features_;
  bool ring_features_ = false, host_features_ = false;  ///< the pass has rows with such
  /// What the ring is to hold after the last pass: from a named row to a place's own.
  std::vector<int32_t> hold_from_, hold_to_;
  std::vector<int32_t> ring_lists_;
  std::vector<int32_t> keep_, from_;
  std::vector<size_t> order_;  ///< of guesses: those of a place together
  std::vector<Work> work_;
  std::vector<Wanted> wanted_;
  std::vector<int32_t> wanted_rows_;
  std::vector<PickRow> params_;
  std::vector<LogitEdit> edits_, edit_scratch_;
  // Results of the last absorb() or expand().
  int count_ = 0;
  std::vector<RankedToken> ranked_;  ///< [results that were ranked, and padding][count_]
  std::vector<int32_t> ranked_at_;   ///< per result, its place in ranked_, or -1
  size_t ranked_rows_ = 0;
};

}  // namespace convoke
