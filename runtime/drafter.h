// What a drafting method is: pure logic, fed with what was committed, asked for trees. It knows
// nothing of sockets or threads; actors/drafter_actor.h gives it both.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/draft_tree.h"
#include "runtime/sampling_params.h"
#include "runtime/step_plan.h"

namespace convoke {

struct DraftSequence {
  SequenceId id = 0;
  std::vector<int32_t> tokens;  ///< committed so far: prompt, and output if joined late
  int32_t prompt_tokens = 0;
  SamplingParams sampling;
};

/// What a step committed: `tokens` were appended (accepted drafts, then the next token).
struct DraftVerdict {
  SequenceId id = 0;
  int32_t base_length = 0;  ///< committed tokens before `tokens`
  std::vector<int32_t> tokens;
  std::vector<int32_t> probe_picks;  ///< picks after the probe nodes, in node order
};

struct DraftLimits {
  int32_t max_nodes = 16;
  int32_t max_depth = 8;
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
};

/// A drafting method as named on the command line: METHOD[:ARGUMENT].
struct DrafterSpec {
  std::string method = "none";
  std::string argument;  ///< directory or method-specific text; may be empty
  DraftLimits limits;
  static DrafterSpec parse(const std::string& text);  ///< throws Error(kUsage) listing the methods
  std::string text() const { return argument.empty() ? method : method + ":" + argument; }
};

/// null for "none".
std::unique_ptr<Drafter> make_drafter(const DrafterSpec& spec, int vocabulary);

}  // namespace convoke
