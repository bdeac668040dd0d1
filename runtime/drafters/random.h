// The adversary: random trees of random shapes, for tests that drafts cost speed and never a token.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/drafter.h"

namespace convoke {

/// Trees that find_defect lets pass and that are otherwise as odd as can be: empty, deep chains,
/// wide fans, equal siblings, probes between candidates. Some follow the context's own habits, so
/// that some drafts are accepted and commits are exercised, too. The tree of a sequence depends on
/// the seed, the sequence's id and its length only.
class RandomDrafter final : public Drafter {
 public:
  RandomDrafter(uint64_t seed, int vocabulary) : seed_(seed), vocabulary_(vocabulary) {}
  static uint64_t parse_seed(const std::string& argument);  ///< "" = 0; throws Error(kUsage)

  std::string name() const override { return "random"; }
  void open(const DraftSequence& sequence) override { tokens_[sequence.id] = sequence.tokens; }
  void advance(const DraftVerdict& verdict) override;
  void close(SequenceId id) override { tokens_.erase(id); }
  std::vector<DraftTree> propose(std::span<const SequenceId> ids,
                                 const DraftLimits& limits) override;

 private:
  DraftTree propose_one(SequenceId id, const std::vector<int32_t>& context,
                        const DraftLimits& limits) const;

  uint64_t seed_;
  int vocabulary_;
  std::unordered_map<SequenceId, std::vector<int32_t>> tokens_;
};

}  // namespace convoke
