// The messages between actors, as plain structs; actors/messages.fbs is their wire format and
// actors/codec.h turns one into the other. Nothing here knows of sockets.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "runtime/draft_tree.h"
#include "runtime/drafter.h"
#include "runtime/sampling_params.h"
#include "runtime/step_plan.h"

namespace convoke {

// --- front end -> coordinator -------------------------------------------------------------------

struct SubmitRequest {
  uint64_t request = 0;  ///< chosen by the front end, unique on its connection
  std::vector<int32_t> prompt;
  SamplingParams sampling;
};

struct CancelRequest {
  uint64_t request = 0;
};

// --- coordinator -> front end -------------------------------------------------------------------

struct OutputToken {
  int32_t token = -1;
  bool drafted = false;                ///< it was a draft that verification accepted
  uint64_t digest = 0;                 ///< fingerprint of the row that picked it, if asked for
  std::vector<TokenLogprob> logprobs;  ///< entry 0: the token itself; if asked for

  bool operator==(const OutputToken&) const;
};

enum class FinishReason : uint8_t { kNone, kStop, kLength, kCancelled, kError };

/// Counted per request by the coordinator; sums over requests are the job's metrics.
struct RequestStats {
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t decode_steps = 0;  ///< target passes that picked for this request
  int64_t drafts = 0;        ///< of those, with a non-empty tree
  int64_t draft_tokens = 0;  ///< candidate nodes sent for verification
  int64_t accepted_tokens = 0;
  std::vector<int64_t> accepted_by_depth;  ///< [depth] passes that accepted a node of that depth
  std::vector<int64_t> drafted_by_depth;   ///< [depth] passes whose tree reached that depth
  /// Verdicts that a drafter could compare with what it had grown, and those it had grown right.
  int64_t draft_outcomes = 0, draft_outcomes_in_tree = 0;
  int64_t draft_passes = 0;         ///< of the draft model
  double draft_hidden_seconds = 0;  ///< drafting while the target worked
  int64_t late_drafts = 0;          ///< passes whose tree missed the deadline
  int64_t preemptions = 0;
  double queue_seconds = 0;        ///< submission to first scheduled
  double first_token_seconds = 0;  ///< submission to first token
  double total_seconds = 0;
  // The decode steps' time, summed over steps this request took part in.
  double draft_seconds = 0;   ///< waiting for trees
  double target_seconds = 0;  ///< in the pass, collectives excluded
  double communication_seconds = 0;
  double other_seconds = 0;  ///< verification, scheduling, messages

  bool operator==(const RequestStats&) const = default;
};

/// New tokens of a request; the last one of a request has `finish` set, exactly once.
struct RequestOutput {
  uint64_t request = 0;
  std::vector<OutputToken> tokens;
  FinishReason finish = FinishReason::kNone;
  int32_t stop_token = -1;  ///< the stop token that ended it (it is not in `tokens`), or -1
  std::string error;        ///< with kError
  RequestStats stats;       ///< with `finish`
};

// --- coordinator <-> drafter --------------------------------------------------------------------

struct SequenceOpened {
  DraftSequence sequence;
};

struct SequenceClosed {
  SequenceId id = 0;
};

/// The verdicts of one step, and for which of them the next tree is wanted. Feature rows travel as
/// the message's attachment, those of all verdicts in order, each `feature_width` elements of
/// `feature_dtype`; on the wire a verdict's `features` view carries only its number of rows.
struct VerdictBatch {
  uint64_t step = 0;
  std::vector<DraftVerdict> verdicts;
  std::vector<SequenceId> wanted;
  DraftLimits limits;
  DType feature_dtype = DType::kBFloat16;  ///< or kFloat32, or kFeatureNames of width 1
  int64_t feature_width = 0;
};

struct SequenceTree {
  SequenceId id = 0;
  int32_t base_length = 0;  ///< committed tokens it was made for; a stale one is dropped
  DraftTree tree;
};

struct DraftTrees {
  uint64_t step = 0;  ///< of the VerdictBatch it answers
  std::vector<SequenceTree> trees;
  double draft_seconds = 0;   ///< time spent making them while the coordinator waited
  double hidden_seconds = 0;  ///< drafting ahead since the last answer
  DraftCounts counts;         ///< since the last answer
};

/// First message of a drafter on a connection, and again after a restart: the coordinator answers
/// with SequenceOpened for every live sequence.
struct DrafterReady {
  std::string method;
  uint32_t incarnation = 0;
};

// --- all ----------------------------------------------------------------------------------------

struct Heartbeat {
  int32_t rank = 0;
  std::string host;
  std::string role;  ///< "shard 1 of replica 0", "drafter of replica 0", ...
  uint64_t count = 0;
};

/// Somebody's end. `orderly` says goodbye; otherwise the job ends with `reason`.
struct Fault {
  int32_t rank = 0;
  std::string host;
  std::string role;
  bool orderly = false;
  std::string reason;
};

/// Front end -> coordinator, coordinator -> drafter: finish and leave.
struct Shutdown {
  std::string reason;
};

using Message =
    std::variant<SubmitRequest, CancelRequest, RequestOutput, SequenceOpened, SequenceClosed,
                 VerdictBatch, DraftTrees, DrafterReady, StepPlan, Heartbeat, Fault, Shutdown>;

}  // namespace convoke
