#include "runtime/shard_executor.h"

#include <chrono>

#include "kernels/check.h"

namespace convoke {

ShardExecutor::ShardExecutor(Backend& backend, Communicator& communicator,
                             const ModelConfig& config, const ShardPlan& plan,
                             const ModelWeights& weights, const ShardLimits& limits)
    : backend_(backend),
      limits_(limits),
      transformer_(backend, communicator, config, plan, weights, limits.max_rows,
                   limits.max_sequences),
      cache_(backend, config.layers,
             {.kv_heads = int(plan.local_kv_heads()),
              .head_dim = config.head_dim,
              .dtype = weights.lm_head->activation_dtype()},
             limits.kv_blocks),
      picker_(backend, communicator, plan, config.vocabulary, limits.max_rows),
      places_(size_t(limits.max_sequences)) {
  const auto rows = size_t(limits.max_rows);
  for (auto* list : {&tokens_, &sequence_, &position_, &slot_, &context_, &path_slots_}) {
    list->reserve(rows);
  }
  path_begin_.reserve(rows + 1);
  block_tables_.reserve(size_t(limits.max_sequences) + 1);
  moves_.reserve(rows);
  path_tokens_.reserve(rows);
  feature_names_.reserve(rows);
  feature_rows_.reserve(rows);
  edit_scratch_.reserve(size_t{1} << 12);
  for (Place& place : places_) {
    place.blocks.reserve(size_t(blocks_for(limits.max_positions + limits.max_rows)));
    place.tree.reserve(rows);
  }
}

void ShardExecutor::execute(const StepPlan& plan, StepResult& result) {
  const auto start = std::chrono::steady_clock::now();
  follow_draft_setup();
  apply_opens_and_closes(plan);
  lay_out_rows(plan, result);
  const int rows = int(tokens_.size());
  pad_rows();

  const AttentionBatch batch{.rows = int(tokens_.size()),
                             .sequence = sequence_,
                             .position = position_,
                             .slot = slot_,
                             .context = context_,
                             .path_begin = path_begin_,
                             .path_slots = path_slots_,
                             .block_tables = block_tables_};
  if (!tokens_.empty()) {
    PassArrays arrays{
        .tokens = tokens_, .batch = &batch, .layers = cache_.layers(), .moves = moves_};
    picker_.announce(arrays);
    name_features(rows, arrays);
    backend_.run(arrays, [&](Stream& stream) {
      if (!moves_.empty()) backend_.move_kv(stream, cache_.layers(), moves_);
      transformer_.forward(stream, tokens_, batch, cache_);
      picker_.run(stream, transformer_);
    });
    picker_.deliver();
  }
  result.features = feature_names_.empty() || rows == 0
                        ? transformer_.features(rows)
                        : TensorView::matrix(feature_names_.data(), kFeatureNames, rows, 1);
  result.communication_seconds = transformer_.take_communication_seconds();
  result.compute_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void ShardExecutor::follow_draft_setup() {
  if (limits_.draft_setup == nullptr) return;
  const uint64_t version = limits_.draft_setup->version();
  if (version == support_version_) return;
  support_version_ = version;
  support_ = limits_.draft_setup->get();
  transformer_.export_features(support_->needs.features);
  if (limits_.feature_ring != nullptr) {
    limits_.feature_ring->prepare(backend_, transformer_.feature_dtype(),
                                  transformer_.feature_width());
  }
  transformer_.set_lookahead(support_->lookahead);
  picker_.rank_probes(support_->needs.probe_candidates);
}

void ShardExecutor::apply_opens_and_closes(const StepPlan& plan) {
  for (int32_t index : plan.closed) {
    Place& place = places_.at(size_t(index));
    CONVOKE_CHECK(place.open);
    place.open = false;
    place.blocks.clear();
    place.tree.clear();
  }
  for (const OpenSequence& open : plan.opened) {
    Place& place = places_.at(size_t(open.place));
    CONVOKE_CHECK(!place.open);
    place.open = true;
    place.sampling = open.sampling;
    place.counts.reset(open.sampling, open.prompt_tokens);
  }
}

void ShardExecutor::lay_out_rows(const StepPlan& plan, StepResult& result) {
  for (auto* list : {&tokens_, &sequence_, &position_, &slot_, &context_, &path_slots_}) {
    list->clear();
  }
  path_begin_.assign(1, 0);
  block_tables_.clear();
  moves_.clear();
  picker_.begin();
  result.sequences.resize(plan.sequences.size());
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const SequenceRows& rows = plan.sequences[i];
    Place& place = places_.at(size_t(rows.place));
    CONVOKE_CHECK(place.open && !rows.chain.empty());
    lay_out_sequence(rows, place, int(i), result.sequences[i]);
  }
  picker_.end();
  CONVOKE_CHECK_LE(int(tokens_.size()), limits_.max_rows);
}

/// Fills the pass up to the number of rows that the backend wants (kPaddingToken).
void ShardExecutor::pad_rows() {
  const auto rows = tokens_.size();
  if (rows == 0) return;
  const auto padded = size_t(backend_.pass_rows(int(rows)));
  if (padded == rows) return;
  static constexpr int32_t kNoTable = 0;
  tokens_.resize(padded, kPaddingToken);
  sequence_.resize(padded, int32_t(block_tables_.size()));
  position_.resize(padded, 0);
  slot_.resize(padded, -1);
  context_.resize(padded, 0);
  path_begin_.resize(padded + 1, path_begin_.back());
  block_tables_.push_back(&kNoTable);
}

/// Leaves the pass's features where a drafter takes them, if one does; else they go to the host.
void ShardExecutor::name_features(int rows, PassArrays& arrays) {
  feature_rows_.clear();
  const bool named = transformer_.feature_width() > 0 && limits_.feature_ring != nullptr &&
                     limits_.feature_ring->take(rows, feature_names_);
  if (!named) {
    feature_names_.clear();
    return transformer_.leave_features({}, {});
  }
  for (const int64_t name : feature_names_) {
    feature_rows_.push_back(limits_.feature_ring->row_of(name));
  }
  feature_rows_.resize(tokens_.size(), -1);
  arrays.indices[0] = feature_rows_;
  transformer_.leave_features(limits_.feature_ring->rows(), feature_rows_);
}

void ShardExecutor::lay_out_sequence(const SequenceRows& rows, Place& place, int index,
                                     SequencePicks& picks) {
  // Blocks first: an accepted node may move into one that is new (its tree lay in blocks the
  // sequence had already, but the order costs nothing and needs no thought).
  place.blocks.insert(place.blocks.end(), rows.new_blocks.begin(), rows.new_blocks.end());
  apply_commit(rows, place);
  const int chain = int(rows.chain.size());
  const int slots = rows.context + chain + rows.tree.size();
  CONVOKE_CHECK_LE(blocks_for(slots), int32_t(place.blocks.size()));
  block_tables_.push_back(place.blocks.data());

  place.counts.append(rows.chain);
  const int first_row = int(tokens_.size());
  picks.first_row = first_row;
  for (int i = 0; i < chain; ++i) add_chain_row(rows.chain[size_t(i)], rows.context + i, index);
  for (int n = 0; n < rows.tree.size(); ++n) add_tree_row(rows, n, first_row, index);
  place.tree_slot = rows.context + chain;
  place.tree.assign(rows.tree.nodes.begin(), rows.tree.nodes.end());

  const bool wanted = rows.pick || !rows.tree.empty();
  const size_t count = wanted ? size_t(1 + rows.tree.size()) : 0;
  picks.picks.resize(count);
  // Lists of lists are never made shorter, so that the inner ones keep their memory.
  if (place.sampling.logprobs < 0) picks.logprobs.clear();
  if (place.sampling.logprobs >= 0 && picks.logprobs.size() < count) picks.logprobs.resize(count);
  const bool ranks = support_ != nullptr && support_->needs.probe_candidates > 0;
  if (ranks && picks.ranked.size() < count) picks.ranked.resize(count);
  for (std::vector<RankedToken>& ranked : picks.ranked) ranked.clear();
  for (size_t i = 0; i < count; ++i) {
    const bool probe = i > 0 && rows.tree.nodes[i - 1].probe;
    const int row = first_row + chain - 1 + int(i);
    path_tokens_.clear();
    for (int n = int(i) - 1; n >= 0; n = rows.tree.nodes[size_t(n)].parent) {
      path_tokens_.insert(path_tokens_.begin(), rows.tree.nodes[size_t(n)].token);
    }
    request_pick(place, row, position_[size_t(row)] + 1, path_tokens_, &picks.picks[i],
                 picks.logprobs.empty() ? nullptr : &picks.logprobs[i],
                 ranks && probe ? &picks.ranked[i] : nullptr);
  }
}

void ShardExecutor::apply_commit(const SequenceRows& rows, Place& place) {
  int32_t to = place.tree_slot;
  path_tokens_.clear();
  for (int32_t node : rows.commit) {
    const int32_t from = place.tree_slot + node;
    if (from != to) moves_.push_back({place.blocks.data(), from, to});
    path_tokens_.push_back(place.tree.at(size_t(node)).token);
    ++to;
  }
  place.counts.append(path_tokens_);
  place.tree.clear();
  CONVOKE_CHECK(rows.commit.empty() || to == rows.context);
}

void ShardExecutor::add_chain_row(int32_t token, int32_t position, int index) {
  tokens_.push_back(token);
  sequence_.push_back(index);
  position_.push_back(position);
  slot_.push_back(position);
  context_.push_back(position + 1);
  path_begin_.push_back(int32_t(path_slots_.size()));
}

void ShardExecutor::add_tree_row(const SequenceRows& rows, int node, int first_row, int index) {
  const int32_t base = rows.context + int32_t(rows.chain.size());  // slot of node 0
  const DraftNode& self = rows.tree.nodes[size_t(node)];
  tokens_.push_back(self.token);
  sequence_.push_back(index);
  slot_.push_back(base + node);
  context_.push_back(base);
  // The parent's path is already there; this row's is that and itself.
  if (self.parent >= 0) {
    const auto parent_row = size_t(first_row) + rows.chain.size() + size_t(self.parent);
    for (int32_t p = path_begin_[parent_row]; p < path_begin_[parent_row + 1]; ++p) {
      path_slots_.push_back(path_slots_[size_t(p)]);
    }
  }
  path_slots_.push_back(base + node);
  const int32_t depth = int32_t(path_slots_.size()) - path_begin_.back() - 1;
  position_.push_back(base + depth);
  path_begin_.push_back(int32_t(path_slots_.size()));
}

void ShardExecutor::request_pick(Place& place, int row, int64_t position,
                                 std::span<const int32_t> path, Pick* pick,
                                 std::vector<TokenLogprob>* logprobs,
                                 std::vector<RankedToken>* ranked) {
  const SamplingParams& sampling = place.sampling;
  std::vector<LogitEdit>& storage = picker_.edit_storage();
  const size_t begin = storage.size();
  const std::span<const LogitEdit> edits = place.counts.edits(path, edit_scratch_);
  storage.insert(storage.end(), edits.begin(), edits.end());
  picker_.add({.row = row,
               .params = {.temperature = sampling.temperature,
                          .top_k = std::max(sampling.top_k, 0),
                          .top_p = sampling.top_p,
                          .min_p = sampling.min_p,
                          .seed = sampling.seed,
                          .position = position,
                          .edits = {},
                          .logprobs = sampling.logprobs},
               .edits_begin = begin,
               .edits_end = storage.size(),
               .pick = pick,
               .logprobs = logprobs,
               .ranked = ranked});
}

}  // namespace convoke
