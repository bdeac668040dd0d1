// Matrix products on AVX-512: bfloat16 by VDPBF16PS (a pair of inputs per instruction), float32 by
// FMA. Lanes are outputs and never cross, so what else is in the tile cannot reach a sum.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/cpu/matmul_skeleton.h"

namespace convoke::cpu {
namespace {

/// What a line of 64 bytes of weights holds: kUnits units of a panel.
struct PairWord {
  static constexpr int kUnits = 1;
  using Weights = __m512bh;
  static Weights load(const std::byte* line) {
    return reinterpret_cast<Weights>(_mm512_loadu_si512(line));
  }
  static __m512 multiply_add(__m512 sum, const std::byte* x, Weights weights) {
    int word;
    __builtin_memcpy(&word, x, sizeof(word));
    return _mm512_dpbf16_ps(sum, weights, reinterpret_cast<__m512bh>(_mm512_set1_epi32(word)));
  }
};

struct FloatWord {
  static constexpr int kUnits = 1;
  using Weights = __m512;
  static Weights load(const std::byte* line) { return _mm512_loadu_ps(line); }
  static __m512 multiply_add(__m512 sum, const std::byte* x, Weights weights) {
    float value;
    __builtin_memcpy(&value, x, sizeof(value));
    return _mm512_fmadd_ps(_mm512_set1_ps(value), weights, sum);
  }
};

struct Float8Line {
  static constexpr int kUnits = 2;
  struct Weights {
    __m512bh first, second;
  };
  static Weights load(const std::byte* line) {
    const ExpandedLine pairs = expand_line(_mm512_loadu_si512(line));
    return {reinterpret_cast<__m512bh>(pairs.first), reinterpret_cast<__m512bh>(pairs.second)};
  }
};

template <class Word>
struct Avx512Kernel {
  using Plain = Avx512Kernel<PairWord>;  // of float8 weights

  static constexpr bool kExpands = Word::kUnits == 2;
  static constexpr bool kTiles = false;
  static constexpr bool kFinishes = true;
  static constexpr int kMaxRows = 24;
  static constexpr int kStreamRows = 3 * kMaxRows;
  static constexpr int64_t kUnitBytes = 64 / Word::kUnits;
  static constexpr int64_t kBlockUnits = 512;
  // Far ahead and into the second cache: the first one has too few misses in flight to stream from
  // memory (on a Zen 4, 1 to 4 rows: 52 to 67 GB/s with 2 KB into the first, 87 to 111 with this).
  static constexpr int64_t kPrefetchBytes = 16384;
  // At most 24 sums, and enough of them to hide the latency of the multiply-add. Two panels, for
  // four streams are slower than two.
  static int panels_at_once(int rows) { return rows <= 12 ? 2 : 1; }
  // In blocks what counts is loads per multiply-add: 6 rows by 4 panels reach 235 GFLOP/s where 12
  // by 2 reach 220 (one Zen 4 core, everything in the second cache).
  static constexpr int kBlockRowsAtOnce = 6;
  // Inputs of so many rows and their sums stay in a second cache of 1 MB.
  static constexpr int kRowsOfBlock = 192;
  static int block_panels_at_once(int) { return 4; }
  static void begin(int) {}
  static void end() {}

  /// One line of each panel, from unit u on: all of its units, or the first one alone.
  template <int R, int P, bool InPlace, bool Whole>
  [[gnu::always_inline]] static void line_step(const TileArgs& args, int64_t u, int64_t ahead,
                                               __m512 (&sums)[P][R]) {
    const std::byte* lines = args.weights + u * kUnitBytes;
    const std::byte* x = args.x + (InPlace ? 4 * u : 4 * u * R);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const std::byte* line = lines + p * args.panel_bytes;
      if (args.stream_left != 0) {
        _mm_prefetch(reinterpret_cast<const char*>(line + ahead), _MM_HINT_T1);
      }
      const typename Word::Weights weights = Word::load(line);
#pragma GCC unroll 24
      for (int r = 0; r < R; ++r) {
        const std::byte* word = x + (InPlace ? r * args.x_row_bytes : 4 * r);
        if constexpr (Word::kUnits == 1) {
          sums[p][r] = Word::multiply_add(sums[p][r], word, weights);
        } else {
          sums[p][r] = PairWord::multiply_add(sums[p][r], word, weights.first);
          word += InPlace ? 4 : 4 * R;
          if constexpr (Whole) {
            sums[p][r] = PairWord::multiply_add(sums[p][r], word, weights.second);
          }
        }
      }
    }
  }

  /// InPlace: words lie row by row, args.x_row_bytes apart; else unit by unit.
  template <int R, int P, bool InPlace>
  static void fixed_tile(const TileArgs& args) {
    __m512 sums[P][R];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 24
      for (int r = 0; r < R; ++r) {
        const float* place = args.sums + p * args.sums_panel_floats + r * 16;
        sums[p][r] = args.resume ? _mm512_loadu_ps(place) : _mm512_setzero_ps();
      }
    }
    if (args.y != nullptr) fetch_y<R, P>(args);
    const Prefetch prefetch(args, P, kUnitBytes);
    int64_t u = 0;
    for (; u + Word::kUnits <= args.units; u += Word::kUnits) {
      line_step<R, P, InPlace, true>(args, u, prefetch.at(u), sums);
    }
    if constexpr (Word::kUnits > 1) {
      if (u < args.units) line_step<R, P, InPlace, false>(args, u, prefetch.at(u), sums);
    }
    finish<R, P>(args, sums);
  }

  /// y is on its way while the sums are made: its lines are the one thing that a tile waits for at
  /// its end (512 rows by 4096 outputs: 4 % of the product).
  template <int R, int P>
  [[gnu::always_inline]] static inline void fetch_y(const TileArgs& args) {
#pragma GCC unroll 24
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) __builtin_prefetch(args.y + r * args.y_stride + 16 * p, 1);
    }
  }

  template <int R, int P>
  [[gnu::always_inline]] static inline void finish(const TileArgs& args, __m512 (&sums)[P][R]) {
    if (args.scales != nullptr) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const __m512 scales = _mm512_loadu_ps(args.scales + 16 * p);
#pragma GCC unroll 24
        for (int r = 0; r < R; ++r) sums[p][r] = _mm512_mul_ps(sums[p][r], scales);
      }
    }
    const float* left = args.left;
    for (int i = 0; i < args.lefts; ++i, left -= args.left_step) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 24
        for (int r = 0; r < R; ++r) {
          const float* place = left + p * args.sums_panel_floats + r * 16;
          sums[p][r] = _mm512_add_ps(_mm512_loadu_ps(place), sums[p][r]);
        }
      }
    }
    if (args.y != nullptr) return write<R, P>(args, sums);
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 24
      for (int r = 0; r < R; ++r) {
        _mm512_storeu_ps(args.target + p * args.sums_panel_floats + r * 16, sums[p][r]);
      }
    }
  }

  template <int R, int P>
  [[gnu::always_inline]] static inline void write(const TileArgs& args, __m512 (&sums)[P][R]) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const __m512 bias =
          args.bias == nullptr ? _mm512_setzero_ps() : _mm512_loadu_ps(args.bias + 16 * p);
#pragma GCC unroll 24
      for (int r = 0; r < R; ++r) {
        float* y = args.y + r * args.y_stride + 16 * p;
        __m512 value = sums[p][r];
        if (args.accumulate) value = _mm512_add_ps(_mm512_loadu_ps(y), value);
        if (args.bias != nullptr) value = _mm512_add_ps(value, bias);
        _mm512_storeu_ps(y, value);
      }
    }
  }

  using Tile = void (*)(const TileArgs&);

  /// Calls fixed_tile<rows, P> for rows in [1, R].
  template <int R, int P>
  static void tile_of(const TileArgs& args, int rows) {
    if (rows == R) {
      if (args.x_row_bytes != 0) return fixed_tile<R, P, true>(args);
      fixed_tile<R, P, false>(args);
    } else if constexpr (R > 1) {
      tile_of<R - 1, P>(args, rows);
    }
  }

  static void tile(const TileArgs& args, int rows, int panels) {
    switch (panels) {
      case 1:
        return tile_of<24, 1>(args, rows);
      case 2:
        return tile_of<12, 2>(args, rows);
      case 3:
        return tile_of<6, 3>(args, rows);
      default:
        return tile_of<6, 4>(args, rows);
    }
  }

  static void run(const MatmulJob& job) {
    MatmulLoops<Avx512Kernel>(job).run();
  }
};

template <class Word>
MatmulKernel kernel_of(int unit_inputs) {
  using Kernel = Avx512Kernel<Word>;
  return {.run = Kernel::run,
          .unit_inputs = unit_inputs,
          .max_rows = Kernel::kMaxRows,
          .block_rows = Kernel::kBlockRowsAtOnce,
          .in_place = true,
          .stream_rows = Kernel::kStreamRows};
}

}  // namespace

MatmulKernel avx512_bf16_kernel() {
  return kernel_of<PairWord>(2);
}

MatmulKernel avx512_e4m3_kernel() {
  return kernel_of<Float8Line>(2);
}

MatmulKernel avx512_f32_kernel() {
  return kernel_of<FloatWord>(1);
}

}  // namespace convoke::cpu
#endif
