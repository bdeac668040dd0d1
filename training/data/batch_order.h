// Which sequences a training step sees.
#pragma once

#include <cstdint>
#include <vector>

namespace convoke {

/// Every epoch is all sequences once, in a random order of its own, and epochs follow each other
/// without a gap: a batch may hold the end of one and the beginning of the next, and one that is
/// larger than the corpus holds several. A pure function of seed, step and the two sizes, so that
/// training goes on from a step's number alone. Memory: 8 bytes per sequence. Not thread-safe.
class BatchOrder {
 public:
  /// `sequences` and `batch_size` are at least 1.
  BatchOrder(uint64_t seed, int64_t sequences, int batch_size);

  /// The sequences of step `step` (from 0): `batch_size` indices.
  std::vector<int64_t> batch(int64_t step);

  /// Whole and partial epochs that `steps` steps have seen.
  double epochs(int64_t steps) const;

 private:
  void shuffle(int64_t epoch);

  uint64_t seed_;
  int64_t sequences_;
  int batch_size_;
  int64_t epoch_ = -1;  ///< that order_ is of
  std::vector<int64_t> order_;
};

}  // namespace convoke
