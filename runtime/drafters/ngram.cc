#include "runtime/drafters/ngram.h"

#include <algorithm>

#include "kernels/check.h"
#include "runtime/drafters/registry.h"

namespace convoke {
namespace {

constexpr int kMostN = 16;
constexpr int kMatchesLookedAt = 16;  ///< places per suffix length

uint64_t mix(uint64_t x) {  // the finalizer of splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// What followed `end`, `depth` tokens of it. A continuation that reaches the end of the sequence
/// goes on with itself, as a loop in the text would.
std::vector<int32_t> continuation(const std::vector<int32_t>& tokens, int32_t end, int depth) {
  std::vector<int32_t> path;
  path.reserve(size_t(depth));
  for (int k = 0; k < depth; ++k) {
    const size_t at = size_t(end) + size_t(k);
    path.push_back(at < tokens.size() ? tokens[at] : path[at - tokens.size()]);
  }
  return path;
}

}  // namespace

NgramOptions NgramOptions::parse(const std::string& argument) {
  NgramOptions options;
  for (const auto& [key, value] : parse_options("ngram", argument)) {
    if (key == "max_n") {
      options.max_n = int(parse_number("ngram", key, value, 1, kMostN));
    } else if (key == "min_n") {
      options.min_n = int(parse_number("ngram", key, value, 1, kMostN));
    } else {
      throw_error(ErrorKind::kUsage, "--drafter ngram: unknown option '{}'; there are max_n, min_n",
                  key);
    }
  }
  if (options.min_n > options.max_n) {
    throw_error(ErrorKind::kUsage, "--drafter ngram: min_n {} is greater than max_n {}",
                options.min_n, options.max_n);
  }
  return options;
}

// --- the index ----------------------------------------------------------------------------------

NgramIndex::NgramIndex(const NgramOptions& options) : options_(options), slots_(256) {}

uint64_t NgramIndex::key(int n) const {
  uint64_t hash = mix(uint64_t(n) + 0x9e3779b97f4a7c15u);
  for (size_t i = tokens_.size() - size_t(n); i < tokens_.size(); ++i) {
    hash = mix(hash ^ (uint64_t(uint32_t(tokens_[i])) + 0x9e3779b97f4a7c15u));
  }
  return hash;
}

NgramIndex::Slot& NgramIndex::find(uint64_t key) {
  const size_t mask = slots_.size() - 1;
  size_t at = key & mask;
  while (slots_[at].last >= 0 && slots_[at].key != key) at = (at + 1) & mask;
  return slots_[at];
}

void NgramIndex::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.last >= 0) find(slot.key) = slot;
  }
}

void NgramIndex::append(int32_t token) {
  tokens_.push_back(token);
  const auto here = int32_t(tokens_.size()) - 1;
  for (int n = options_.min_n; n <= options_.max_n; ++n) {
    if (here + 1 < n) {
      previous_.push_back(-1);
      continue;
    }
    if (2 * (used_ + 1) > slots_.size()) grow();
    const uint64_t hash = key(n);
    Slot& slot = find(hash);
    previous_.push_back(slot.last);
    if (slot.last < 0) ++used_;
    slot = {hash, here};
  }
}

bool NgramIndex::ends_alike(int32_t place, int n) const {
  if (place + 1 < n) return false;
  return std::equal(tokens_.end() - n, tokens_.end(), tokens_.begin() + (place + 1 - n));
}

void NgramIndex::matches(int most, std::vector<Match>& found) const {
  found.clear();
  const auto here = int32_t(tokens_.size()) - 1;
  const int lengths = options_.max_n - options_.min_n + 1;
  const auto before = [&](int32_t place, int n) {
    return previous_[size_t(place) * size_t(lengths) + size_t(n - options_.min_n)];
  };
  for (int n = std::min(options_.max_n, here); n >= options_.min_n; --n) {
    int looked_at = 0;
    for (int32_t place = before(here, n); place >= 0 && looked_at < most;
         place = before(place, n), ++looked_at) {
      // Two n-grams may share a hash; and a longer match was found with its own length.
      if (!ends_alike(place, n)) continue;
      if (n < options_.max_n && ends_alike(place, n + 1)) continue;
      found.push_back({place + 1, n});
    }
  }
}

// --- the drafter --------------------------------------------------------------------------------

void NgramDrafter::open(const DraftSequence& sequence) {
  NgramIndex index(options_);
  for (int32_t token : sequence.tokens) index.append(token);
  sequences_.insert_or_assign(sequence.id, std::move(index));
}

void NgramDrafter::advance(const DraftVerdict& verdict) {
  const auto sequence = sequences_.find(verdict.id);
  if (sequence == sequences_.end()) return;
  for (int32_t token : verdict.tokens) sequence->second.append(token);
}

DraftTree NgramDrafter::propose_one(const NgramIndex& index, const DraftLimits& limits) {
  index.matches(kMatchesLookedAt, matches_);
  const auto& tokens = index.tokens();
  // Of equally long matches, those whose next token followed most often come first; of equally
  // frequent ones the most recent, as they are.
  std::unordered_map<int64_t, int> followers;
  const auto follower = [&](const NgramIndex::Match& m) {
    return int64_t(m.length) << 32 | uint32_t(tokens[size_t(m.end)]);
  };
  for (const auto& match : matches_) ++followers[follower(match)];
  std::ranges::stable_sort(matches_, [&](const auto& a, const auto& b) {
    if (a.length != b.length) return a.length > b.length;
    return followers[follower(a)] > followers[follower(b)];
  });
  std::vector<std::vector<int32_t>> paths;
  for (const auto& match : matches_) {
    paths.push_back(continuation(tokens, match.end, limits.max_depth));
  }
  return tree_from_paths(paths, limits.max_nodes);
}

std::vector<DraftTree> NgramDrafter::propose(std::span<const SequenceId> ids,
                                             const DraftLimits& limits) {
  std::vector<DraftTree> trees(ids.size());
  if (limits.max_nodes <= 0 || limits.max_depth <= 0) return trees;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto sequence = sequences_.find(ids[i]);
    if (sequence != sequences_.end()) trees[i] = propose_one(sequence->second, limits);
  }
  return trees;
}

}  // namespace convoke
