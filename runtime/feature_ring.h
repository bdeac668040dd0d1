// The target's features where a drafter on its device takes them: rows of the last passes, in the
// device's memory. What travels to the drafter, in the place of a row's values, is its name.
//
// Every row that is written gets the next name, and lies at the place of its name modulo the number
// of rows; so it is overwritten by and by, in order. A name that came too late is no name any more:
// read() tells, and its feature is one that never came. While the drafter reads, nothing that it
// reads is overwritten: a pass that would have to goes without names, and its features go through
// the host. So neither waits for the other, and neither sees what it should not.
//
// Order between the two streams is the host's: a name is told when the program that wrote its row
// has run, and the drafter reads until its own program has.
//
// Thread-safe. The target's thread calls prepare() and take(), the drafter's the rest.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "kernels/backend.h"

namespace convoke {

/// Features that are names: a view of them is [rows, 1], int64, in host memory.
inline constexpr DType kFeatureNames = DType::kInt64;
inline bool are_names(const TensorView& features) {
  return features.rows > 0 && features.dtype == kFeatureNames;
}
/// A row stays at least while so many others are named after it.
inline constexpr int64_t kNamesThatStay = 512;

class FeatureRing {
 public:
  /// `places`: sequences of the drafter, which has two rows of its own for each. `pass_rows`: of
  /// the target's largest pass.
  FeatureRing(int places, int pass_rows);

  // --- the target

  /// Takes the memory for rows of this type and width, if they are others than before; what was
  /// named so far is gone. Width 0: for none. Outside of programs. Throws Error(kResource).
  void prepare(Backend& backend, DType dtype, int64_t width);
  /// Names `count` rows, which the program that is run next writes to row_of(name) of rows().
  /// False, and no names, when no drafter reads here or one reads what would be overwritten.
  bool take(int count, std::vector<int64_t>& names);
  int32_t row_of(int64_t name) const { return int32_t(name % named_rows_); }
  /// [named rows, width], for kernels of the target's backend and its siblings.
  TensorView rows() const;
  /// Bytes that a ring takes on the device.
  static int64_t bytes(int places, int pass_rows, int64_t width, DType dtype);

  // --- the drafter

  /// Rows from `oldest` on, as long as this lives.
  class Reading {
   public:
    Reading(FeatureRing& ring, int64_t oldest);
    ~Reading();
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;

    /// Where a row lies in all(); -1: it has been overwritten, or never was.
    int32_t row(int64_t name) const;
    /// [named rows + places * 2, width]: behind those with names, the drafter's own.
    const TensorView& all() const { return all_; }
    TensorView named() const { return all_.row_range(0, ring_.named_rows_); }
    /// Row 0 or 1 of a place, in all().
    int32_t own_row(int place, int which) const {
      return int32_t(ring_.named_rows_ + place * 2 + which);
    }

   private:
    FeatureRing& ring_;
    std::shared_ptr<Buffer> memory_;
    TensorView all_;
    int64_t begin_ = 0, end_ = 0;  ///< names that can be read
  };

  /// A drafter that reads; rows are named while there is one.
  class Reader {
   public:
    explicit Reader(std::shared_ptr<FeatureRing> ring);
    ~Reader();
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    FeatureRing& ring() { return *ring_; }

   private:
    std::shared_ptr<FeatureRing> ring_;
  };

 private:
  const int64_t named_rows_, own_rows_;
  mutable std::mutex mutex_;
  int readers_ = 0;
  std::shared_ptr<Buffer> memory_;
  TensorView all_;
  int64_t first_ = 0;  ///< names before it are of other memory
  int64_t next_ = 0;
  std::optional<int64_t> reading_;  ///< the oldest name that may not be overwritten now
};

}  // namespace convoke
