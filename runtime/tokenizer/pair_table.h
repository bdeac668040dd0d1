// From a pair of neighbouring tokens to the merge that joins them: open addressing, one probe and
// one cache line for nearly every lookup.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace convoke {

class PairTable {
 public:
  struct Merge {
    uint32_t rank = kNoRank;  ///< position in the list of merges; lower goes first
    int32_t id = -1;          ///< token that results
  };
  static constexpr uint32_t kNoRank = UINT32_MAX;

  explicit PairTable(size_t pairs = 0)
      : slots_(std::bit_ceil(2 * pairs + 2)), shift_(64 - std::countr_zero(slots_.size())) {}

  /// A later merge of the same pair replaces the earlier one, as in the reference. At most the
  /// number of pairs given to the constructor.
  void insert(int32_t left, int32_t right, Merge merge) {
    Slot& slot = slots_[find_slot(key(left, right))];
    slot = {key(left, right), merge};
  }

  Merge find(int32_t left, int32_t right) const {
    return slots_[find_slot(key(left, right))].merge;
  }

 private:
  static constexpr uint64_t kEmpty = UINT64_MAX;  // ids are never negative
  struct Slot {
    uint64_t key = kEmpty;
    Merge merge;
  };

  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  size_t find_slot(uint64_t key) const {
    size_t at = (key * 0x9E3779B97F4A7C15ull) >> shift_;
    while (slots_[at].key != key && slots_[at].key != kEmpty) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  std::vector<Slot> slots_;
  int shift_;
};

}  // namespace convoke
