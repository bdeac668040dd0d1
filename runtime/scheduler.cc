#include "runtime/scheduler.h"

#include <algorithm>

#include "kernels/check.h"

namespace convoke {

struct Scheduler::State {
  SequenceId id = 0;
  uint64_t arrival = 0;
  SamplingParams sampling;
  std::vector<int32_t> tokens;  ///< prompt and output; the last may not be computed yet
  int32_t prompt_tokens = 0;
  int32_t computed = 0;         ///< slots whose keys and values are valid, pending commit included
  std::vector<int32_t> commit;  ///< accepted nodes that the shards have not been told of
  std::vector<int32_t> blocks;
  size_t blocks_sent = 0;            ///< of `blocks`, what the shards know
  int32_t place = -1;                ///< >= 0 while running
  bool opened = false;               ///< the shards know the place
  std::vector<int32_t> tree_origin;  ///< of the plan's tree: each node's index when proposed
  int64_t preemptions = 0;

  int32_t length() const { return int32_t(tokens.size()); }
  int32_t outputs() const { return length() - prompt_tokens; }
  bool decodes() const { return length() - computed == 1; }
};

namespace {

// Lowest first: places stay dense and runs reproducible.
int32_t take_lowest(std::vector<int32_t>& list) {
  const auto lowest = std::min_element(list.begin(), list.end());
  const int32_t value = *lowest;
  *lowest = list.back();
  list.pop_back();
  return value;
}

int candidates(const DraftTree& tree) {
  return int(std::ranges::count_if(tree.nodes, [](const DraftNode& n) { return !n.probe; }));
}

}  // namespace

Scheduler::Scheduler(SchedulerOptions options)
    : options_(std::move(options)), blocks_(options_.kv_blocks) {
  for (int i = 0; i < options_.max_sequences; ++i) free_places_.push_back(i);
}

Scheduler::~Scheduler() = default;

void Scheduler::add(SequenceId id, std::vector<int32_t> prompt, const SamplingParams& sampling) {
  if (states_.contains(id)) throw_error(ErrorKind::kUsage, "request {} is already running", id);
  validate(sampling, options_.vocabulary);
  if (prompt.empty()) throw_error(ErrorKind::kUsage, "the prompt is empty");
  const auto length = int64_t(prompt.size());
  if (length >= options_.max_model_len) {
    throw_error(
        ErrorKind::kUsage,
        "the prompt has {} tokens; with --max-model-len {} at most {} leave room for output",
        length, options_.max_model_len, options_.max_model_len - 1);
  }
  for (int32_t token : prompt) {
    if (token < 0 || token >= options_.vocabulary) {
      throw_error(ErrorKind::kUsage, "the prompt has token {}; the vocabulary has {}", token,
                  options_.vocabulary);
    }
  }
  const int64_t longest = std::min<int64_t>(length + sampling.max_tokens, options_.max_model_len);
  if (blocks_for(longest) > blocks_.total()) {
    throw_error(ErrorKind::kUsage,
                "the request may grow to {} tokens, but the key/value cache holds {}: raise "
                "--kv-cache-tokens or lower max_tokens",
                longest, int64_t(blocks_.total()) * kKvBlockSize);
  }
  auto state = std::make_unique<State>();
  state->id = id;
  state->arrival = arrivals_++;
  state->sampling = sampling;
  state->prompt_tokens = int32_t(length);
  state->tokens = std::move(prompt);
  if (!sampling.ignore_eos) {
    for (int32_t token : options_.eos_tokens) state->sampling.stop_tokens.push_back(token);
  }
  auto& stops = state->sampling.stop_tokens;
  std::ranges::sort(stops);
  stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
  waiting_.push_back(state.get());
  states_.emplace(id, std::move(state));
}

bool Scheduler::cancel(SequenceId id) {
  const auto it = states_.find(id);
  if (it == states_.end()) return false;
  retire(*it->second);
  update_decoding();
  return true;
}

double Scheduler::kv_usage() const {
  return blocks_.total() == 0 ? 0.0 : 1.0 - double(blocks_.free()) / blocks_.total();
}

std::span<const int32_t> Scheduler::tokens(SequenceId id) const {
  return states_.at(id)->tokens;
}
int32_t Scheduler::prompt_tokens(SequenceId id) const {
  return states_.at(id)->prompt_tokens;
}
const SamplingParams& Scheduler::sampling(SequenceId id) const {
  return states_.at(id)->sampling;
}

const StepPlan& Scheduler::plan(const TreeLookup& trees) {
  begin_plan();
  plan_decoding(trees);
  plan_prompts();
  admit();
  plan_.closed = closed_;
  return plan_;
}

void Scheduler::begin_plan() {
  ++plan_.step;
  plan_.opened.clear();
  plan_.sequences.clear();
  scheduled_.clear();
  planned_.clear();
  rows_left_ = options_.max_rows;
}

void Scheduler::plan_decoding(const TreeLookup& trees) {
  const auto decodes = [](const State* s) { return s->decodes(); };
  const int count = int(std::ranges::count_if(running_, decodes));
  if (count == 0) return;
  // Every decoding sequence gets its one row before any gets a tree.
  const int rows_per_tree = std::max(0, (options_.max_rows - count) / count);
  // Preemption takes from the back, so indices in front stay valid.
  for (size_t i = 0; i < running_.size(); ++i) {
    State& s = *running_[i];
    if (!s.decodes() || rows_left_ == 0) continue;
    if (!ensure_blocks(s, s.length())) continue;  // preempted itself
    SequenceRows& rows = schedule(s, 1);
    const DraftTree* tree = trees ? trees(s.id, s.length()) : nullptr;
    if (tree != nullptr) attach_tree(s, rows, *tree, std::min(rows_per_tree, rows_left_));
  }
}

void Scheduler::plan_prompts() {
  for (State* s : running_) {
    const int pending = s->length() - s->computed;
    const int chunk = std::min({pending, rows_left_, options_.prompt_chunk});
    if (s->decodes() || chunk == 0) continue;
    schedule(*s, size_t(chunk));
  }
}

void Scheduler::admit() {
  while (!waiting_.empty() && !free_places_.empty() && rows_left_ > 0) {
    State& s = *waiting_.front();
    // A prompt gets all its blocks at once, so that it never waits half-way; one spare block per
    // running sequence keeps a newcomer from being preempted at once.
    const int32_t needed = blocks_for(s.length() + 1);
    const auto spare = int32_t(running_.size());
    if (blocks_.free() < std::min(needed + spare, blocks_.total())) return;
    waiting_.pop_front();
    CONVOKE_CHECK(blocks_.allocate(needed, s.blocks));
    s.place = take_lowest(free_places_);
    s.opened = false;
    running_.insert(std::ranges::upper_bound(running_, s.arrival, {}, &State::arrival), &s);
    const int chunk = std::min({s.length() - s.computed, rows_left_, options_.prompt_chunk});
    schedule(s, size_t(chunk));
  }
}

bool Scheduler::ensure_blocks(State& s, int64_t slots) {
  const int32_t place = s.place;
  while (int32_t(s.blocks.size()) < blocks_for(slots)) {
    if (blocks_.allocate(blocks_for(slots) - int32_t(s.blocks.size()), s.blocks)) break;
    preempt_last();
    if (s.place != place) return false;
  }
  return true;
}

void Scheduler::preempt_last() {
  State& victim = *running_.back();
  running_.pop_back();
  blocks_.release(victim.blocks);
  victim.blocks_sent = 0;
  victim.computed = 0;
  victim.commit.clear();
  if (victim.opened) closed_.push_back(victim.place);
  free_places_.push_back(victim.place);
  victim.place = -1;
  ++victim.preemptions;
  waiting_.insert(std::ranges::upper_bound(waiting_, victim.arrival, {}, &State::arrival), &victim);
}

SequenceRows& Scheduler::schedule(State& s, size_t chain) {
  if (!s.opened) {
    plan_.opened.push_back({s.place, s.id, s.prompt_tokens, s.sampling});
    s.opened = true;
  }
  SequenceRows& rows = plan_.sequences.emplace_back();
  scheduled_.push_back(&s);
  planned_.push_back(s.id);
  rows.place = s.place;
  rows.commit = std::exchange(s.commit, {});
  rows.context = s.computed;
  rows.chain.assign(s.tokens.begin() + s.computed,
                    s.tokens.begin() + s.computed + ptrdiff_t(chain));
  rows.pick = s.computed + int32_t(chain) == s.length();
  rows.new_blocks.assign(s.blocks.begin() + ptrdiff_t(s.blocks_sent), s.blocks.end());
  s.blocks_sent = s.blocks.size();
  rows_left_ -= int(chain);
  return rows;
}

void Scheduler::attach_tree(State& s, SequenceRows& rows, const DraftTree& tree, int max_nodes) {
  if (!find_defect(tree, options_.vocabulary, options_.lookahead_count).empty()) return;
  // Accepting d nodes yields d + 1 tokens; deeper nodes could not be used.
  const int remaining =
      std::min(s.sampling.max_tokens - s.outputs(), options_.max_model_len - s.length());
  DraftTree cut = tree;
  s.tree_origin = truncate(cut, max_nodes, std::max(0, remaining - 1));
  // Trees never cause a preemption: they shrink to the slots that can be had.
  const int64_t slots = int64_t(s.length()) + cut.size();
  int32_t missing = blocks_for(slots) - int32_t(s.blocks.size());
  if (missing > 0) {
    // Later sequences of this step still need a block each for their own token.
    const int32_t spare = std::max(0, blocks_.free() - int32_t(running_.size()));
    missing = std::min(missing, spare);
    CONVOKE_CHECK(blocks_.allocate(missing, s.blocks));
    const auto fit = int64_t(s.blocks.size()) * kKvBlockSize - s.length();
    truncate(cut, int(std::min<int64_t>(fit, cut.size())), cut.size());
    rows.new_blocks.insert(rows.new_blocks.end(), s.blocks.begin() + ptrdiff_t(s.blocks_sent),
                           s.blocks.end());
    s.blocks_sent = s.blocks.size();
  }
  rows.tree = std::move(cut);
  rows_left_ -= rows.tree.size();
}

std::span<const Progress> Scheduler::commit(const StepResult& result) {
  CONVOKE_CHECK_EQ(result.sequences.size(), plan_.sequences.size());
  progress_.clear();
  closed_.clear();  // the executed plan has carried them
  plan_.closed.clear();
  std::vector<State*> ended;
  for (size_t i = 0; i < scheduled_.size(); ++i) {
    if (scheduled_[i] == nullptr) continue;
    State& s = *scheduled_[i];
    const SequenceRows& rows = plan_.sequences[i];
    s.computed += int32_t(rows.chain.size());
    if (result.sequences[i].picks.empty()) continue;
    Progress& progress = progress_.emplace_back();
    progress.sequence = int32_t(i);
    advance(s, rows, result.sequences[i], progress);
    if (progress.end != SequenceEnd::kNone) ended.push_back(&s);
  }
  for (size_t i = 0; i < scheduled_.size(); ++i) {
    if (scheduled_[i] == nullptr) planned_[i] = 0;
  }
  for (State* s : ended) retire(*s);
  update_decoding();
  return progress_;
}

void Scheduler::advance(State& s, const SequenceRows& rows, const SequencePicks& picks,
                        Progress& progress) {
  std::vector<int32_t> tokens;
  for (const Pick& pick : picks.picks) tokens.push_back(pick.token);
  const Verification verdict = verify(rows.tree, tokens);
  const std::vector<int> depths = rows.tree.depths();
  progress.id = s.id;
  progress.base_length = s.length();
  progress.draft_nodes = candidates(rows.tree);
  progress.draft_depth = depths.empty() ? 0 : 1 + *std::ranges::max_element(depths);
  progress.accepted = int32_t(verdict.accepted.size());
  for (int n = 0; n < rows.tree.size(); ++n) {
    if (!rows.tree.nodes[size_t(n)].probe) continue;
    ProbePicks& probe = progress.probes.emplace_back();
    probe.node = s.tree_origin[size_t(n)];
    probe.pick = tokens[size_t(n) + 1];
    if (!picks.ranked.empty()) probe.ranked = picks.ranked[size_t(n) + 1];
  }
  progress.verified = rows.tree.size();
  progress.accepted_nodes = verdict.accepted;
  progress.preemptions = s.preemptions;
  s.commit = verdict.accepted;
  s.computed += progress.accepted;

  // The row that picked a token: after the chain, then after each accepted node.
  size_t row = 0;
  for (size_t i = 0; i <= verdict.accepted.size(); ++i) {
    CommittedToken token;
    token.token = tokens[row];
    token.drafted = i < verdict.accepted.size();
    token.digest = picks.picks[row].digest;
    token.logprobs = picks.logprobs.empty() ? nullptr : &picks.logprobs[row];
    if (!append_token(s, token, progress)) return;
    if (token.drafted) row = size_t(verdict.accepted[i]) + 1;
  }
}

bool Scheduler::append_token(State& s, const CommittedToken& token, Progress& progress) {
  if (std::ranges::binary_search(s.sampling.stop_tokens, token.token)) {
    progress.end = SequenceEnd::kStop;
    progress.stop_token = token.token;
    return false;
  }
  s.tokens.push_back(token.token);
  progress.tokens.push_back(token);
  if (s.outputs() >= s.sampling.max_tokens || s.length() >= options_.max_model_len) {
    progress.end = SequenceEnd::kLength;
    return false;
  }
  return true;
}

void Scheduler::retire(State& s) {
  blocks_.release(s.blocks);
  if (s.place >= 0) {
    if (s.opened) closed_.push_back(s.place);
    free_places_.push_back(s.place);
    std::erase(running_, &s);
  } else {
    waiting_.erase(std::ranges::find(waiting_, &s));
  }
  std::ranges::replace(scheduled_, &s, static_cast<State*>(nullptr));
  const SequenceId id = s.id;  // dies with the state
  states_.erase(id);
}

void Scheduler::update_decoding() {
  decoding_.clear();
  for (const State* s : running_) {
    if (s->decodes()) decoding_.push_back(s->id);
  }
}

}  // namespace convoke
