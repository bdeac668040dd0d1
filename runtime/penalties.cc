#include "runtime/penalties.h"

#include <algorithm>
#include <limits>

namespace convoke {
namespace {

constexpr float kBan = -std::numeric_limits<float>::infinity();

// Room made at once, so that a running sequence need not allocate: no vocabulary is larger, and no
// ordinary path longer. What exceeds them still works.
constexpr int64_t kMostDistinct = int64_t(1) << 18;
constexpr size_t kLongPath = 64;

// The edit of `token` in a list sorted by token, inserted as "no change" if absent.
LogitEdit& edit_of(std::vector<LogitEdit>& edits, int32_t token) {
  const auto at = std::ranges::lower_bound(edits, token, {}, &LogitEdit::token);
  if (at != edits.end() && at->token == token) return *at;
  return *edits.insert(at, {.token = token});
}

}  // namespace

void TokenCounts::reset(const SamplingParams& params, int prompt_tokens) {
  params_ = params;
  prompt_tokens_ = prompt_tokens;
  appended_ = 0;
  seen_.clear();
  if (counts_needed()) {
    seen_.reserve(size_t(std::min(kMostDistinct, prompt_tokens_ + params_.max_tokens)));
  }
}

void TokenCounts::append(std::span<const int32_t> tokens) {
  if (counts_needed()) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      count(tokens[i], appended_ + int64_t(i) < prompt_tokens_);
    }
  }
  appended_ += int64_t(tokens.size());
}

void TokenCounts::count(int32_t token, bool prompt) {
  auto at = std::ranges::lower_bound(seen_, token, {}, &Seen::token);
  if (at == seen_.end() || at->token != token) at = seen_.insert(at, {.token = token});
  if (prompt) {
    at->in_prompt = true;
  } else {
    ++at->outputs;
  }
}

std::span<const LogitEdit> TokenCounts::edits(std::span<const int32_t> path,
                                              std::vector<LogitEdit>& storage) const {
  storage.clear();
  storage.reserve(seen_.capacity() + params_.logit_bias.size() + params_.stop_tokens.size() +
                  kLongPath);
  if (counts_needed()) {
    // `add` carries the output count until all tokens are counted: exact in float up to 2^24.
    const bool prompt_counts = params_.repetition_penalty != 1.0f;
    for (const Seen& s : seen_) {
      if (prompt_counts || s.outputs > 0) storage.push_back({s.token, 1.0f, float(s.outputs)});
    }
    for (int32_t token : path) {
      if (token >= 0) edit_of(storage, token).add += 1.0f;  // a look-ahead row is no token
    }
    for (LogitEdit& e : storage) {
      const float occurrences = e.add;
      e.repetition = params_.repetition_penalty;
      e.add = 0.0f;
      if (occurrences > 0) {
        e.add -= params_.presence_penalty;
        e.add -= params_.frequency_penalty * occurrences;
      }
    }
  }
  for (const auto& [token, bias] : params_.logit_bias) edit_of(storage, token).add += bias;
  const int64_t outputs = std::max<int64_t>(0, appended_ - prompt_tokens_) + int64_t(path.size());
  if (outputs < params_.min_tokens) {
    for (int32_t token : params_.stop_tokens) edit_of(storage, token).add = kBan;
  }
  return storage;
}

}  // namespace convoke
