// How well drafts meet the target's picks on held-out text, by depth.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace convoke::training {

/// Counts over texts: at each depth, how often the target's pick was the draft's first choice and
/// how often among its first kWide, given that the text so far is what was drafted. Greedy, and at
/// temperature 1 with the pick rule's noise shared by draft and target
/// (kernels/pick.h).
class DraftScores {
 public:
  static constexpr int kWide = 4;
  struct Rates {
    double first = 0, wide = 0;
  };

  /// draft [rows, columns], target [rows, vocabulary]: logits of the same rows. `columns` [columns]
  /// int64 are the token ids of a reduced draft vocabulary; undefined: column = token. `seed` names
  /// the noise; equal rows of equal seeds have equal noise.
  void add(int depth, const torch::Tensor& draft, const torch::Tensor& target,
           const torch::Tensor& columns, uint64_t seed);

  int depths() const { return int(counts_.size()); }
  int64_t rows() const { return counts_.empty() ? 0 : counts_.front().rows; }
  Rates rates(int depth, bool sampled) const;

  /// 1 + the expected number of accepted drafts if each depth is met independently with these
  /// rates: of a chain of first choices, or of a tree that holds the first kWide at every node.
  double chain_length(bool sampled) const;
  double tree_length(bool sampled) const;

 private:
  struct Counts {
    int64_t rows = 0;
    int64_t hits[2][2] = {};  ///< [sampled][first, wide]
  };
  double length(bool sampled, double Rates::*met) const;

  std::vector<Counts> counts_;
};

}  // namespace convoke::training
