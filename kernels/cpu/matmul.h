// Matrix products of the CPU backend.
//
// An output's bits depend on its input row, its weights and the reduction groups only: every path
// sums an output's products in one accumulator per group, inputs in ascending order (AMX: 32 at a
// time, VDPBF16PS: 2 at a time, in the order of the instruction), and the groups as a balanced
// binary tree, whatever the number of rows, outputs or threads.
#pragma once

#include "kernels/cpu/matmul_job.h"
#include "kernels/cpu/packed_matrix.h"

namespace convoke::cpu {

/// Work space of the products of one team, sized when matrices are packed.
class MatmulScratch {
 public:
  explicit MatmulScratch(int threads)
      : threads_(threads), queues_(std::make_unique<PanelQueue[]>(size_t(threads))) {}

  /// Makes room for products with such a matrix. Not during a program.
  void reserve(const PackedLayout& layout);

  float* sums(int thread) const;  ///< scratch_floats(groups)
  std::byte* rows() const;        ///< shared by the team
  std::byte* normed() const;      ///< likewise: kRows rows off each other's cache sets
  std::byte* few_normed(
      int thread) const;  ///< kFewElements and the gaps between at most kRows rows
  PanelQueue* queues() const { return queues_.get(); }  ///< one per thread
  static constexpr int kRows = 512;                     ///< rows that rows() has room for
  static constexpr int kSpareRows = 32;                 ///< and one row unit to keep others apart
  /// Inputs that every thread normalises for itself, and what they take with their gaps.
  static constexpr int64_t kFewElements = 16 * 1024;
  static constexpr size_t kFewBytes = size_t(kFewElements) * sizeof(float) + size_t(kRows) * 128;

 private:
  int threads_;
  int64_t sums_floats_ = 0;  ///< of one thread
  std::unique_ptr<PanelQueue[]> queues_;
  std::unique_ptr<Buffer> sums_;
  std::unique_ptr<Buffer> rows_;
  std::unique_ptr<Buffer> normed_;
  std::unique_ptr<Buffer> few_normed_;
};

/// See Backend::matmul. `isa` must be one that this machine has.
void matmul(CpuStream& stream, Isa isa, const MatmulScratch& scratch, const MatmulArgs& args);

}  // namespace convoke::cpu
