// What a drafting method is: pure logic, fed with what was committed, asked for trees. It knows
// nothing of sockets or threads; actors/drafter_actor.h gives it both.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/tensor.h"
#include "runtime/draft_needs.h"
#include "runtime/draft_tree.h"
#include "runtime/feature_ring.h"
#include "runtime/model_config.h"
#include "runtime/sampling_params.h"
#include "runtime/step_plan.h"
#include "runtime/weights.h"

namespace convoke {

struct DraftSequence {
  SequenceId id = 0;
  std::vector<int32_t> tokens;  ///< committed so far: prompt, and output if joined late
  int32_t prompt_tokens = 0;
  SamplingParams sampling;
};

/// What the target made of one probe node.
struct ProbeResult {
  int32_t node = 0;   ///< index in the tree as it was proposed
  int32_t pick = -1;  ///< what the pick rule takes after it
  /// The first tokens of its ranking, if DraftNeeds::probe_candidates asked for them.
  std::vector<RankedToken> ranked;
  bool operator==(const ProbeResult&) const = default;
};

/// What a step did for one sequence: `tokens` were appended (accepted drafts, then the next token).
/// `tokens` is empty for a step that only computed a part of the prompt.
struct DraftVerdict {
  SequenceId id = 0;
  int32_t base_length = 0;  ///< committed tokens before `tokens`
  std::vector<int32_t> tokens;
  /// How many nodes of the proposed tree took part: its first so many (less those too deep to be
  /// used at the end of a text). 0: there was no tree, it was stale, or it came late.
  int32_t verified = 0;
  std::vector<ProbeResult> probes;  ///< of the probe nodes that took part, in order
  /// Target features of consecutive positions [feature_begin, feature_begin + features.rows): of
  /// the rows just committed, in the layout of DraftNeeds::features; empty if none are exported.
  /// Valid during advance() only. The token at position p + 1 goes with the feature of position p.
  /// They may be names (runtime/feature_ring.h), which do not keep: propose() takes them in.
  int32_t feature_begin = 0;
  TensorView features;
};

struct DraftLimits {
  int32_t max_nodes = 64;  ///< probes included
  int32_t max_depth = 8;
  int32_t top_k = 0;  ///< children looked at per node; 0 = the method's own choice
};

/// What happened since the last call, for the metrics.
struct DraftCounts {
  int64_t outcomes = 0;  ///< verdicts with a tree to compare with
  int64_t outcomes_in_tree =
      0;               ///< of those, whose next root had already been grown (with children)
  int64_t passes = 0;  ///< of the draft model
};

class Drafter {
 public:
  virtual ~Drafter() = default;
  virtual std::string name() const = 0;
  virtual void open(const DraftSequence& sequence) = 0;
  virtual void advance(const DraftVerdict& verdict) = 0;
  virtual void close(SequenceId id) = 0;
  /// A tree per id (same order), each within `limits`; empty where there is nothing to guess.
  virtual std::vector<DraftTree> propose(std::span<const SequenceId> ids,
                                         const DraftLimits& limits) = 0;
  /// One increment of work ahead of the next verdict (a pass of the draft model, say). False when
  /// there is nothing worth doing. Called while no message waits, if drafting ahead is on.
  virtual bool work_ahead() { return false; }
  virtual DraftCounts take_counts() { return {}; }
};

/// A drafting method as named on the command line: METHOD[:ARGUMENT].
struct DrafterSpec {
  std::string method = "none";
  std::string argument;  ///< directory or method-specific text; may be empty
  DraftLimits limits;
  bool auto_size = true;     ///< the limits are the most; else every tree has `max_nodes`
  bool shared_noise = true;  ///< rank with the pick rule's noise; off for comparison only
  /// Draft while the target works; unset: where the drafter has a rank, and so a device, of its
  /// own.
  std::optional<bool> ahead;
  static DrafterSpec parse(const std::string& text);  ///< throws Error(kUsage) listing the methods
  std::string text() const { return argument.empty() ? method : method + ":" + argument; }
};

/// The GPU that a drafter in a process of its own computes on.
struct GpuOptions {
  int device = -1;  ///< as CUDA numbers them on its host; -1: the CPU
  bool graphs = true;
  bool library_products = false;  ///< --gpu-matmul fast
};

/// What a drafter may know of the job it works for.
struct DraftContext {
  int vocabulary = 0;
  std::filesystem::path model;  ///< the target's directory
  std::string load_format = "auto";
  std::string dtype = "auto";
  std::string cpu_isa = "auto";
  int threads = 0;  ///< for a draft model's passes; 0 = all cores
  GpuOptions gpu;
  /// Makes the backend of a draft model's passes: on the target's threads or device, or on `gpu`.
  /// Empty: on CPU threads of its own.
  std::function<std::unique_ptr<Backend>()> make_backend;
  /// The target's, where make_backend makes a sibling of its backend; else empty.
  SharedWeights shared;
  /// Where that backend's passes leave features; else null.
  std::shared_ptr<FeatureRing> feature_ring;
  bool float16 = false;    ///< which make_backend's has, and CPUs have not
  int max_sequences = 16;  ///< open at once
  int max_model_len = 0;   ///< tokens of one sequence; 0 = the target's
};

/// Whether the method computes with weights of its own, on DraftContext's backend. The others read
/// texts, or drafts out of the target's own passes.
bool has_model(const DrafterSpec& spec);

/// null for "none".
std::unique_ptr<Drafter> make_drafter(const DrafterSpec& spec, const DraftContext& context);

/// Reads at most the head's configuration. Throws Error(kModel) where head and target do not fit.
DraftNeeds draft_needs(const DrafterSpec& spec, const ModelConfig& target);

}  // namespace convoke
