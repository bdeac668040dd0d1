#include "runtime/heads/paged_branch_model.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/copy_row.h"
#include "runtime/workspace_layout.h"

namespace convoke {

PagedBranchModel::PagedBranchModel(Backend& backend, const BranchLimits& limits)
    : backend_(backend),
      limits_(limits),
      scratch_slot_(blocks_for(limits.max_positions) * kKvBlockSize),
      places_(size_t(limits.places)) {
  CONVOKE_CHECK(limits.places >= 1 && limits.scratch_slots >= 1 && limits.max_rows >= 1 &&
                limits.max_positions >= 1);
}

void PagedBranchModel::set_shape(Shape shape) {
  shape_ = std::move(shape);
  const int32_t true_blocks = blocks_for(limits_.max_positions);
  const int32_t scratch_blocks = blocks_for(limits_.scratch_slots);
  const int32_t blocks =
      limits_.kv_blocks > 0 ? limits_.kv_blocks : limits_.places * (true_blocks + scratch_blocks);
  allocator_ = std::make_unique<BlockAllocator>(blocks);
  cache_ = std::make_unique<KvCache>(backend_, shape_.layers, shape_.kv, blocks);
  for (Place& place : places_) {
    place.blocks.reserve(size_t(true_blocks));
    place.scratch_blocks.reserve(size_t(scratch_blocks));
    place.table.resize(size_t(true_blocks + scratch_blocks));
    place.held.resize(size_t(2 * shape_.feature_width));
    block_tables_.push_back(place.table.data());
  }
  static constexpr int32_t kNoTable = 0;
  block_tables_.push_back(&kNoTable);  // of rows that fill up
  const auto rows = size_t(limits_.max_rows);
  for (auto* list : {&tokens_, &sequence_, &position_, &slot_, &context_, &keep_, &from_}) {
    list->reserve(rows);
  }
  path_begin_.reserve(rows + 1);
  order_.reserve(rows);
  edits_.reserve(size_t{1} << 12);
  reserve_memory();
}

/// What passes need of the backend, other than the cache.
void PagedBranchModel::reserve_memory() {
  column_tokens_ = {backend_, shape_.column_tokens};
  backend_.reserve({.rows = limits_.max_rows,
                    .logit_rows = logit_rows(),
                    .sequences = limits_.places,
                    .positions = positions(),
                    .heads = shape_.heads,
                    .kv_heads = shape_.kv.kv_heads,
                    .head_dim = shape_.kv.head_dim,
                    .vocabulary = shape_.columns});
  if (shape_.feature_width == 0) return;
  const auto place = [&](WorkspaceLayout layout, TensorView& rows) {
    rows = layout.matrix(shape_.feature_dtype, limits_.max_rows, shape_.feature_width);
    return layout.used();
  };
  const size_t bytes = place(WorkspaceLayout(nullptr), feature_rows_);
  host_feature_memory_ = backend_.allocate_host(bytes);
  place(WorkspaceLayout(host_feature_memory_->data()), host_feature_rows_);
  feature_rows_ = host_feature_rows_;
  if (backend_.shares_host_memory()) return;
  feature_memory_ = backend_.allocate(bytes);
  place(WorkspaceLayout(feature_memory_->data()), feature_rows_);
}

void PagedBranchModel::read_features_from(std::shared_ptr<FeatureRing> ring) {
  if (ring == nullptr || shape_.feature_width == 0) return;
  ring_ = std::make_unique<FeatureRing::Reader>(std::move(ring));
}

void PagedBranchModel::open(int index, const SamplingParams& sampling, int32_t prompt_tokens) {
  Place& place = places_.at(size_t(index));
  CONVOKE_CHECK(!place.open);
  place.open = true;
  place.sampling = sampling;
  place.counts.reset(sampling, prompt_tokens);
  place.tokens = place.entries = 0;
  place.held_position[0] = place.held_position[1] = -1;
  place.stopped = !allocator_->allocate(blocks_for(limits_.scratch_slots), place.scratch_blocks);
  std::ranges::copy(place.scratch_blocks, place.table.begin() + scratch_slot_ / kKvBlockSize);
}

void PagedBranchModel::close(int index) {
  Place& place = places_.at(size_t(index));
  CONVOKE_CHECK(place.open);
  place.open = false;
  allocator_->release(place.blocks);
  allocator_->release(place.scratch_blocks);
}

bool PagedBranchModel::make_room(Place& place, int32_t entries) {
  if (entries > limits_.max_positions) return false;
  const auto held = int32_t(place.blocks.size());
  const int32_t missing = blocks_for(entries) - held;
  if (missing <= 0) return true;
  if (!allocator_->allocate(missing, place.blocks)) return false;
  std::copy(place.blocks.begin() + held, place.blocks.end(), place.table.begin() + held);
  return true;
}

// --- what was committed -------------------------------------------------------------------------

void PagedBranchModel::absorb(std::span<const Committed> committed, int count) {
  begin_results(committed.size(), count);
  start_reading(committed);
  work_.clear();
  for (size_t i = 0; i < committed.size(); ++i) {
    const Work work = plan(committed[i], int32_t(i));
    if (work.next < work.end) work_.push_back(work);
  }
  clear_rows();
  for (Work& work : work_) {
    for (; work.next < work.end; ++work.next) {
      if (int(tokens_.size()) == limits_.max_rows || !fits_pass(work)) run_pass(false);
      add_true_row(work, work.next);
    }
  }
  // What is held in the ring is so by the last pass; what is held on the host when all have read
  // what was held before.
  for (const Committed& c : committed) hold(c, true);
  if (!tokens_.empty()) {
    run_pass(false);
  } else if (!hold_from_.empty()) {
    const RingLists lists = list_ring_rows(0);
    backend_.run({.indices = {ring_lists_}}, [&](Stream& stream) { read_ring(stream, lists, {}); });
  }
  for (const Committed& c : committed) hold(c, false);
  hold_from_.clear(), hold_to_.clear();
  reading_.reset();
}

/// Until all passes have run nothing that was named may be overwritten.
void PagedBranchModel::start_reading(std::span<const Committed> committed) {
  hold_from_.clear(), hold_to_.clear();
  if (ring_ == nullptr) return;
  int64_t oldest = INT64_MAX;
  for (const Committed& c : committed) {
    if (are_names(c.features)) oldest = std::min(oldest, *c.features.row<int64_t>(0));
  }
  reading_.emplace(ring_->ring(), oldest);
}

/// A pass takes features from the host or from the ring; rows without one are in either.
bool PagedBranchModel::fits_pass(const Work& work) const {
  if (shape_.feature_width == 0) return true;
  const FeatureRow row = feature(*work.committed, work.next);
  return row.data != nullptr ? !ring_features_ : row.ring_row < 0 || !host_features_;
}

PagedBranchModel::Work PagedBranchModel::plan(const Committed& committed, int32_t result) {
  Place& place = places_.at(size_t(committed.place));
  CONVOKE_CHECK(place.open);
  const auto tokens = int32_t(committed.tokens.size());
  CONVOKE_CHECK_GE(tokens, place.tokens);
  CONVOKE_CHECK(committed.features.rows == 0 || shape_.feature_width == 0 ||
                are_names(committed.features) || committed.features.cols == shape_.feature_width);
  place.counts.append(committed.tokens.subspan(size_t(place.tokens)));
  place.tokens = tokens;
  const int32_t all = std::max(0, tokens - shape_.shift);
  // Inside a prompt a model that needs features waits for them; at the end of it there are only
  // those that there are.
  int32_t end = all;
  if (shape_.feature_width > 0 && !committed.rank) {
    const auto known = int32_t(committed.feature_begin + committed.features.rows);
    end = std::clamp(committed.features.rows > 0 ? known : 0, place.entries, all);
  }
  if (place.stopped || !make_room(place, end)) {
    place.stopped = true;
    return {};
  }
  // Asked again for the same place, the last row runs again: its candidates were not kept.
  const int32_t begin =
      committed.rank && place.entries == end ? std::max(0, end - 1) : place.entries;
  place.entries = end;
  return {&committed, result, begin, end};
}

FeatureRow PagedBranchModel::feature(const Committed& committed, int32_t position) const {
  const Place& place = places_[size_t(committed.place)];
  const int64_t row = int64_t(position) - committed.feature_begin;
  if (row >= 0 && row < committed.features.rows) {
    const TensorView one = committed.features.row_range(row, row + 1);
    if (!are_names(one)) return {.data = one.data, .dtype = one.dtype};
    return {.ring_row = reading_ ? reading_->row(*one.row<int64_t>(0)) : -1};
  }
  const size_t half = size_t(position & 1);
  if (place.held_position[half] != position) return {};
  if (place.held_in_ring[half]) return {.ring_row = reading_->own_row(committed.place, int(half))};
  return {.data = place.held.data() + half * size_t(shape_.feature_width)};
}

void PagedBranchModel::hold(const Committed& committed, bool in_ring) {
  Place& place = places_[size_t(committed.place)];
  if (shape_.feature_width == 0 || place.stopped) return;
  for (const int32_t position : {place.entries - 1, place.entries}) {
    const size_t half = size_t(position & 1);
    if (place.held_position[half] == position) continue;
    const FeatureRow row = feature(committed, position);
    if (in_ring ? row.ring_row < 0 : row.data == nullptr) continue;
    if (in_ring) {
      hold_from_.push_back(row.ring_row);
      hold_to_.push_back(reading_->own_row(committed.place, int(half)) - reading_->own_row(0, 0));
    } else {
      copy_row(row.data, row.dtype, place.held.data() + half * size_t(shape_.feature_width),
               DType::kFloat32, shape_.feature_width);
    }
    place.held_position[half] = position;
    place.held_in_ring[half] = in_ring;
  }
}

PagedBranchModel::RingLists PagedBranchModel::list_ring_rows(size_t rows) {
  const size_t gathered = ring_features_ ? rows : 0;
  // As many every time, so that passes of as many rows are alike.
  const size_t held = hold_from_.empty() ? 0 : std::max(hold_from_.size(), 2 * rows);
  ring_lists_.assign(gathered + 2 * held, -1);
  for (size_t r = 0; r < std::min(gathered, features_.size()); ++r) {
    ring_lists_[r] = features_[r].ring_row;
  }
  std::ranges::copy(hold_from_, ring_lists_.begin() + int64_t(gathered));
  std::ranges::copy(hold_to_, ring_lists_.begin() + int64_t(gathered + held));
  const auto all = std::span<const int32_t>(ring_lists_);
  return {all.first(gathered), all.subspan(gathered, held), all.subspan(gathered + held)};
}

/// Part of a program of true rows: their features, and what is held of the ring from now on.
void PagedBranchModel::read_ring(Stream& stream, const RingLists& lists,
                                 const TensorView& features) {
  if (!lists.gather.empty()) {
    backend_.copy_rows(stream, {.x = reading_->all(), .y = features, .from = lists.gather});
  }
  if (lists.hold_from.empty()) return;
  const TensorView& all = reading_->all();
  backend_.copy_rows(stream, {.x = reading_->named(),
                              .y = all.row_range(reading_->named().rows, all.rows),
                              .from = lists.hold_from,
                              .to = lists.hold_to});
}

void PagedBranchModel::add_true_row(const Work& work, int32_t entry) {
  const Committed& committed = *work.committed;
  const Place& place = places_[size_t(committed.place)];
  tokens_.push_back(committed.tokens[size_t(entry + shape_.shift)]);
  sequence_.push_back(committed.place);
  position_.push_back(entry);
  slot_.push_back(entry);
  context_.push_back(entry + 1);
  path_begin_.push_back(int32_t(path_slots_.size()));
  if (shape_.feature_width > 0) {
    const FeatureRow row = features_.emplace_back(feature(committed, entry));
    host_features_ |= row.data != nullptr;
    ring_features_ |= row.ring_row >= 0;
  }
  const bool last = entry + 1 == place.tokens - shape_.shift;
  keep_.push_back(last ? state_of(committed.place, -1) : -1);
  if (last && committed.rank) want(place, work.result, place.tokens, {});
}

// --- guesses ------------------------------------------------------------------------------------

void PagedBranchModel::expand(std::span<const Row> rows, int count) {
  CONVOKE_CHECK_LE(int(rows.size()), limits_.max_rows);
  begin_results(rows.size(), count);
  clear_rows();
  sort_by_place(rows);
  for (const size_t i : order_) {
    const Row& row = rows[i];
    const Place& place = places_.at(size_t(row.place));
    CONVOKE_CHECK(place.open && !row.path.empty() && row.path.size() == row.path_tokens.size());
    if (place.stopped) continue;
    // Everything committed has been absorbed, with ranking, before trees are grown on it.
    CONVOKE_CHECK(place.entries == std::max(0, place.tokens - shape_.shift));
    add_guess(row);
    want(place, int(i), int64_t(place.tokens) + int64_t(row.path.size()), row.path_tokens);
  }
  if (!tokens_.empty()) run_pass(true);
}

/// Rows of a sequence follow each other (AttentionBatch), in whatever order they were asked for.
void PagedBranchModel::sort_by_place(std::span<const Row> rows) {
  order_.resize(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) order_[i] = i;
  std::ranges::sort(order_, {}, [&](size_t i) { return std::pair(rows[i].place, i); });
}

void PagedBranchModel::add_guess(const Row& row) {
  const Place& place = places_[size_t(row.place)];
  const int32_t self = row.path.back();
  CONVOKE_CHECK(self >= 0 && self < limits_.scratch_slots);
  tokens_.push_back(row.token);
  sequence_.push_back(row.place);
  position_.push_back(place.entries + int32_t(row.path.size()) - 1);
  slot_.push_back(scratch_slot_ + self);
  context_.push_back(place.entries);
  for (const int32_t slot : row.path) path_slots_.push_back(scratch_slot_ + slot);
  path_begin_.push_back(int32_t(path_slots_.size()));
  from_.push_back(state_of(row.place, row.path.size() == 1 ? -1 : row.path[row.path.size() - 2]));
  keep_.push_back(state_of(row.place, self));
}

// --- a pass -------------------------------------------------------------------------------------

void PagedBranchModel::clear_rows() {
  for (auto* list : {&tokens_, &sequence_, &position_, &slot_, &context_, &path_slots_, &keep_,
                     &from_, &wanted_rows_}) {
    list->clear();
  }
  path_begin_.assign(1, 0);
  features_.clear();
  host_features_ = ring_features_ = false;
  wanted_.clear();
  params_.clear();
  edits_.clear();
}

void PagedBranchModel::want(const Place& place, int result, int64_t position,
                            std::span<const int32_t> path) {
  const size_t begin = edits_.size();
  const std::span<const LogitEdit> edits = place.counts.edits(path, edit_scratch_);
  // A text's edits become more by and by; insert() alone would make room for just these.
  if (begin + edits.size() > edits_.capacity()) edits_.reserve(2 * (begin + edits.size()));
  edits_.insert(edits_.end(), edits.begin(), edits.end());
  Wanted& wanted = wanted_.emplace_back();
  wanted.row = int32_t(tokens_.size()) - 1;
  wanted.result = result;
  wanted.edits_begin = begin;
  wanted.edits_end = edits_.size();
  wanted.params.temperature = place.sampling.temperature;
  wanted.params.seed = place.sampling.seed;
  wanted.params.position = position;
}

/// Fills pass and ranking up to the numbers of rows that the backend wants.
void PagedBranchModel::pad_rows() {
  const auto rows = size_t(backend_.pass_rows(int(tokens_.size())));
  tokens_.resize(rows, kPaddingToken);
  sequence_.resize(rows, limits_.places);  // whose table is not read
  position_.resize(rows, 0);
  slot_.resize(rows, -1);
  context_.resize(rows, 0);
  path_begin_.resize(rows + 1, path_begin_.back());
  keep_.resize(rows, -1);
  if (!from_.empty()) from_.resize(rows, kPaddingToken);
  const size_t wanted = wanted_rows_.size();
  if (wanted == 0 || wanted > size_t(logit_rows())) return;
  const auto padded = size_t(backend_.pass_rows(int(wanted)));
  wanted_rows_.resize(padded, wanted_rows_.front());
  params_.resize(padded);
}

/// Brings the features of a pass of `rows` rows to where they can be copied from.
void PagedBranchModel::stage_features(size_t rows) {
  if (ring_features_) return;  // they are there
  for (size_t r = 0; r < rows; ++r) {
    const FeatureRow known = r < features_.size() ? features_[r] : FeatureRow{};
    copy_row(known.data, known.dtype, host_feature_rows_.row<std::byte>(int64_t(r)),
             shape_.feature_dtype, shape_.feature_width);
  }
}

void PagedBranchModel::run_pass(bool guesses) {
  for (Wanted& wanted : wanted_) {
    wanted.params.edits =
        std::span(edits_).subspan(wanted.edits_begin, wanted.edits_end - wanted.edits_begin);
    wanted_rows_.push_back(wanted.row);
    params_.push_back(wanted.params);
    ranked_at_[size_t(wanted.result)] = int32_t(ranked_rows_++);
  }
  pad_rows();
  // Those of this pass begin where the last one's end; padding comes behind, and is overwritten.
  const size_t first = (ranked_rows_ - wanted_.size()) * size_t(count_);
  ranked_.resize(first + wanted_rows_.size() * size_t(count_));
  const AttentionBatch batch{.rows = int(tokens_.size()),
                             .sequence = sequence_,
                             .position = position_,
                             .slot = slot_,
                             .context = context_,
                             .path_begin = path_begin_,
                             .path_slots = path_slots_,
                             .block_tables = block_tables_};
  Pass pass{.tokens = tokens_,
            .batch = batch,
            .guesses = guesses,
            .features = {},
            .keep = keep_,
            .from = from_};
  if (shape_.feature_width > 0 && !guesses) {
    stage_features(tokens_.size());
    pass.features = feature_rows_.row_range(0, batch.rows);
  }
  run_program(pass, std::span(ranked_).subspan(first));
  clear_rows();
}

void PagedBranchModel::run_program(const Pass& pass, std::span<RankedToken> ranked) {
  PassArrays arrays{.tokens = pass.tokens, .batch = &pass.batch};
  arrays.rows[0] = wanted_rows_;
  arrays.picks[0] = params_;
  if (shape_.feature_width > 0) arrays.indices = {pass.keep, pass.from};
  RingLists lists;
  if (!pass.guesses) {
    lists = list_ring_rows(pass.tokens.size());
    arrays.indices[1] = ring_lists_;
  }
  const auto step = size_t(logit_rows());
  const auto width = size_t(count_);
  backend_.run(arrays, [&](Stream& stream) {
    if (!ring_features_ && pass.features.data != nullptr &&
        feature_rows_.data != host_feature_rows_.data) {
      backend_.copy(stream, host_feature_rows_.row_range(0, pass.features.rows), pass.features);
    }
    read_ring(stream, lists, pass.features);
    forward(stream, pass, *cache_);
    for (size_t first = 0; first < wanted_rows_.size() && width > 0; first += step) {
      const size_t rows = std::min(step, wanted_rows_.size() - first);
      backend_.rank(stream, {.logits = logits(stream, std::span(wanted_rows_).subspan(first, rows)),
                             .tokens = {column_tokens_.data(), column_tokens_.size()},
                             .params = std::span(params_).subspan(first, rows),
                             .noise = shape_.noise,
                             .count = count_,
                             .ranked = ranked.subspan(first * width, rows * width)});
    }
  });
}

// --- results ------------------------------------------------------------------------------------

void PagedBranchModel::begin_results(size_t results, int count) {
  CONVOKE_CHECK(count >= 0 && count <= kMaxRanked);
  count_ = int(std::min<int64_t>(count, shape_.columns));
  ranked_at_.assign(results, -1);
  ranked_rows_ = 0;
  ranked_.clear();
}

std::span<const RankedToken> PagedBranchModel::children(int i) const {
  const int32_t at = ranked_at_.at(size_t(i));
  if (at < 0) return {};
  auto best = std::span(ranked_).subspan(size_t(at) * size_t(count_), size_t(count_));
  while (!best.empty() && best.back().token < 0) best = best.first(best.size() - 1);  // banned ones
  return best;
}

}  // namespace convoke
