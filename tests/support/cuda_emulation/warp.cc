// What the lanes of a warp do together: shuffles, votes, tensor-core products, matrix loads.
#include "kernels/dtype_convert.h"
#include "tests/support/cuda_emulation/emulation.h"

namespace convoke::emulation {
namespace {

constexpr int kWarp = 32;

struct Product {
  float* c;
  const uint32_t* a;
  const uint32_t* b;
  bool half;
};

float element(uint32_t pair, int which, bool half) {
  const auto bits = uint16_t(pair >> (16 * which));
  return half ? fp16_to_float(bits) : bf16_to_float(bits);
}

/// The layout of mma.sync.m16n8k16: lane 4 g + t holds of A rows g and g + 8 at columns 2 t, 2 t +
/// 1 and 8 more; of B columns g likewise; of C rows g and g + 8 at columns 2 t and 2 t + 1.
void multiply(void* const* operands, uint32_t) {
  ++counters().tensor_core_operations;
  float a[16][16], b[16][8], c[16][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const Product& own = *static_cast<const Product*>(operands[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 2; ++i) {
      for (int part = 0; part < 4; ++part) {
        a[g + part % 2 * 8][2 * t + i + part / 2 * 8] = element(own.a[part], i, own.half);
      }
      for (int part = 0; part < 2; ++part) {
        b[2 * t + i + part * 8][g] = element(own.b[part], i, own.half);
        c[g + part * 8][2 * t + i] = own.c[2 * part + i];
      }
    }
  }
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) c[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    const Product& own = *static_cast<const Product*>(operands[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) own.c[i] = c[g + i / 2 * 8][2 * t + i % 2];
  }
}

struct MatrixLoad {
  uint32_t* out;
  const void* row;
  bool transposed;
};

void load(void* const* operands, uint32_t) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t values[8][8];
    for (int row = 0; row < 8; ++row) {
      const auto& source = *static_cast<const MatrixLoad*>(operands[8 * matrix + row]);
      std::memcpy(values[row], source.row, sizeof values[row]);
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      const auto& own = *static_cast<const MatrixLoad*>(operands[lane]);
      const int r = lane / 4, c = lane % 4 * 2;
      const uint16_t low = own.transposed ? values[c][r] : values[r][c];
      const uint16_t high = own.transposed ? values[c + 1][r] : values[r][c + 1];
      own.out[matrix] = uint32_t(low) | uint32_t(high) << 16;
    }
  }
}

void exchange(void* const* operands, uint32_t mask) {
  for (int lane = 0; lane < kWarp; ++lane) {
    if (operands[lane] == nullptr) continue;
    auto& own = *static_cast<Exchange*>(operands[lane]);
    const bool there = (mask >> own.source & 1) != 0;
    own.result = there ? static_cast<const Exchange*>(operands[own.source])->value : ~uint64_t(0);
  }
}

void vote(void* const* operands, uint32_t) {
  uint32_t votes = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (operands[lane] == nullptr) continue;
    votes |= uint32_t(static_cast<const Exchange*>(operands[lane])->value != 0) << lane;
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    if (operands[lane] != nullptr) static_cast<Exchange*>(operands[lane])->votes = votes;
  }
}

}  // namespace

void tensor_core_product(float* c, const uint32_t* a, const uint32_t* b, bool half, Place place) {
  Product own{c, a, b, half};
  warp_operation(half ? "mma fp16" : "mma bf16", place, ~0u, &own, multiply);
}

void load_matrices(uint32_t* out, const void* row, bool transposed, Place place) {
  MatrixLoad own{out, row, transposed};
  warp_operation(transposed ? "ldmatrix.trans" : "ldmatrix", place, ~0u, &own, load);
}

uint64_t shuffle(const char* kind, uint32_t mask, uint64_t value, int source, Place place) {
  Exchange own{value, source, 0, 0};
  warp_operation(kind, place, mask, &own, exchange);
  return own.result;
}

uint32_t ballot(uint32_t mask, bool value, Place place) {
  Exchange own{value, 0, 0, 0};
  warp_operation("vote", place, mask, &own, vote);
  return own.votes;
}

}  // namespace convoke::emulation
