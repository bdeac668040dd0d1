// What one thread has to do of a matrix product, in plain numbers: the border between matmul.cc,
// which splits the work, and the kernels, each in a file compiled for its instruction set. Those
// files may include only headers like this one (see kernels/CMakeLists.txt).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/elementwise_kernels.h"

namespace convoke::cpu {

/// A range of pieces of work: its owner takes the first, others the last. On cache lines of its
/// own.
struct alignas(128) PanelQueue {
  uint64_t range = 0;  ///< begin in the upper half, end in the lower; accessed atomically
};

/// A *unit* of inputs is what one multiply-add instruction of a kernel consumes: 32 inputs for AMX
/// tiles, a pair of bfloat16 (4 bytes), or one float32 (4 bytes). Units of float8 weights are those
/// of bfloat16 ones.
///
/// Rows are worked on in *row units* of `unit_rows` rows, the last one maybe smaller.
struct MatmulJob {
  // Input rows. AMX: see x_row_bytes .. x_step_bytes. The others read words of 4 bytes (one unit
  // of one row), which lie [row unit][group][unit][row of the row unit], or, in place, row by row.
  const std::byte* x = nullptr;  ///< first row unit of the job
  bool x_in_place = false;       ///< not AMX: rows lie x_row_bytes apart, groups x_group_bytes
  int64_t x_row_bytes = 0;       ///< AMX: from row to row inside a tile of 16 rows
  int64_t x_tile_bytes = 0;      ///< AMX: from one tile of 16 rows to the next
  int64_t x_unit_bytes = 0;      ///< AMX: from row unit to row unit
  int64_t x_group_bytes = 0;     ///< AMX: from group to group
  int64_t x_step_bytes = 0;      ///< AMX: from unit to unit
  int rows = 0;
  int unit_rows = 0;
  bool streams = false;  ///< few rows: weights in the order in which they lie, once; else in blocks

  const std::byte* weights = nullptr;  ///< first panel of the job
  int64_t panels = 0;
  int64_t panel_bytes = 0;
  int64_t group_bytes = 0;
  const float* scales = nullptr;  ///< [panels][16] of float8 weights, from the first panel on
  int groups = 1;
  int64_t group_units = 0;  ///< units of inputs per group, padding included where it is read

  float* y = nullptr;  ///< first row, first output of the job; null when gated
  int64_t y_stride = 0;
  int64_t outputs = 0;          ///< <= 16 * panels, when gated 8 * panels
  const float* bias = nullptr;  ///< of the first output, or null
  bool accumulate = false;      ///< y = (y + sum) + bias

  // Gated: panels are pairs, and what they give is activated and written here.
  bool gated = false;
  const float* second_bias = nullptr;  ///< of the pair's second panel, if there is a bias
  std::byte* activated = nullptr;      ///< first row, first output of the job
  int64_t activated_row_bytes = 0;
  DType activated_dtype = DType::kFloat32;
  const ElementwiseKernels* elementwise = nullptr;

  float* scratch = nullptr;  ///< of this thread: scratch_floats(groups)

  /// Few rows: which panels each thread has not begun yet. A thread that is through with its own
  /// takes from the others', so that a thread that is held up does not hold up all. A queue is
  /// empty from the end of one product to the beginning of the next. Null: the job is this
  /// thread's alone.
  PanelQueue* queues = nullptr;
  int thread = 0;
  int threads = 1;
};

/// Blocking of long products (more rows than one row unit): at most so much in a block.
inline constexpr int kBlockRows = 512;
inline constexpr int kBlockPanels = 16;
inline constexpr int64_t kLevelFloats = int64_t(kBlockRows) * kBlockPanels * 16;

/// Partial sums on their way up the tree over groups rest on one level per binary digit of the
/// group's number, and one more. There is a stack of levels for a block and one for a tile.
inline constexpr int kMaxLevels = 32;
inline constexpr int64_t kTileLevelFloats = int64_t(16) * 256;  ///< rows * panels <= 256
/// Long products with float8 weights: up to four panels of a piece of the inputs as bfloat16.
inline constexpr int64_t kExpandedPanelBytes = int64_t(512 + 32) * 64;
inline constexpr int64_t kExpandedFloats = 4 * kExpandedPanelBytes / 4;
inline constexpr int64_t scratch_floats(int groups) {
  int levels = 2;
  while ((groups >>= 1) != 0) ++levels;
  return kExpandedFloats + kMaxLevels * kTileLevelFloats + levels * kLevelFloats;
}

struct MatmulKernel {
  void (*run)(const MatmulJob& job) = nullptr;
  int unit_inputs = 0;  ///< inputs of one unit
  int max_rows = 0;     ///< up to here all rows make one row unit
  int block_rows = 0;   ///< largest row unit when there are more
  bool tiles = false;   ///< AMX: x may be read where it lies
  /// Others: rows may be read where they lie; else only one row may, and more are put into the
  /// kernel's order first.
  bool in_place = false;
  /// Up to so many rows that are read in place, the weights are streamed once for all row units.
  int stream_rows = 0;
};

MatmulKernel portable_bf16_kernel();
MatmulKernel portable_f32_kernel();
MatmulKernel portable_e4m3_kernel();
#if defined(__x86_64__)
MatmulKernel avx2_bf16_kernel();
MatmulKernel avx2_f32_kernel();
MatmulKernel avx2_e4m3_kernel();
MatmulKernel avx512_bf16_kernel();
MatmulKernel avx512_f32_kernel();
MatmulKernel avx512_e4m3_kernel();
MatmulKernel amx_bf16_kernel();
MatmulKernel amx_e4m3_kernel();
#endif

}  // namespace convoke::cpu
