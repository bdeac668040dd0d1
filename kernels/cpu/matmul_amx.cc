// Matrix products on AMX tiles: TDPBF16PS multiplies up to 16 rows by 16 outputs over 32 inputs.
//
// The instructions are written as assembly of our own: GCC 12's intrinsic for LDTILECFG declares
// too small a memory operand (stores to the configuration may be dropped), and its tile loads
// declare none.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/cpu/matmul_chunked.h"

namespace convoke::cpu {
namespace {

template <int T>
[[gnu::always_inline]] inline void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(T));
}

template <int T>
[[gnu::always_inline]] inline void tile_load(const void* data, int64_t row_bytes) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(data), "r"(row_bytes), "i"(T));
}

template <int T>
[[gnu::always_inline]] inline void tile_store(void* data, int64_t row_bytes) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(data), "r"(row_bytes), "i"(T) : "memory");
}

/// Sums += A * B.
template <int Sums, int A, int B>
[[gnu::always_inline]] inline void tile_multiply_add() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(A), "i"(B));
}

/// The operand of LDTILECFG (Intel 64 and IA-32 Architectures Software Developer's Manual).
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

struct AmxKernel {
  static constexpr bool kExpands = false;
  static constexpr bool kTiles = true;
  static constexpr bool kFinishes = false;
  static constexpr int kMaxRows = 32;
  static constexpr int64_t kUnitBytes = 1024;
  static constexpr int64_t kBlockUnits = 16;
  // Two panels: two chains of multiply-adds at least, and few streams to fetch. Farther ahead, what
  // was fetched is evicted before it is used; with more rows, sooner.
  static constexpr int64_t prefetch_units(int row_tiles) { return row_tiles == 1 ? 4 : 2; }
  static int panels_at_once(int) { return 2; }
  static constexpr int kRowsOfBlock = kBlockRows;
  static int block_panels_at_once(int rows) { return panels_at_once(rows); }

  // Tiles 0-3: sums [panel][row tile]. Then the row tiles of x, then weights.
  static constexpr int kFirstX = 4;

  static void begin(int rows) {
    TileConfig config;
    const int row_tiles = rows <= 16 ? 1 : 2;
    for (int t = 0; t < 8; ++t) {
      const bool is_weights = t >= kFirstX + row_tiles;
      const int row_tile = row_tiles == 1 ? 0 : t % 2;
      const int left = rows - 16 * row_tile;
      config.rows[t] = uint8_t(is_weights || left > 16 ? 16 : left);
      config.row_bytes[t] = 64;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
  }

  static void end() { __asm__ volatile("tilerelease"); }

  template <int T, int P>
  static void prefetch_step(const TileArgs& args, const std::byte* ahead) {
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 16
      for (int line = 0; line < 16; ++line) {
        _mm_prefetch(reinterpret_cast<const char*>(ahead + p * args.panel_bytes + 64 * line),
                     _MM_HINT_T0);
      }
    }
  }

  /// In blocks: a few lines of what comes after this tile, spread over its steps.
  static void fetch_next(const TileArgs& args, int64_t unit) {
    const std::byte* weights = args.next_weights + 64 * unit * args.next_weights_lines;
    for (int i = 0; i < args.next_weights_lines; ++i) {
      _mm_prefetch(reinterpret_cast<const char*>(weights + 64 * i), _MM_HINT_T1);
    }
    for (int i = 0; i < args.next_x_lines; ++i) {
      const int64_t line = args.next_x_line + unit * args.next_x_lines + i;
      _mm_prefetch(reinterpret_cast<const char*>(args.next_x + line / 32 * args.x_step_bytes +
                                                 line % 32 * 64),
                   _MM_HINT_T1);
    }
    if (args.y != nullptr && unit < 16) {
      for (int64_t row = 2 * unit; row < 2 * unit + 2; ++row) {
        const float* y = args.y + row * args.y_stride;
        __builtin_prefetch(y, 1, 3);
        __builtin_prefetch(y + 16, 1, 3);
      }
    }
  }

  /// One step of one panel: its weights times every row tile.
  template <int T, int P, int Panel>
  [[gnu::always_inline]] static void panel_step(const TileArgs& args, const std::byte* weights) {
    if constexpr (Panel < P) {
      constexpr int kWeights = kFirstX + T + Panel % (4 - T);
      tile_load<kWeights>(weights + Panel * args.panel_bytes, 64);
      tile_multiply_add<Panel * T, kFirstX, kWeights>();
      if constexpr (T == 2) tile_multiply_add<Panel * T + 1, kFirstX + 1, kWeights>();
    }
  }

  template <int T, int P, int Panel>
  [[gnu::always_inline]] static void begin_sums(const TileArgs& args) {
    if constexpr (Panel < P) {
      const float* sums = args.sums + Panel * args.sums_panel_floats;
      if (args.resume) {
        tile_load<Panel * T>(sums, 64);
        if constexpr (T == 2) tile_load<Panel * T + 1>(sums + 256, 64);
      } else {
        tile_zero<Panel * T>();
        if constexpr (T == 2) tile_zero<Panel * T + 1>();
      }
    }
  }

  template <int T, int P, int Panel>
  [[gnu::always_inline]] static void store_sums(const TileArgs& args) {
    if constexpr (Panel < P) {
      float* sums = args.sums + Panel * args.sums_panel_floats;
      tile_store<Panel * T>(sums, 64);
      if constexpr (T == 2) tile_store<Panel * T + 1>(sums + 256, 64);
    }
  }

  template <int T, int P>
  static void fixed_tile(const TileArgs& args) {
    __asm__ volatile("" ::: "memory");  // what the tiles read has been written
    begin_sums<T, P, 0>(args);
    begin_sums<T, P, 1>(args);
    const int64_t ahead = prefetch_units(T) * kUnitBytes;
    const int64_t near_end = args.stream_left / kUnitBytes - prefetch_units(T);
    const std::byte* x = args.x;
    const std::byte* weights = args.weights;
    for (int64_t u = 0; u < args.units; ++u) {
      if (args.stream_left != 0) {
        prefetch_step<T, P>(args,
                            weights + (u < near_end ? ahead : ahead + (P - 1) * args.panel_bytes));
      }
      tile_load<kFirstX>(x, args.x_row_bytes);
      if constexpr (T == 2) tile_load<kFirstX + 1>(x + args.x_tile_bytes, args.x_row_bytes);
      panel_step<T, P, 0>(args, weights);
      panel_step<T, P, 1>(args, weights);
      x += args.x_step_bytes;
      weights += kUnitBytes;
    }
    store_sums<T, P, 0>(args);
    store_sums<T, P, 1>(args);
  }

  static void tile(const TileArgs& args, int rows, int panels) {
    if (rows > 16) return panels == 1 ? fixed_tile<2, 1>(args) : fixed_tile<2, 2>(args);
    return panels == 1 ? fixed_tile<1, 1>(args) : fixed_tile<1, 2>(args);
  }

  static void run(const MatmulJob& job) {
    MatmulLoops<AmxKernel>(job).run();
  }
};

using Float8Kernel = ChunkedKernel<AmxKernel, 8, 4096>;

}  // namespace

MatmulKernel amx_bf16_kernel() {
  return {
      .run = AmxKernel::run, .unit_inputs = 32, .max_rows = 32, .block_rows = 32, .tiles = true};
}

MatmulKernel amx_e4m3_kernel() {
  return {
      .run = Float8Kernel::run, .unit_inputs = 32, .max_rows = 32, .block_rows = 32, .tiles = true};
}

}  // namespace convoke::cpu
#endif
