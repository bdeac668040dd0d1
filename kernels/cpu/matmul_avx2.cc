// Matrix products on AVX2 with FMA: bfloat16 widened to float32, one fused multiply-add per term.
#if defined(__x86_64__)
#include <immintrin.h>

#include "kernels/cpu/matmul_chunked.h"

namespace convoke::cpu {
namespace {

/// A panel's 16 sums of one row.
struct Sums {
  __m256 low, high;
};

struct PairWord {
  static constexpr int kInputs = 2;
  /// sums[r] += one pair of inputs, the lower input first.
  template <int R>
  static void multiply_add(Sums (&sums)[R], const std::byte* x, const std::byte* weights) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + 32));
    const __m256i upper_half = _mm256_set1_epi32(int(0xffff0000u));
    const __m256 low0 = _mm256_castsi256_ps(_mm256_slli_epi32(low, 16));
    const __m256 high0 = _mm256_castsi256_ps(_mm256_slli_epi32(high, 16));
    const __m256 low1 = _mm256_castsi256_ps(_mm256_and_si256(low, upper_half));
    const __m256 high1 = _mm256_castsi256_ps(_mm256_and_si256(high, upper_half));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      int word;
      __builtin_memcpy(&word, x + 4 * r, sizeof(word));
      const __m256i pair = _mm256_set1_epi32(word);
      const __m256 x0 = _mm256_castsi256_ps(_mm256_slli_epi32(pair, 16));
      const __m256 x1 = _mm256_castsi256_ps(_mm256_and_si256(pair, upper_half));
      sums[r].low = _mm256_fmadd_ps(x0, low0, sums[r].low);
      sums[r].high = _mm256_fmadd_ps(x0, high0, sums[r].high);
      sums[r].low = _mm256_fmadd_ps(x1, low1, sums[r].low);
      sums[r].high = _mm256_fmadd_ps(x1, high1, sums[r].high);
    }
  }
};

struct FloatWord {
  static constexpr int kInputs = 1;
  template <int R>
  static void multiply_add(Sums (&sums)[R], const std::byte* x, const std::byte* weights) {
    const __m256 low = _mm256_loadu_ps(reinterpret_cast<const float*>(weights));
    const __m256 high = _mm256_loadu_ps(reinterpret_cast<const float*>(weights + 32));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      float value;
      __builtin_memcpy(&value, x + 4 * r, sizeof(value));
      const __m256 x0 = _mm256_set1_ps(value);
      sums[r].low = _mm256_fmadd_ps(x0, low, sums[r].low);
      sums[r].high = _mm256_fmadd_ps(x0, high, sums[r].high);
    }
  }
};

template <class Word>
struct Avx2Kernel {
  static constexpr bool kExpands = false;
  static constexpr bool kTiles = false;
  static constexpr bool kFinishes = false;
  static constexpr int kMaxRows = 4;
  static constexpr int64_t kUnitBytes = 64;
  static constexpr int64_t kBlockUnits = 256;
  static constexpr int64_t kPrefetchBytes = 24 * kUnitBytes;
  static int panels_at_once(int rows) { return rows == 1 ? 2 : 1; }
  static constexpr int kRowsOfBlock = kBlockRows;
  static int block_panels_at_once(int rows) { return panels_at_once(rows); }
  static void begin(int) {}
  static void end() {}

  template <int R, int P>
  static void fixed_tile(const TileArgs& args) {
    Sums sums[P][R];
    for (int p = 0; p < P; ++p) {
      for (int r = 0; r < R; ++r) {
        const float* place = args.sums + p * args.sums_panel_floats + r * 16;
        sums[p][r].low = args.resume ? _mm256_loadu_ps(place) : _mm256_setzero_ps();
        sums[p][r].high = args.resume ? _mm256_loadu_ps(place + 8) : _mm256_setzero_ps();
      }
    }
    // Prefetches run ahead in the panel and, from its end on, in the panel after this tile's.
    const Prefetch prefetch(args, P, kUnitBytes);
    for (int64_t u = 0; u < args.units; ++u) {
      const std::byte* weights = args.weights + u * kUnitBytes;
      const int64_t ahead = prefetch.at(u);
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) {
        const std::byte* line = weights + p * args.panel_bytes;
        if (args.stream_left != 0) {
          _mm_prefetch(reinterpret_cast<const char*>(line + ahead), _MM_HINT_T0);
        }
        Word::template multiply_add<R>(sums[p], args.x + 4 * u * R, line);
      }
    }
    for (int p = 0; p < P; ++p) {
      for (int r = 0; r < R; ++r) {
        float* place = args.sums + p * args.sums_panel_floats + r * 16;
        _mm256_storeu_ps(place, sums[p][r].low);
        _mm256_storeu_ps(place + 8, sums[p][r].high);
      }
    }
  }

  static void tile(const TileArgs& args, int rows, int panels) {
    if (panels == 2) return fixed_tile<1, 2>(args);
    switch (rows) {
      case 1:
        return fixed_tile<1, 1>(args);
      case 2:
        return fixed_tile<2, 1>(args);
      case 3:
        return fixed_tile<3, 1>(args);
      default:
        return fixed_tile<4, 1>(args);
    }
  }

  static void run(const MatmulJob& job) {
    MatmulLoops<Avx2Kernel>(job).run();
  }
};

using Float8Kernel = ChunkedKernel<Avx2Kernel<PairWord>, 64, 2048>;

}  // namespace

MatmulKernel avx2_bf16_kernel() {
  return {.run = Avx2Kernel<PairWord>::run, .unit_inputs = 2, .max_rows = 4, .block_rows = 4};
}

MatmulKernel avx2_e4m3_kernel() {
  return {.run = Float8Kernel::run, .unit_inputs = 2, .max_rows = 4, .block_rows = 4};
}

MatmulKernel avx2_f32_kernel() {
  return {.run = Avx2Kernel<FloatWord>::run, .unit_inputs = 1, .max_rows = 4, .block_rows = 4};
}

}  // namespace convoke::cpu
#endif
