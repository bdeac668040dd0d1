// Continuous batching: which rows run in the next step, and what their picks mean.
//
// Pure policy: no sockets, threads or clocks. One cycle is plan() -> (shards execute) -> commit().
// Sequences wait in order of arrival; the running ones decode in every step, and prompts are
// computed in chunks in the rows that are left. A place given up by a finished sequence is taken in
// the next step. When blocks run out, the latest arrival is preempted: its blocks are freed, and
// later its tokens are computed again (row independence gives the same bits).
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/draft_tree.h"
#include "runtime/kv_cache.h"
#include "runtime/sampling_params.h"
#include "runtime/step_plan.h"
#include "runtime/verifier.h"

namespace convoke {

struct SchedulerOptions {
  int max_sequences = 16;  ///< running at once
  int max_rows = 512;      ///< of one step
  int prompt_chunk = 512;  ///< rows of one prompt in one step
  int32_t kv_blocks = 0;
  int max_model_len = 512;  ///< tokens of one sequence, prompt and output
  int vocabulary = 0;
  std::vector<int32_t> eos_tokens;
  int lookahead_count = 0;  ///< look-ahead embeddings that probes may name
};

/// What was picked after one probe node. `node` is its index in the tree as it was proposed.
struct ProbePicks {
  int32_t node = 0;
  int32_t pick = -1;
  std::span<const RankedToken> ranked;  ///< into the StepResult
};

enum class SequenceEnd : uint8_t { kNone, kStop, kLength };

/// One token that a step added to a sequence.
struct CommittedToken {
  int32_t token = -1;
  bool drafted = false;
  uint64_t digest = 0;
  const std::vector<TokenLogprob>* logprobs = nullptr;  ///< into the StepResult, or null
};

/// What a step did for one sequence that had picks.
struct Progress {
  SequenceId id = 0;
  int32_t base_length = 0;             ///< tokens before
  std::vector<CommittedToken> tokens;  ///< a stop token is not among them
  SequenceEnd end = SequenceEnd::kNone;
  int32_t stop_token = -1;
  int32_t draft_nodes = 0;              ///< candidates that were verified
  int32_t draft_depth = 0;              ///< levels of the tree
  int32_t accepted = 0;                 ///< candidates accepted by verification
  int32_t verified = 0;                 ///< nodes of the tree that took part, probes included
  std::vector<ProbePicks> probes;       ///< in node order
  int32_t sequence = -1;                ///< index in StepPlan::sequences and StepResult::sequences
  std::vector<int32_t> accepted_nodes;  ///< of the plan's tree
  int64_t preemptions = 0;              ///< of the sequence so far
};

class Scheduler {
 public:
  explicit Scheduler(SchedulerOptions options);
  ~Scheduler();

  /// Throws Error(kUsage) if the sequence can never run (empty or too long prompt, token out of
  /// range, more blocks than there are).
  void add(SequenceId id, std::vector<int32_t> prompt, const SamplingParams& sampling);
  bool cancel(SequenceId id);  ///< false if it is not live
  bool idle() const { return running_.empty() && waiting_.empty(); }
  size_t running() const { return running_.size(); }
  size_t waiting() const { return waiting_.size(); }
  double kv_usage() const;  ///< blocks in use / all

  /// Running sequences whose next step decodes: a tree for them can be used.
  std::span<const SequenceId> decoding() const { return decoding_; }
  std::span<const int32_t> tokens(SequenceId id) const;
  int32_t prompt_tokens(SequenceId id) const;
  const SamplingParams& sampling(SequenceId id) const;

  /// Returns the draft for a sequence with `length` committed tokens, or null. Trees are cut to
  /// what rows, blocks, context and max_tokens allow.
  using TreeLookup = std::function<const DraftTree*(SequenceId id, int32_t length)>;
  const StepPlan& plan(const TreeLookup& trees);
  /// Parallel to the plan's sequences; 0 where one has been cancelled since. Valid until plan().
  std::span<const SequenceId> planned() const { return planned_; }
  const StepPlan& last_plan() const { return plan_; }
  void set_lookahead_count(int count) { options_.lookahead_count = count; }
  /// Verifies the last plan's trees and moves sequences on. Finished ones are gone afterwards.
  std::span<const Progress> commit(const StepResult& result);

 private:
  struct State;

  void begin_plan();
  void plan_decoding(const TreeLookup& trees);
  void plan_prompts();
  void admit();
  bool ensure_blocks(State& s, int64_t slots);
  void preempt_last();
  SequenceRows& schedule(State& s, size_t chain);
  void attach_tree(State& s, SequenceRows& rows, const DraftTree& tree, int max_nodes);
  void advance(State& s, const SequenceRows& rows, const SequencePicks& picks, Progress& progress);
  bool append_token(State& s, const CommittedToken& token, Progress& progress);
  void retire(State& s);
  void update_decoding();

  SchedulerOptions options_;
  BlockAllocator blocks_;
  std::unordered_map<SequenceId, std::unique_ptr<State>> states_;
  std::vector<State*> running_;  ///< by arrival
  std::deque<State*> waiting_;   ///< by arrival
  std::vector<int32_t> free_places_;
  std::vector<int32_t> closed_;  ///< places freed since the last plan
  std::vector<SequenceId> decoding_;
  StepPlan plan_;
  std::vector<State*> scheduled_;  ///< parallel to plan_.sequences; null once cancelled
  std::vector<SequenceId> planned_;
  std::vector<Progress> progress_;
  int rows_left_ = 0;
  uint64_t arrivals_ = 0;
};

}  // namespace convoke
