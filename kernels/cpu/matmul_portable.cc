// Matrix products in plain C++: a product and a sum for every term, each rounded, on whatever
// vector unit the compiler finds.
#include <cstring>

#include "kernels/cpu/matmul_chunked.h"
#include "kernels/dtype_convert.h"

namespace convoke::cpu {
namespace {

/// The words of 4 bytes that rows and weights are read in: pairs of bfloat16.
struct PairWord {
  static constexpr int kInputs = 2;
  static void multiply_add(float* sums, uint32_t x, const std::byte* weights) {
    const float x0 = bf16_to_float(uint16_t(x));
    const float x1 = bf16_to_float(uint16_t(x >> 16));
    uint32_t words[16];
    std::memcpy(words, weights, sizeof(words));
    for (int i = 0; i < 16; ++i) {
      sums[i] = sums[i] + x0 * std::bit_cast<float>(words[i] << 16);
      sums[i] = sums[i] + x1 * std::bit_cast<float>(words[i] & 0xffff0000u);
    }
  }
};

struct FloatWord {
  static constexpr int kInputs = 1;
  static void multiply_add(float* sums, uint32_t x, const std::byte* weights) {
    const float x0 = std::bit_cast<float>(x);
    float words[16];
    std::memcpy(words, weights, sizeof(words));
    for (int i = 0; i < 16; ++i) sums[i] = sums[i] + x0 * words[i];
  }
};

template <class Word>
struct PortableKernel {
  static constexpr bool kExpands = false;
  static constexpr bool kTiles = false;
  static constexpr bool kFinishes = false;
  static constexpr int64_t kPrefetchBytes = 0;
  static constexpr int kMaxRows = 4;
  static constexpr int64_t kUnitBytes = 64;
  static constexpr int64_t kBlockUnits = 256;
  static int panels_at_once(int) { return 1; }
  static constexpr int kRowsOfBlock = kBlockRows;
  static int block_panels_at_once(int rows) { return panels_at_once(rows); }
  static void begin(int) {}
  static void end() {}

  static void tile(const TileArgs& args, int rows, int panels) {
    for (int p = 0; p < panels; ++p) {
      for (int r = 0; r < rows; ++r) {
        float sums[16] = {};
        float* place = args.sums + p * args.sums_panel_floats + r * 16;
        if (args.resume) std::memcpy(sums, place, sizeof(sums));
        const std::byte* weights = args.weights + p * args.panel_bytes;
        const std::byte* x = args.x + 4 * r;
        for (int64_t u = 0; u < args.units; ++u) {
          uint32_t word;
          std::memcpy(&word, x + 4 * u * rows, sizeof(word));
          Word::multiply_add(sums, word, weights + u * kUnitBytes);
        }
        std::memcpy(place, sums, sizeof(sums));
      }
    }
  }

  static void run(const MatmulJob& job) { MatmulLoops<PortableKernel>(job).run(); }
};

using Float8Kernel = ChunkedKernel<PortableKernel<PairWord>, 64, 0>;

}  // namespace

MatmulKernel portable_bf16_kernel() {
  return {.run = PortableKernel<PairWord>::run, .unit_inputs = 2, .max_rows = 4, .block_rows = 4};
}

MatmulKernel portable_e4m3_kernel() {
  return {.run = Float8Kernel::run, .unit_inputs = 2, .max_rows = 4, .block_rows = 4};
}

MatmulKernel portable_f32_kernel() {
  return {.run = PortableKernel<FloatWord>::run, .unit_inputs = 1, .max_rows = 4, .block_rows = 4};
}

}  // namespace convoke::cpu
