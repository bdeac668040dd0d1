// The loops around a matrix kernel, instantiated once per instruction set (everything here has
// internal linkage, so that each copy keeps to its own file's instructions).
//
// The order in which an output's products are summed is the same in all of them: one accumulator,
// inputs in ascending order within a group; groups as a balanced binary tree. What varies with the
// number of rows is only which rows and panels are worked on together, and whether an accumulator
// rests in memory between two blocks of inputs.
//
// Kernels of float8 weights (kExpands) sum what kernels of bfloat16 weights (Kernel::Plain) sum, of
// the same values in the same order. A group's sum is multiplied by the outputs' scales before it
// goes into the tree, so that ranks that hold parts of the tree add up the same numbers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/expand_e4m3.h"
#include "kernels/cpu/matmul_job.h"
#include "kernels/cpu/matmul_tile.h"

namespace convoke::cpu {
namespace {

template <class Kernel>
class MatmulLoops {
 public:
  explicit MatmulLoops(const MatmulJob& job)
      : job_(job),
        queues_(job.queues == nullptr ? &lone_queue_ : job.queues),
        row_units_((job.rows + job.unit_rows - 1) / job.unit_rows) {
    if constexpr (requires { Kernel::kPrefetchBytes; }) {
      fetch_panels_ = Kernel::kPrefetchBytes / job.panel_bytes;
      fetch_bytes_ = Kernel::kPrefetchBytes % job.panel_bytes;
    }
  }

  void run() {
    Kernel::begin(rows_of(0));
    if (job_.streams) {
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
      args.x = job_.x + row_unit * job_.x_unit_bytes + group * job_.x_group_bytes +
               unit * job_.x_step_bytes;
      args.x_row_bytes = job_.x_row_bytes;
      args.x_tile_bytes = job_.x_tile_bytes;
      args.x_step_bytes = job_.x_step_bytes;
    } else if (job_.x_in_place) {
      args.x = job_.x + row_unit * job_.unit_rows * job_.x_row_bytes + group * job_.x_group_bytes +
               4 * unit;
      args.x_row_bytes = job_.x_row_bytes;
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

  /// Partial sums that wait for group `g` to end, or would without it: the ones of its number. The
  /// last ones, as far as they follow each other, are completed by it.
  static int waiting(int g) { return __builtin_popcount(unsigned(g)); }
  static int completed(int g) { return __builtin_ctz(~unsigned(g)); }

  /// Where a kernel that finishes is to leave a tile of y, if it can: whole columns, not gated.
  void write_to_y(TileArgs& args, int row_unit, int64_t panel, int panels) const {
    const int64_t column = panel * 16;
    if (job_.gated || column + 16 * panels > job_.outputs) return;
    args.y = job_.y + int64_t(row_unit) * job_.unit_rows * job_.y_stride + column;
    args.y_stride = job_.y_stride;
    args.bias = job_.bias == nullptr ? nullptr : job_.bias + column;
    args.accumulate = job_.accumulate;
  }

  void stream_ahead(TileArgs& args, int group) const {
    args.stream_left = job_.panel_bytes - group * job_.group_bytes;
    args.fetch_panels = fetch_panels_;
    args.fetch_bytes = fetch_bytes_;
  }

  const float* scales_of(int64_t panel) const {
    return job_.scales == nullptr ? nullptr : job_.scales + panel * 16;
  }

  /// A tile of group `group`, counted from the first that expand() has taken, if it has.
  void run_tile(const TileArgs& args, int rows, int panels, int group) const {
    if constexpr (Kernel::kExpands) {
      if (expanded_ != nullptr) return Kernel::Plain::tile(expanded(args, group), rows, panels);
    }
    Kernel::tile(args, rows, panels);
  }

  /// `count` groups of a tile from `first` on, which are all that there are if the kernel finishes.
  /// False: their sums are at `sums`, and y is not written.
  bool several_groups(int row_unit, int64_t panel, int panels, int first, int count, float* sums,
                      int64_t sums_panel_floats, bool streaming) {
    if constexpr (Kernel::kFinishes) {
      return finish_over_groups(row_unit, panel, panels, sums, sums_panel_floats, streaming);
    } else {
      tile_over_groups(row_unit, panel, panels, first, count, sums, sums_panel_floats, streaming);
      return false;
    }
  }

  /// By a kernel that finishes: one group after the other.
  bool finish_over_groups(int row_unit, int64_t panel, int panels, float* sums,
                          int64_t sums_panel_floats, bool streaming) {
    bool written = false;
    for (int g = 0; g < job_.groups; ++g) {
      TileArgs args = tile_at(row_unit, panel, g, 0);
      args.units = job_.group_units;
      args.sums_panel_floats = sums_panel_floats;
      const int depth = waiting(g);
      args.lefts = completed(g);
      args.left = local(depth - 1);
      args.left_step = kTileLevelFloats;
      args.target = local(depth - args.lefts);
      args.scales = scales_of(panel);
      if (g + 1 == job_.groups) {
        args.target = sums;
        write_to_y(args, row_unit, panel, panels);
        written = args.y != nullptr;
      }
      if (streaming) stream_ahead(args, g);
      run_tile(args, rows_of(row_unit), panels, g);
    }
    return written;
  }

  /// Sums groups [first, first + count) of a tile as their tree; the sum is left at `sums`. Groups
  /// are summed eight at a time, each into a place of its own, so that one pass can add them up.
  void tile_over_groups(int row_unit, int64_t panel, int panels, int first, int count, float* sums,
                        int64_t sums_panel_floats, bool streaming) {
    const int rows = rows_of(row_unit);
    const int batch = count < kMaxTogether ? count : kMaxTogether;
    for (int g = 0; g < count; g += batch) {
      for (int i = 0; i < batch; ++i) {
        TileArgs args = tile_at(row_unit, panel, first + g + i, 0);
        args.units = job_.group_units;
        args.sums = count == 1 ? sums : local(i);
        args.sums_panel_floats = sums_panel_floats;
        if (streaming) stream_ahead(args, first + g + i);
        run_tile(args, rows, panels, g + i);
        if constexpr (Kernel::kExpands) {
          scale(panel, panels, rows, args.sums, sums_panel_floats);
        }
      }
      if (count == 1) return;
      // The subtree goes up the binary digits of its number, as far as they are ones.
      int depth = __builtin_popcount(unsigned(g / batch));
      float* place = depth == 0 ? sums : local(kMaxTogether + depth);
      for (int p = 0; p < panels; ++p) {
        add_tree(place + p * sums_panel_floats, local(0) + p * sums_panel_floats, batch,
                 int64_t(rows) * 16);
      }
      for (int digits = g / batch; (digits & 1) != 0; digits >>= 1, --depth) {
        float* left = depth == 1 ? sums : local(kMaxTogether + depth - 1);
        for (int p = 0; p < panels; ++p) {
          add_into(left + p * sums_panel_floats,
                   local(kMaxTogether + depth) + p * sums_panel_floats, int64_t(rows) * 16);
        }
      }
    }
  }

  /// Sums of a group of float8 weights, times the outputs' scales; of kernels that do not finish.
  void scale(int64_t panel, int panels, int rows, float* sums, int64_t sums_panel_floats) const {
    for (int p = 0; p < panels; ++p) {
      const float* const scales = job_.scales + (panel + p) * 16;
      float* row = sums + p * sums_panel_floats;
      for (int r = 0; r < rows; ++r, row += 16) {
        for (int i = 0; i < 16; ++i) row[i] *= scales[i];
      }
    }
  }

  /// target[i] = tree sum of `count` (1, 2, 4 or 8) tiles that lie kTileLevelFloats apart.
  static void add_tree(float* target, const float* tiles, int count, int64_t floats) {
    const float* t = tiles;
    constexpr int64_t s = kTileLevelFloats;
    switch (count) {
      case 1:
        for (int64_t i = 0; i < floats; ++i) target[i] = t[i];
        return;
      case 2:
        for (int64_t i = 0; i < floats; ++i) target[i] = t[i] + t[i + s];
        return;
      case 4:
        for (int64_t i = 0; i < floats; ++i) {
          target[i] = (t[i] + t[i + s]) + (t[i + 2 * s] + t[i + 3 * s]);
        }
        return;
      default:
        for (int64_t i = 0; i < floats; ++i) {
          target[i] = ((t[i] + t[i + s]) + (t[i + 2 * s] + t[i + 3 * s])) +
                      ((t[i + 4 * s] + t[i + 5 * s]) + (t[i + 6 * s] + t[i + 7 * s]));
        }
    }
  }

  /// y of one tile: sums, plus bias.
  void write_tile(int row_unit, int64_t panel, int panels, float* sums, int64_t sums_panel_floats) {
    const int rows = rows_of(row_unit);
    if (job_.gated) {
      for (int p = 0; p < panels; p += 2, sums += 2 * sums_panel_floats) {
        write_gated(row_unit, panel + p, sums, sums + sums_panel_floats);
      }
      return;
    }
    float* y_rows = job_.y + int64_t(row_unit) * job_.unit_rows * job_.y_stride;
    for (int p = 0; p < panels; ++p) {
      const int64_t column = (panel + p) * 16;
      const int64_t left = job_.outputs - column;
      const float* sum = sums + p * sums_panel_floats;
      const float* bias = job_.bias == nullptr ? nullptr : job_.bias + column;
      for (int r = 0; r < rows; ++r, sum += 16) {
        float* y = y_rows + r * job_.y_stride + column;
        if (left >= 16) {
          write_16(y, sum, bias, job_.accumulate);
        } else {
          for (int64_t i = 0; i < left; ++i) {
            const float value = job_.accumulate ? y[i] + sum[i] : sum[i];
            y[i] = bias == nullptr ? value : value + bias[i];
          }
        }
      }
    }
  }

  /// A pair of panels, gate and up (which lose their contents): bias, activation, output.
  void write_gated(int row_unit, int64_t panel, float* gate, float* up) {
    const int rows = rows_of(row_unit);
    const int64_t column = panel / 2 * 16;
    const int64_t left = job_.outputs - column < 16 ? job_.outputs - column : 16;
    if (job_.bias != nullptr) {
      for (int r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < left; ++i) {
          gate[16 * r + i] += job_.bias[column + i];
          up[16 * r + i] += job_.second_bias[column + i];
        }
      }
    }
    alignas(64) std::byte values[Kernel::kMaxRows * 16 * sizeof(float)];
    job_.elementwise->silu_mul(gate, up, values, job_.activated_dtype, int64_t(rows) * 16);
    const int64_t element = job_.activated_dtype == DType::kBFloat16 ? 2 : 4;
    std::byte* y = job_.activated + int64_t(row_unit) * job_.unit_rows * job_.activated_row_bytes +
                   column * element;
    const std::byte* value = values;
    for (int r = 0; r < rows; ++r, y += job_.activated_row_bytes, value += 16 * element) {
      if (left == 16 && element == 2) {
        __builtin_memcpy(y, value, 32);
      } else if (left == 16) {
        __builtin_memcpy(y, value, 64);
      } else {
        for (int64_t i = 0; i < left * element; ++i) y[i] = value[i];
      }
    }
  }

  static void write_16(float* y, const float* sum, const float* bias, bool accumulate) {
    float values[16];
    for (int i = 0; i < 16; ++i) values[i] = sum[i];
    if (accumulate) {
      for (int i = 0; i < 16; ++i) values[i] = y[i] + values[i];
    }
    if (bias != nullptr) {
      for (int i = 0; i < 16; ++i) values[i] += bias[i];
    }
    for (int i = 0; i < 16; ++i) y[i] = values[i];
  }

  void open_queue(int64_t pieces) {
    const auto begin = uint64_t(pieces * job_.thread / job_.threads);
    const auto end = uint64_t(pieces * (job_.thread + 1) / job_.threads);
    __atomic_store_n(&queues_[job_.thread].range, begin << 32 | end, __ATOMIC_RELAXED);
  }

  /// The next piece of a thread's queue, or -1. What a piece is made of was there before the
  /// kernel began, so nothing but the range itself needs to be ordered.
  static int64_t take(PanelQueue& queue, bool mine) {
    uint64_t range = __atomic_load_n(&queue.range, __ATOMIC_RELAXED);
    for (;;) {
      const uint64_t begin = range >> 32, end = range & 0xffffffffu;
      if (begin >= end) return -1;
      const uint64_t rest = mine ? (begin + 1) << 32 | end : begin << 32 | (end - 1);
      if (__atomic_compare_exchange_n(&queue.range, &range, rest, false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
        return int64_t(mine ? begin : end - 1);
      }
    }
  }

  int64_t take_piece() {
    for (int i = 0; i < job_.threads; ++i) {
      const int64_t piece = take(queues_[(job_.thread + i) % job_.threads], i == 0);
      if (piece >= 0) return piece;
    }
    return -1;
  }

  /// Few rows: the weights are read once, in the order in which they lie; what row units there are
  /// find a panel in the first cache, one after the other.
  void stream() {
    const int at_once = Kernel::panels_at_once(rows_of(0));
    const int64_t panel_floats = Kernel::kMaxRows * 16;
    float* result = local(kMaxLevels - 1);
    const int together = job_.gated && at_once == 1 ? 2 : at_once;  // written at a time
    open_queue((job_.panels + together - 1) / together);
    for (int64_t piece = take_piece(); piece >= 0; piece = take_piece()) {
      const int64_t panel = piece * together;
      const int64_t left = job_.panels - panel;
      const int panels = left < together ? int(left) : together;
      for (int unit = 0; unit < row_units_; ++unit) {
        bool written = false;
        for (int p = 0; p < panels; p += at_once) {
          const int count = panels - p < at_once ? panels - p : at_once;
          written = several_groups(unit, panel + p, count, 0, job_.groups,
                                   result + p * panel_floats, panel_floats, unit == 0);
        }
        if (!written) write_tile(unit, panel, panels, result, panel_floats);
      }
    }
  }

  /// A piece of the inputs: part of one group, or several small groups.
  struct Piece {
    int group = 0;
    int64_t unit = 0;
    int64_t units = 0;
    bool ends_group = false;
  };

  /// Groups that make one piece: a power of two, so that their tree is a subtree.
  int groups_together() const {
    if constexpr (Kernel::kFinishes) {
      // Expanded groups take whole lines of float8 weights.
      const int64_t units = Kernel::kExpands ? (job_.group_units + 1) / 2 * 2 : job_.group_units;
      return job_.groups * units <= Kernel::kBlockUnits ? job_.groups : 1;
    }
    int together = 1;
    while (together < job_.groups && together < kMaxTogether &&
           2 * together * job_.group_units <= Kernel::kBlockUnits) {
      together *= 2;
    }
    return together;
  }

  Piece piece(int index) const {
    if (together_ > 1) return {index * together_, 0, job_.group_units, true};
    const int64_t per_group = (job_.group_units + Kernel::kBlockUnits - 1) / Kernel::kBlockUnits;
    const int64_t unit = index % per_group * Kernel::kBlockUnits;
    const int64_t left = job_.group_units - unit;
    const bool last = left <= Kernel::kBlockUnits;
    return {int(index / per_group), unit, last ? left : Kernel::kBlockUnits, last};
  }

  int pieces() const {
    if (together_ > 1) return job_.groups / together_;
    return int((job_.group_units + Kernel::kBlockUnits - 1) / Kernel::kBlockUnits) * job_.groups;
  }

  /// Many rows: blocks of rows, panels and inputs, so that a piece of the weights stays in the
  /// first cache, and inputs and sums in the second.
  void blocks() {
    together_ = groups_together();
    if constexpr (Kernel::kExpands) {
      const int64_t units = together_ > 1 ? job_.group_units : Kernel::kBlockUnits;
      expanded_group_bytes_ = (units * Kernel::kUnitBytes + 63) / 64 * 128;
      expanded_ = reinterpret_cast<std::byte*>(level(0)) - 4 * kExpandedFloats;
    }
    const int block_units = Kernel::kRowsOfBlock / job_.unit_rows;
    for (int begin = 0; begin < row_units_; begin += block_units) {
      const int end = begin + block_units < row_units_ ? begin + block_units : row_units_;
      for (int64_t panel = 0; panel < job_.panels; panel += kBlockPanels) {
        const int64_t left = job_.panels - panel;
        const int64_t panels = left < kBlockPanels ? left : kBlockPanels;
        for (int i = 0; i < pieces(); ++i) block(begin, end, panel, panels, i);
      }
    }
  }

  void block(int begin, int end, int64_t first_panel, int64_t panels, int piece_index) {
    const Piece inputs = piece(piece_index);
    const bool final = piece_index + 1 == pieces();
    const int at_once = Kernel::block_panels_at_once(job_.unit_rows);
    const int64_t panel_floats = int64_t(job_.unit_rows) * 16;
    int64_t place = 0;  // of the tile in its level
    for (int64_t p = 0; p < panels; p += at_once) {
      const int64_t panel = first_panel + p;
      const int count = panels - p < at_once ? int(panels - p) : at_once;
      if constexpr (Kernel::kExpands) expand(panel, count, inputs);
      for (int u = begin; u < end; ++u, place += at_once * panel_floats) {
        const int rows = rows_of(u);
        if (rows != job_.unit_rows) Kernel::begin(rows);
        float* sums = level(depth_of(inputs.group)) + place;
        bool written = false;
        if (together_ > 1) {
          written =
              several_groups(u, panel, count, inputs.group, together_, sums, panel_floats, false);
          if (!Kernel::kFinishes) climb(inputs.group, place, rows, count, panel_floats);
        } else {
          TileArgs args = tile_at(u, panel, inputs.group, inputs.unit);
          args.units = inputs.units;
          args.sums = sums;
          args.sums_panel_floats = panel_floats;
          args.resume = inputs.unit != 0;
          if constexpr (Kernel::kTiles) {
            plan_fetches(args, u - begin, end - begin, p, panels, at_once, piece_index);
            if (final && count == 2 && !job_.gated) {
              args.y = job_.y + int64_t(u) * job_.unit_rows * job_.y_stride + panel * 16;
              args.y_stride = job_.y_stride;
            }
          }
          if constexpr (Kernel::kFinishes) {
            args.target = sums;
            if (inputs.ends_group) {
              args.scales = scales_of(panel);
              plan_climb(args, inputs.group, place);
            }
            if (final) write_to_y(args, u, panel, count);
            written = args.y != nullptr;
          }
          run_tile(args, rows, count, 0);
          if (!Kernel::kFinishes && inputs.ends_group) {
            if constexpr (Kernel::kExpands) scale(panel, count, rows, sums, panel_floats);
            climb(inputs.group, place, rows, count, panel_floats);
          }
        }
        if (rows != job_.unit_rows) Kernel::begin(job_.unit_rows);
        if (!final || written) continue;
        if (!job_.gated || count > 1) {
          write_tile(u, panel, count, level(0) + place, panel_floats);
        } else if (p % 2 != 0) {
          // One panel at a time: the gate's sums have been left where they were made.
          write_gated(u, panel, level(0) + place - (end - begin) * panel_floats, level(0) + place);
        }
      }
    }
  }

  /// Panels of a piece of the inputs as bfloat16: expanded once for all rows of the block.
  void expand(int64_t panel, int panels, const Piece& piece) {
    const int groups = together_ > 1 ? together_ : 1;
    const int64_t lines = (piece.units * Kernel::kUnitBytes + 63) / 64;
    for (int p = 0; p < panels; ++p) {
      for (int g = 0; g < groups; ++g) {
        expand_lines(job_.weights + (panel + p) * job_.panel_bytes +
                         (piece.group + g) * job_.group_bytes + piece.unit * Kernel::kUnitBytes,
                     lines, expanded_ + p * kExpandedPanelBytes + g * expanded_group_bytes_);
      }
    }
  }

  /// The tile with its weights where expand() has put them; `group` counts from the piece's first.
  TileArgs expanded(TileArgs args, int group) const {
    args.weights = expanded_ + group * expanded_group_bytes_;
    args.panel_bytes = kExpandedPanelBytes;
    return args;
  }

  /// Partial sums that wait when a group (or subtree of groups) begins: its number's binary ones.
  int depth_of(int group) const { return waiting(group / together_); }

  /// climb() by a kernel that finishes.
  void plan_climb(TileArgs& args, int group, int64_t place) const {
    const int depth = waiting(group);
    args.lefts = completed(group);
    args.left = level(depth - 1) + place;
    args.left_step = kLevelFloats;
    args.target = level(depth - args.lefts) + place;
  }

  /// Adds a finished group's tile to the partial sums that it completes.
  void climb(int group, int64_t place, int rows, int panels, int64_t panel_floats) {
    int depth = depth_of(group);
    for (int digits = group / together_; (digits & 1) != 0; digits >>= 1, --depth) {
      for (int p = 0; p < panels; ++p) {
        add_into(level(depth - 1) + place + p * panel_floats,
                 level(depth) + place + p * panel_floats, int64_t(rows) * 16);
      }
    }
  }

  /// What comes after this tile's panels and after this piece of the inputs is fetched into the
  /// second cache meanwhile.
  void plan_fetches(TileArgs& args, int unit_index, int units, int64_t p, int64_t panels,
                    int at_once, int piece_index) const {
    if (p + 2 * at_once <= panels) {
      const int64_t lines = args.units * (Kernel::kUnitBytes / 64);  // of one panel's piece
      const int64_t turns = (units + 1) / 2;
      const int64_t per_step = (lines + turns * args.units - 1) / (turns * args.units);
      const int64_t begin = unit_index / 2 * per_step * args.units;
      if (begin < lines) {
        args.next_weights =
            args.weights + (at_once + unit_index % 2) * args.panel_bytes + 64 * begin;
        args.next_weights_lines = int(per_step);
      }
    }
    if (pieces() > 1) {
      const Piece next = piece((piece_index + 1) % pieces());
      const int64_t turns = (panels + at_once - 1) / at_once;
      args.next_x = job_.x + (args.x - job_.x) % job_.x_step_bytes +
                    next.group * job_.x_group_bytes + next.unit * job_.x_step_bytes;
      args.next_x_lines = int((32 + turns - 1) / turns);
      args.next_x_line = p / at_once * args.units * args.next_x_lines;
    }
  }

  float* local(int index) const { return job_.scratch + index * kTileLevelFloats; }
  float* level(int depth) const {
    return job_.scratch + kMaxLevels * kTileLevelFloats + kExpandedFloats + depth * kLevelFloats;
  }

  static constexpr int kMaxTogether = 8;

  const MatmulJob& job_;
  PanelQueue lone_queue_;
  PanelQueue* const queues_;
  const int row_units_;
  int64_t fetch_panels_ = 0, fetch_bytes_ = 0;
  int together_ = 1;
  std::byte* expanded_ = nullptr;  ///< in blocks, of float8 weights
  int64_t expanded_group_bytes_ = 0;
};

}  // namespace
}  // namespace convoke::cpu
