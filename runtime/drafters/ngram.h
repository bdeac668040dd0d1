// Prompt lookup: where the last tokens of a sequence stood before, what followed then is the guess.
//
// Every sequence has an index from n-grams to the places where they ended, kept up to date token
// by token: appending costs O(max_n), proposing O(occurrences looked at × depth); the context is
// never read again.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/drafter.h"

namespace convoke {

struct NgramOptions {
  int max_n = 4;                                           ///< longest suffix looked for
  int min_n = 1;                                           ///< shortest
  static NgramOptions parse(const std::string& argument);  ///< "max_n=4,min_n=1"; Error(kUsage)
};

/// The n-grams of one growing token sequence.
class NgramIndex {
 public:
  explicit NgramIndex(const NgramOptions& options);

  void append(int32_t token);
  const std::vector<int32_t>& tokens() const { return tokens_; }

  /// An earlier place where the last `length` tokens stood; the token after it is at `end`.
  struct Match {
    int32_t end = 0;
    int32_t length = 0;
    bool operator==(const Match&) const = default;
  };
  /// The longest matches first, of equally long ones the most recent first; each place once, with
  /// the longest length (up to max_n) that matches there. Of one length at most `most` are looked
  /// at.
  void matches(int most, std::vector<Match>& found) const;

 private:
  struct Slot {
    uint64_t key = 0;   ///< hash of length and tokens
    int32_t last = -1;  ///< where it last ended; -1 = empty slot
  };
  uint64_t key(int n) const;  ///< of the last n tokens
  Slot& find(uint64_t key);
  void grow();
  bool ends_alike(int32_t place, int n) const;

  NgramOptions options_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> previous_;  ///< [position][n - min_n] where the n-gram ended before, or -1
  std::vector<Slot> slots_;        ///< open addressing, a power of two
  size_t used_ = 0;
};

class NgramDrafter final : public Drafter {
 public:
  explicit NgramDrafter(const NgramOptions& options) : options_(options) {}

  std::string name() const override { return "ngram"; }
  void open(const DraftSequence& sequence) override;
  void advance(const DraftVerdict& verdict) override;
  void close(SequenceId id) override { sequences_.erase(id); }
  std::vector<DraftTree> propose(std::span<const SequenceId> ids,
                                 const DraftLimits& limits) override;

 private:
  DraftTree propose_one(const NgramIndex& index, const DraftLimits& limits);

  NgramOptions options_;
  std::unordered_map<SequenceId, NgramIndex> sequences_;
  std::vector<NgramIndex::Match> matches_;
};

}  // namespace convoke
