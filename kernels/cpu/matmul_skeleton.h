// The loops around a matrix kernel, instantiated once per instruction set (everything here has
// internal linkage, so that each copy keeps to its own file's instructions).
//
// The order in which an output's products are summed is the same in all of them: one accumulator,
// inputs in ascending order within a group; groups as a balanced binary tree. What varies with the
// number of rows is only which rows and panels are worked on together, and whether an accumulator
// rests in memory between two blocks of inputs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/matmul_job.h"

namespace convoke::cpu {
namespace {

/// One tile of sums: `rows` rows times `panels` panels over `units` units of inputs.
struct TileArgs {
  const std::byte* x = nullptr;
  int64_t x_row_bytes = 0, x_tile_bytes = 0, x_step_bytes = 0;  ///< AMX
  const std::byte* weights = nullptr;
  int64_t panel_bytes = 0;
  int64_t units = 0;
  float* sums = nullptr;  ///< [panel][row: sums_panel_floats / 16][16]
  int64_t sums_panel_floats = 0;
  bool resume = false;  ///< sums go on from what is there, else from zero
  /// When streaming: bytes from `weights` to the end of its panel. The kernel prefetches ahead of
  /// itself, and from there on in the panels that come after those of this tile. 0: no prefetch.
  int64_t stream_left = 0;
};

template <class Kernel>
class MatmulLoops {
 public:
  explicit MatmulLoops(const MatmulJob& job)
      : job_(job), row_units_((job.rows + job.unit_rows - 1) / job.unit_rows) {}

  void run() {
    Kernel::begin(rows_of(0));
    if (row_units_ == 1) {
      stream();
    } else {
      blocks();
    }
    Kernel::end();
  }

 private:
  int rows_of(int row_unit) const {
    const int left = job_.rows - row_unit * job_.unit_rows;
    return left < job_.unit_rows ? left : job_.unit_rows;
  }

  TileArgs tile_at(int row_unit, int64_t panel, int group, int64_t unit) const {
    TileArgs args;
    const int rows = rows_of(row_unit);
    if constexpr (Kernel::kTiles) {
      args.x = job_.x + row_unit * (job_.unit_rows / 16) * job_.x_tile_bytes +
               group * job_.x_group_bytes + unit * job_.x_step_bytes;
      args.x_row_bytes = job_.x_row_bytes;
      args.x_tile_bytes = job_.x_tile_bytes;
      args.x_step_bytes = job_.x_step_bytes;
    } else {
      const int64_t words_before =
          int64_t(row_unit) * job_.unit_rows * job_.groups * job_.group_units +
          (group * job_.group_units + unit) * rows;
      args.x = job_.x + 4 * words_before;
    }
    args.weights = job_.weights + panel * job_.panel_bytes + group * job_.group_bytes +
                   unit * Kernel::kUnitBytes;
    args.panel_bytes = job_.panel_bytes;
    return args;
  }

  static void add_into(float* left, const float* right, int64_t count) {
    for (int64_t i = 0; i < count; ++i) left[i] += right[i];
  }

  /// Sums groups [first, first + count) of a tile as their tree; the sum is left at `sums`, levels
  /// above it at `local`.
  void tile_over_groups(int row_unit, int64_t panel, int panels, int first, int count, float* sums,
                        int64_t sums_panel_floats, bool streaming) {
    const int rows = rows_of(row_unit);
    int depth = 0;
    for (int g = 0; g < count; ++g) {
      TileArgs args = tile_at(row_unit, panel, first + g, 0);
      args.units = job_.group_units;
      args.sums = depth == 0 ? sums : local() + depth * kTileLevelFloats;
      args.sums_panel_floats = sums_panel_floats;
      if (streaming) args.stream_left = job_.panel_bytes - (first + g) * job_.group_bytes;
      Kernel::tile(args, rows, panels);
      ++depth;
      for (int digits = g; (digits & 1) != 0; digits >>= 1) {
        --depth;
        float* left = depth == 1 ? sums : local() + (depth - 1) * kTileLevelFloats;
        const float* right = local() + depth * kTileLevelFloats;
        for (int p = 0; p < panels; ++p) {
          add_into(left + p * sums_panel_floats, right + p * sums_panel_floats, int64_t(rows) * 16);
        }
      }
    }
  }

  /// y of one tile: sums, plus bias.
  void write_tile(int row_unit, int64_t panel, int panels, const float* sums,
                  int64_t sums_panel_floats) {
    const int rows = rows_of(row_unit);
    float* y_rows = job_.y + int64_t(row_unit) * job_.unit_rows * job_.y_stride;
    for (int p = 0; p < panels; ++p) {
      const int64_t column = (panel + p) * 16;
      const int64_t left = job_.outputs - column;
      const float* sum = sums + p * sums_panel_floats;
      const float* bias = job_.bias == nullptr ? nullptr : job_.bias + column;
      for (int r = 0; r < rows; ++r, sum += 16) {
        float* y = y_rows + r * job_.y_stride + column;
        if (left >= 16) {
          write_16(y, sum, bias);
        } else {
          for (int64_t i = 0; i < left; ++i) y[i] = bias == nullptr ? sum[i] : sum[i] + bias[i];
        }
      }
    }
  }

  static void write_16(float* y, const float* sum, const float* bias) {
    float values[16];
    for (int i = 0; i < 16; ++i) values[i] = sum[i];
    if (bias != nullptr) {
      for (int i = 0; i < 16; ++i) values[i] += bias[i];
    }
    for (int i = 0; i < 16; ++i) y[i] = values[i];
  }

  /// Few rows: the weights are read once, in the order in which they lie.
  void stream() {
    const int rows = rows_of(0);
    const int at_once = Kernel::panels_at_once(rows);
    const int64_t panel_floats = Kernel::kMaxRows * 16;
    for (int64_t panel = 0; panel < job_.panels; panel += at_once) {
      const int64_t left = job_.panels - panel;
      const int panels = left < at_once ? int(left) : at_once;
      tile_over_groups(0, panel, panels, 0, job_.groups, local(), panel_floats, true);
      write_tile(0, panel, panels, local(), panel_floats);
    }
  }

  /// Many rows: blocks of rows, panels and inputs, so that a block of weights stays in the first
  /// cache, and inputs and sums in the second.
  void blocks() {
    const int block_units = kBlockRows / job_.unit_rows;
    for (int begin = 0; begin < row_units_; begin += block_units) {
      const int end = begin + block_units < row_units_ ? begin + block_units : row_units_;
      for (int64_t panel = 0; panel < job_.panels; panel += kBlockPanels) {
        const int64_t left = job_.panels - panel;
        block(begin, end, panel, left < kBlockPanels ? left : kBlockPanels);
      }
    }
  }

  void block(int begin, int end, int64_t first_panel, int64_t panels) {
    // Groups of one block of inputs: a power of two, so that its tree is a subtree.
    int together = 1;
    while (together < job_.groups && 2 * together * job_.group_units <= Kernel::kBlockUnits) {
      together *= 2;
    }
    const int at_once = Kernel::panels_at_once(job_.unit_rows);
    const int64_t panel_floats = int64_t(job_.unit_rows) * 16;
    const int64_t used =
        (panels + at_once - 1) / at_once * at_once * int64_t(end - begin) * panel_floats;
    int depth = 0;
    for (int group = 0; group < job_.groups; group += together) {
      const bool whole = together > 1 || job_.group_units <= Kernel::kBlockUnits;
      const int64_t step = whole ? job_.group_units : Kernel::kBlockUnits;
      for (int64_t unit = 0; unit < job_.group_units; unit += step) {
        const int64_t left = job_.group_units - unit;
        inputs_block(begin, end, first_panel, panels, group, together, unit,
                     left < step ? left : step, level(depth));
      }
      ++depth;
      for (int digits = group / together; (digits & 1) != 0; digits >>= 1) {
        --depth;
        add_into(level(depth - 1), level(depth), used);
      }
    }
    float* sums = level(0);
    for (int64_t p = 0; p < panels; p += at_once) {
      const int count = panels - p < at_once ? int(panels - p) : at_once;
      for (int u = begin; u < end; ++u, sums += at_once * panel_floats) {
        write_tile(u, first_panel + p, count, sums, panel_floats);
      }
    }
  }

  void inputs_block(int begin, int end, int64_t first_panel, int64_t panels, int group,
                    int together, int64_t unit, int64_t units, float* sums) {
    const int at_once = Kernel::panels_at_once(job_.unit_rows);
    const int64_t panel_floats = int64_t(job_.unit_rows) * 16;
    for (int64_t p = 0; p < panels; p += at_once) {
      const int count = panels - p < at_once ? int(panels - p) : at_once;
      for (int u = begin; u < end; ++u, sums += at_once * panel_floats) {
        const int rows = rows_of(u);
        if (rows != job_.unit_rows) Kernel::begin(rows);
        if (together > 1) {
          tile_over_groups(u, first_panel + p, count, group, together, sums, panel_floats, false);
        } else {
          TileArgs args = tile_at(u, first_panel + p, group, unit);
          args.units = units;
          args.sums = sums;
          args.sums_panel_floats = panel_floats;
          args.resume = unit != 0;
          Kernel::tile(args, rows, count);
        }
        if (rows != job_.unit_rows) Kernel::begin(job_.unit_rows);
      }
    }
  }

  float* local() const { return job_.scratch; }
  float* level(int depth) const {
    return job_.scratch + kMaxLevels * kTileLevelFloats + depth * kLevelFloats;
  }

  const MatmulJob& job_;
  const int row_units_;
};

}  // namespace
}  // namespace convoke::cpu
