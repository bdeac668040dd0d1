#include "runtime/drafters/tree_drafter.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "runtime/drafters/static_tree.h"

namespace convoke {
namespace {

/// Features that wait for the next batch; more are taken in at once, and so are those of prompts.
constexpr int64_t kMostKeptRows = 64;

void check_range(const std::string& name, const char* option, int64_t value, int64_t low,
                 int64_t high) {
  if (value >= low && value <= high) return;
  throw_error(ErrorKind::kUsage, "--drafter {}: {} is {}, expected {} to {}", name, option, value,
              low, high);
}

/// Rows of target features at consecutive positions.
struct FeatureRows {
  std::vector<std::byte> bytes;
  TensorView view;  ///< of `bytes`
  int32_t begin = 0;

  bool empty() const { return view.rows == 0; }
  int32_t end() const { return begin + int32_t(view.rows); }
  bool continued_by(const TensorView& more, int32_t more_begin) const {
    return more_begin == end() && more.dtype == view.dtype && more.cols == view.cols;
  }
  void clear() {
    bytes.clear();
    view = {};
  }
  void append(const TensorView& more, int32_t more_begin) {
    if (empty()) begin = more_begin;
    const size_t row_bytes = size_t(more.cols) * dtype_size(more.dtype);
    for (int64_t r = 0; r < more.rows; ++r) {
      const auto* row = more.row<std::byte>(r);
      bytes.insert(bytes.end(), row, row + row_bytes);
    }
    view = TensorView::matrix(bytes.data(), more.dtype, view.rows + more.rows, more.cols);
  }
};

}  // namespace

struct TreeDrafter::Sequence {
  Sequence(const DraftSequence& opened, int slots)
      : id(opened.id),
        tokens(opened.tokens),
        prompt_tokens(opened.prompt_tokens),
        sampling(opened.sampling),
        tree(slots) {}

  /// A node as it was sent, for what its verdict teaches.
  struct Sent {
    int32_t parent = -1;
    int32_t token = 0;
    float raw = 0.0f;
    int rank = 0;
    int guesses = 0;
  };

  SequenceId id;
  std::vector<int32_t> tokens;
  int32_t prompt_tokens;
  SamplingParams sampling;
  LivingTree tree;
  FeatureRows features;  ///< not yet taken in
  std::vector<Sent> sent;
  size_t sent_length = 0;  ///< committed tokens when it was sent
  int place = -1;          ///< of the model; -1: none is free
  bool lost = false;       ///< a verdict is missing: no trees until it is opened again
  bool pending = true;     ///< the model has not seen the last token yet
  bool asked = false;      ///< for a tree, since the last verdict
  bool active = false;     ///< trees are wanted these days

  bool sampled() const { return sampling.temperature > 0.0f; }
  /// Levels of drafts that can still be used: the last token is never a draft.
  int useful_depth() const {
    const int64_t end = int64_t(prompt_tokens) + sampling.max_tokens;
    return int(std::clamp<int64_t>(end - int64_t(tokens.size()) - 1, 0, INT16_MAX));
  }
};

TreeDrafter::TreeDrafter(std::string name, std::unique_ptr<BranchModel> model,
                         const TreeDrafterOptions& options)
    : name_(std::move(name)), model_(std::move(model)), options_(options) {
  check_range(name_, "depth", options_.depth, 1, 64);
  check_range(name_, "top_k", options_.top_k, 1, kMaxRanked);
  check_range(name_, "catch_up", options_.catch_up, 1, 64);
  check_range(name_, "ahead_depth", options_.ahead_depth, 1, 1024);
  check_range(name_, "ahead_rows", options_.ahead_rows, 1, INT32_MAX);
  for (int place = model_->places(); place-- > 0;) free_places_.push_back(place);
}

TreeDrafter::~TreeDrafter() = default;

void TreeDrafter::open(const DraftSequence& sequence) {
  close(sequence.id);
  auto& added = sequences_[sequence.id];
  added = std::make_unique<Sequence>(sequence, model_->scratch_slots());
  order_.push_back(added.get());
  give_places();
}

void TreeDrafter::close(SequenceId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  lose(*found->second);
  std::erase(order_, found->second.get());
  sequences_.erase(found);
  give_places();
}

void TreeDrafter::lose(Sequence& s) {
  s.lost = true;
  s.tree.clear();
  s.sent.clear();
  s.features.clear();
  if (s.place < 0) return;
  model_->close(s.place);
  free_places_.push_back(s.place);
  s.place = -1;
}

void TreeDrafter::give_places() {
  for (Sequence* s : order_) {
    if (free_places_.empty()) return;
    if (s->place >= 0 || s->lost) continue;
    try {
      model_->open(free_places_.back(), s->sampling, s->prompt_tokens);
      s->place = free_places_.back();
      free_places_.pop_back();
    } catch (const std::exception& error) {
      spdlog::warn("drafter: {} cannot take sequence {}: {}", name_, s->id, error.what());
      s->lost = true;
    }
  }
}

void TreeDrafter::advance(const DraftVerdict& verdict) {
  const auto found = sequences_.find(verdict.id);
  if (found == sequences_.end() || found->second->lost) return;
  Sequence& s = *found->second;
  const int64_t known = int64_t(s.tokens.size());
  const int64_t end = int64_t(verdict.base_length) + int64_t(verdict.tokens.size());
  if (!verdict.tokens.empty()) {
    if (end <= known) return;           // a repetition
    if (verdict.base_length > known) {  // something is missing between
      lose(s);
      give_places();
      return;
    }
  }
  const bool has_features = s.place >= 0 && verdict.features.rows > 0;
  if (has_features) make_room(s, verdict);
  if (!verdict.tokens.empty()) {
    learn(s, verdict);
    commit(s, std::span(verdict.tokens).subspan(size_t(known - verdict.base_length)));
  }
  if (has_features) take_features(s, verdict);
}

/// What waits is taken in first where the new rows do not continue it, or would be too many.
void TreeDrafter::make_room(Sequence& s, const DraftVerdict& verdict) {
  if (s.features.empty()) return;
  const bool fits = s.features.view.rows + verdict.features.rows <= kMostKeptRows;
  if (fits && s.features.continued_by(verdict.features, verdict.feature_begin)) return;
  absorb({&s}, false);
}

void TreeDrafter::take_features(Sequence& s, const DraftVerdict& verdict) {
  s.features.append(verdict.features, verdict.feature_begin);
  const bool inside_prompt = verdict.tokens.empty();
  if (inside_prompt || verdict.features.rows > kMostKeptRows) absorb({&s}, !inside_prompt);
}

/// What was verified tells how often such candidates are right: at every node on the way the
/// target's pick is one of the children or none.
void TreeDrafter::learn(const Sequence& s, const DraftVerdict& verdict) {
  if (s.sent_length != size_t(verdict.base_length)) return;
  const auto verified = std::min(size_t(std::max(verdict.verified, 0)), s.sent.size());
  int32_t parent = -1;
  for (int32_t token : verdict.tokens) {
    int32_t hit = -1;
    for (size_t i = size_t(parent + 1); i < verified; ++i) {
      const Sequence::Sent& child = s.sent[i];
      if (child.parent != parent) continue;
      const bool right = child.token == token;
      calibration_.learn({child.raw, child.rank, child.guesses, right}, s.sampled());
      if (right) hit = int32_t(i);
    }
    if (hit < 0) return;
    parent = hit;
  }
}

void TreeDrafter::commit(Sequence& s, std::span<const int32_t> tokens) {
  if (tokens.empty()) return;
  s.tokens.insert(s.tokens.end(), tokens.begin(), tokens.end());
  s.sent.clear();
  s.pending = true;
  s.active = s.asked;
  s.asked = false;
  const bool compared = s.tree.has_children();
  const bool grown = s.tree.reroot(tokens) && s.tree.has_children();
  counts_.outcomes += compared ? 1 : 0;
  counts_.outcomes_in_tree += grown ? 1 : 0;
  if (!options_.ahead) s.tree.clear();  // every tree is made from true features alone
}

std::vector<DraftTree> TreeDrafter::propose(std::span<const SequenceId> ids,
                                            const DraftLimits& limits) {
  std::vector<DraftTree> trees(ids.size());
  if (limits.max_nodes <= 0 || limits.max_depth <= 0) {
    take_in_names();
    return trees;
  }
  limits_ = limits;
  Batch all, fresh;
  for (SequenceId id : ids) {
    const auto found = sequences_.find(id);
    if (found == sequences_.end() || found->second->place < 0) continue;
    Sequence* s = found->second.get();
    s->active = s->asked = true;
    if (s->useful_depth() == 0 || std::ranges::find(all, s) != all.end()) continue;
    all.push_back(s);
    if (options_.ahead ? !s->tree.has_children() : s->pending) fresh.push_back(s);
  }
  absorb_pending(fresh);
  take_in_names();
  const int levels = options_.ahead ? options_.catch_up : options_.depth;
  grow(options_.ahead ? fresh : all, std::min(levels, limits.max_depth));
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto found = sequences_.find(ids[i]);
    if (found != sequences_.end()) trees[i] = send_best(*found->second);
  }
  return trees;
}

/// Names do not keep, as rows would: what they stand for is taken in, wanted now or not.
void TreeDrafter::take_in_names() {
  Batch waiting;
  std::ranges::copy_if(order_, std::back_inserter(waiting), [](const Sequence* s) {
    return s->place >= 0 && are_names(s->features.view);
  });
  if (!waiting.empty()) absorb(waiting, false);
}

bool TreeDrafter::work_ahead() {
  if (!options_.ahead) return false;
  Batch behind;
  for (Sequence* s : order_) {
    if (s->place >= 0 && s->active && s->pending && s->useful_depth() > 0) behind.push_back(s);
  }
  if (!behind.empty()) {
    absorb_pending(behind);
    return true;
  }
  const std::vector<Branch> branches = ahead_branches();
  expand(branches);
  return !branches.empty();
}

DraftCounts TreeDrafter::take_counts() {
  return std::exchange(counts_, DraftCounts{});
}

int TreeDrafter::width() const {
  if (options_.shape == TreeShape::kStatic) return kStaticTreeChildren;
  return limits_.top_k > 0 ? std::min(limits_.top_k, kMaxRanked) : options_.top_k;
}

void TreeDrafter::absorb_pending(const Batch& batch) {
  Batch pending;
  std::ranges::copy_if(batch, std::back_inserter(pending),
                       [](const Sequence* s) { return s->pending; });
  if (!pending.empty()) absorb(pending, true);
}

void TreeDrafter::absorb(const Batch& batch, bool rank) {
  std::vector<BranchModel::Committed> committed;
  for (const Sequence* s : batch) {
    committed.push_back({s->place, s->tokens, s->features.begin, s->features.view, rank});
  }
  model_->absorb(committed, width());
  ++counts_.passes;
  for (size_t i = 0; i < batch.size(); ++i) {
    Sequence& s = *batch[i];
    s.features.clear();
    if (!rank) continue;
    s.pending = false;
    s.tree.rank_root(judge(s, model_->children(int(i)), 0));
  }
}

/// Children with their estimated probabilities; valid until the next call.
std::span<const LivingTree::Child> TreeDrafter::judge(const Sequence& s,
                                                      std::span<const RankedToken> ranked,
                                                      int guesses) {
  ranked = ranked.first(std::min(ranked.size(), size_t(width())));
  raw_probabilities(ranked, s.sampling.temperature, raw_);
  estimates_ = raw_;
  if (options_.calibrate) calibration_.estimate(raw_, guesses, s.sampled(), estimates_);
  children_.clear();
  for (size_t i = 0; i < ranked.size(); ++i) {
    if (ranked[i].token >= 0) children_.push_back({ranked[i].token, raw_[i], estimates_[i]});
  }
  return children_;
}

void TreeDrafter::grow(const Batch& batch, int levels) {
  for (int level = 0; level + 1 < levels; ++level) {
    std::vector<Branch> beam;
    for (Sequence* s : batch) {
      if (level + 1 < s->useful_depth()) add_beam(*s, level, levels, beam);
    }
    if (beam.empty()) return;
    expand(beam);
  }
}

/// The nodes of one level that are to be expanded. Those whose children could not be among the
/// best `max_nodes` of the tree are left out, which changes nothing.
void TreeDrafter::add_beam(Sequence& s, int level, int levels, std::vector<Branch>& beam) const {
  const std::span<const LivingTree::Node> nodes = s.tree.nodes();
  const bool fixed = options_.shape == TreeShape::kStatic;
  const StaticPlaces places = fixed ? find_static_places(nodes) : StaticPlaces{};
  std::vector<int32_t> best;
  for (int32_t i = 0; i < int32_t(nodes.size()); ++i) {
    if (nodes[size_t(i)].depth == level && (!fixed || places.parent[size_t(i)])) best.push_back(i);
  }
  std::ranges::stable_sort(best, std::greater<>(),
                           [&](int32_t i) { return nodes[size_t(i)].gain; });
  if (!fixed) best.resize(std::min(best.size(), size_t(width())));
  const float least = std::max(0.0f, s.tree.threshold(limits_.max_nodes, levels, places.member));
  int slots = s.tree.free_slots();
  for (int32_t i : best) {
    const LivingTree::Node& n = nodes[size_t(i)];
    if (n.slot < 0 && n.gain > least && slots-- > 0) beam.push_back({&s, i});
  }
}

/// The best nodes of all living trees that are not expanded yet.
std::vector<TreeDrafter::Branch> TreeDrafter::ahead_branches() const {
  const int most = std::min(options_.ahead_rows, model_->max_rows());
  std::vector<Branch> branches;
  for (Sequence* s : order_) {
    if (s->place < 0 || !s->active) continue;
    // The children of a node at depth d are of use if d + 1 levels are.
    const int depth = std::min(options_.ahead_depth, s->useful_depth()) - 1;
    for (int32_t node : s->tree.frontier(most, depth, options_.ahead_gain)) {
      branches.push_back({s, node});
    }
  }
  const auto gain = [](const Branch& b) { return b.sequence->tree.nodes()[size_t(b.node)].gain; };
  std::ranges::stable_sort(branches, std::greater<>(), gain);
  branches.resize(std::min(branches.size(), size_t(most)));
  return branches;
}

void TreeDrafter::expand(std::span<const Branch> branches) {
  const auto most = size_t(std::max(model_->max_rows(), 1));
  for (size_t begin = 0; begin < branches.size(); begin += most) {
    expand_rows(branches.subspan(begin, std::min(most, branches.size() - begin)));
  }
}

void TreeDrafter::expand_rows(std::span<const Branch> branches) {
  std::vector<BranchModel::Row> rows(branches.size());
  std::vector<std::vector<int32_t>> slots(branches.size()), tokens(branches.size());
  for (size_t i = 0; i < branches.size(); ++i) {
    LivingTree& tree = branches[i].sequence->tree;
    tree.expand(branches[i].node);
    tree.path(branches[i].node, slots[i], tokens[i]);
    rows[i] = {branches[i].sequence->place, tokens[i].back(), slots[i], tokens[i]};
  }
  model_->expand(rows, width());
  ++counts_.passes;
  for (size_t i = 0; i < branches.size(); ++i) {
    Sequence& s = *branches[i].sequence;
    const int guesses = s.tree.nodes()[size_t(branches[i].node)].depth + 1;
    s.tree.add_children(branches[i].node, judge(s, model_->children(int(i)), guesses));
  }
}

DraftTree TreeDrafter::send_best(Sequence& s) {
  s.sent.clear();
  s.sent_length = s.tokens.size();
  const std::span<const LivingTree::Node> nodes = s.tree.nodes();
  std::vector<char> allowed;
  if (options_.shape == TreeShape::kStatic) allowed = find_static_places(nodes).member;
  LivingTree::Part part =
      s.tree.best_part(limits_.max_nodes, std::min(limits_.max_depth, s.useful_depth()), allowed);
  for (size_t i = 0; i < part.origin.size(); ++i) {
    const LivingTree::Node& n = nodes[size_t(part.origin[i])];
    s.sent.push_back({part.tree.nodes[i].parent, n.token, n.raw, n.rank, n.guesses});
  }
  return std::move(part.tree);
}

}  // namespace convoke
