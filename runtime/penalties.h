// Which logits a request's penalties, biases and bans change, for a row at the end of a tree path.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/pick.h"
#include "runtime/sampling_params.h"

namespace convoke {

/// The tokens of one sequence as its penalties see them. Committed tokens are counted once; the
/// tokens on a row's path are counted on top, per row. Costs nothing for requests that ask for
/// nothing.
class TokenCounts {
 public:
  /// Forgets everything. The first `prompt_tokens` tokens appended are the prompt.
  void reset(const SamplingParams& params, int prompt_tokens);
  /// Committed tokens, in order.
  void append(std::span<const int32_t> tokens);

  /// Edits for the pick after a row whose path (root's child first, the row itself last; empty for
  /// the root) is `path`: sorted by token, each
  ///   l = (l > 0 ? l / repetition : l * repetition) + (bias - presence - frequency * count),
  /// with add = -infinity for stop tokens while fewer than min_tokens outputs precede the pick.
  /// Repetition looks at prompt, output and path; presence and frequency at output and path.
  /// The result lies in `storage`, whose capacity is reused.
  std::span<const LogitEdit> edits(std::span<const int32_t> path,
                                   std::vector<LogitEdit>& storage) const;

 private:
  struct Seen {
    int32_t token = 0;
    bool in_prompt = false;
    int32_t outputs = 0;
  };
  bool counts_needed() const { return params_.has_penalties(); }
  void count(int32_t token, bool prompt);

  SamplingParams params_;
  int64_t prompt_tokens_ = 0;
  int64_t appended_ = 0;
  std::vector<Seen> seen_;  ///< sorted by token; kept only when penalties are on
};

}  // namespace convoke
