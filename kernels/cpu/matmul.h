// Matrix products of the CPU backend.
//
// An output's bits depend on its input row, its weights and the reduction groups only: every path
// sums an output's products in one accumulator per group, inputs in ascending order (AMX: 32 at a
// time, VDPBF16PS: 2 at a time, in the order of the instruction), and the groups as a balanced
// binary tree, whatever the number of rows, outputs or threads.
#pragma once

#include "kernels/cpu/packed_matrix.h"

namespace convoke::cpu {

/// Work space of the products of one team, sized when matrices are packed.
class MatmulScratch {
 public:
  explicit MatmulScratch(int threads) : threads_(threads) {}

  /// Makes room for products with such a matrix. Not during a program.
  void reserve(const PackedLayout& layout);

  float* sums(int thread) const;         ///< scratch_floats(groups)
  std::byte* rows() const;               ///< shared by the team
  static constexpr int kRows = 512;      ///< rows that rows() has room for
  static constexpr int kSpareRows = 32;  ///< and one row unit to keep others apart

 private:
  int threads_;
  int64_t sums_floats_ = 0;  ///< of one thread
  std::unique_ptr<Buffer> sums_;
  std::unique_ptr<Buffer> rows_;
};

/// See Backend::matmul. `isa` must be one that this machine has.
void matmul(CpuStream& stream, Isa isa, const MatmulScratch& scratch, const MatmulArgs& args);

}  // namespace convoke::cpu
