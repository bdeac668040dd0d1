// Products with float8 weights by a kernel of bfloat16 weights.
#pragma once

#include "kernels/cpu/expand_e4m3.h"
#include "kernels/cpu/matmul_skeleton.h"

namespace convoke::cpu {
namespace {

/// The kernel Plain with float8 weights: a chunk of them at a time becomes bfloat16 in the first
/// cache.
template <class Kernel, int ChunkUnits, int64_t PrefetchBytes>
struct ChunkedKernel {
  using Plain = Kernel;
  static constexpr bool kExpands = true;
  static constexpr bool kTiles = Plain::kTiles;
  static constexpr bool kFinishes = false;
  static constexpr int kMaxRows = Plain::kMaxRows;
  static constexpr int64_t kUnitBytes = Plain::kUnitBytes / 2;
  static constexpr int64_t kBlockUnits = Plain::kBlockUnits;
  static constexpr int64_t kPrefetchBytes = PrefetchBytes;
  static constexpr int kMostPanels = 2;
  static int panels_at_once(int rows) { return Plain::panels_at_once(rows); }
  static constexpr int kRowsOfBlock = Plain::kRowsOfBlock;
  static int block_panels_at_once(int rows) { return Plain::block_panels_at_once(rows); }
  static void begin(int rows) { Plain::begin(rows); }
  static void end() { Plain::end(); }

  /// From a panel's first unit on.
  static void tile(const TileArgs& args, int rows, int panels) {
    static_assert(ChunkUnits * kUnitBytes % 64 == 0);
    constexpr int64_t kChunkBytes = ChunkUnits * Plain::kUnitBytes;
    alignas(64) std::byte chunk[kMostPanels * kChunkBytes];
    const Prefetch prefetch(args, panels, kUnitBytes);
    TileArgs part = args;
    part.weights = chunk;
    part.panel_bytes = kChunkBytes;
    part.stream_left = 0;
    for (int64_t u = 0; u < args.units; u += ChunkUnits) {
      part.units = args.units - u < ChunkUnits ? args.units - u : ChunkUnits;
      part.resume = args.resume || u != 0;
      const int64_t lines = (part.units * kUnitBytes + 63) / 64;
      const int64_t ahead = prefetch.at(u);
      for (int p = 0; p < panels; ++p) {
        const std::byte* from = args.weights + p * args.panel_bytes + u * kUnitBytes;
        for (int64_t i = 0; args.stream_left != 0 && i < lines; ++i) {
          __builtin_prefetch(from + ahead + 64 * i);
        }
        expand_lines(from, lines, chunk + p * kChunkBytes);
      }
      Plain::tile(part, rows, panels);
      part.x += ChunkUnits * (kTiles                  ? args.x_step_bytes
                              : args.x_row_bytes != 0 ? int64_t(4)
                                                      : int64_t(4) * rows);
    }
  }

  static void run(const MatmulJob& job) { MatmulLoops<ChunkedKernel>(job).run(); }
};

}  // namespace
}  // namespace convoke::cpu
