// What the loops of matmul_skeleton.h ask of a kernel, a tile at a time. Everything has internal
// linkage, as there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/matmul_job.h"

namespace convoke::cpu {
namespace {

/// One tile of sums: `rows` rows times `panels` panels over `units` units of inputs.
struct TileArgs {
  const std::byte* x = nullptr;
  int64_t x_row_bytes = 0;                     ///< AMX, and in place
  int64_t x_tile_bytes = 0, x_step_bytes = 0;  ///< AMX
  const std::byte* weights = nullptr;
  int64_t panel_bytes = 0;
  int64_t units = 0;
  float* sums = nullptr;  ///< [panel][row: sums_panel_floats / 16][16]
  int64_t sums_panel_floats = 0;
  bool resume = false;  ///< sums go on from what is there, else from zero

  // Kernels that finish: what becomes of the sums while they are in registers. Partial sums that
  // wait are added to their left, first the one at `left`, then those before it; the result goes to
  // y if that is set (accumulated, then the bias), else to `target`.
  // Where a group of float8 weights ends, the sums are first multiplied by the outputs' scales.
  const float* scales = nullptr;  ///< [panels][16], or null
  const float* left = nullptr;    ///< laid out as sums
  int64_t left_step = 0;          ///< floats from one to the one before it
  int lefts = 0;
  float* target = nullptr;      ///< laid out as sums
  const float* bias = nullptr;  ///< of the first column of y, or null
  bool accumulate = false;

  /// When streaming: bytes from `weights` to the end of its panel. The kernel prefetches ahead of
  /// itself, and from there on in the panels that come after those of this tile. 0: no prefetch.
  int64_t stream_left = 0;
  /// Not AMX with bfloat16: how far ahead, as whole panels of each stream and bytes in one of them.
  int64_t fetch_panels = 0, fetch_bytes = 0;

  // AMX in blocks: what the tile fetches by the way for those that follow, a few lines per unit.
  const std::byte* next_weights = nullptr;
  int next_weights_lines = 0;
  const std::byte* next_x = nullptr;  ///< same row unit, next piece of inputs
  int64_t next_x_line = 0;            ///< to begin with, in lines of 32 to a unit
  int next_x_lines = 0;

  float* y = nullptr;  ///< AMX: to be written after this tile
  int64_t y_stride = 0;
};

/// Where a kernel that streams P panels at once prefetches: so many bytes ahead of itself in the
/// panels that it is in or that follow, `crossing` units from the tile's beginning on in the next
/// ones.
struct Prefetch {
  int64_t near = 0, far = 0, crossing = 0;

  Prefetch(const TileArgs& args, int panels, int64_t unit_bytes)
      : near(args.fetch_panels * panels * args.panel_bytes + args.fetch_bytes),
        far(near + (panels - 1) * args.panel_bytes),
        crossing((args.stream_left - args.fetch_bytes) / unit_bytes) {}

  int64_t at(int64_t unit) const { return unit < crossing ? near : far; }
};

}  // namespace
}  // namespace convoke::cpu
