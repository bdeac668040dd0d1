// Training text in the target's own words: continuations of given prompts, made by the runtime.
//
// A drafter has to guess what the target will say, so it learns best from what the target said.
// Every finished sequence becomes a line of a journal,
//   {"id": 7, "temperature": 1.0, "seed": 123, "tokens": [prompt and continuation]}
// which is a file for --data as it stands, and with which an interrupted run goes on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "launcher/engine.h"
#include "training/data/corpus.h"

namespace convoke {

struct RegenerateOptions {
  int prompt_tokens = 64;                    ///< how much of a sequence is kept as the prompt, >= 1
  int sequence_length = 512;                 ///< prompt and continuation at most, > prompt_tokens
  std::vector<float> temperatures = {1.0f};  ///< sequence i takes number i modulo their count
  uint64_t seed = 0;                         ///< sequence i draws with a hash of this and i
  std::filesystem::path journal;
  int max_num_seqs = 16;  ///< what the engine runs at once, per replica; twice that is in flight
  /// Asked often; true ends the run in order.
  std::function<bool()> interrupted = {};
  /// Told often: sequences done (earlier runs included) of how many, tokens generated and seconds
  /// of this run.
  std::function<void(int64_t done, int64_t total, int64_t tokens, double seconds)> progress = {};
};

/// Continues the beginning of every sequence of `prompts` (all of it, if it is not longer than
/// prompt_tokens) until the model's end token, which is kept, or sequence_length. The result has
/// sequence i at index i: a function of model, prompts and options alone, whatever the order in
/// which sequences end and however often the run was interrupted.
///
/// Sequences that the journal already has are not made again; a torn line at its end is cut off.
/// The engine must be idle, and is again in the end unless it failed.
///
/// Throws Error(kUsage) for a bad option and for a journal that other prompts or options wrote,
/// Error(kCancelled) when interrupted, and Error(kPeer) or Error(kResource) when the engine fails.
/// What was finished until then is in the journal.
TokenCorpus regenerate(Engine& engine, const TokenCorpus& prompts,
                       const RegenerateOptions& options);

}  // namespace convoke
