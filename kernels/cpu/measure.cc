#include "kernels/cpu/measure.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/cpu/buffer.h"
#include "kernels/cpu/cpu_backend.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace convoke::cpu {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Reads whole lines of 64 bytes and returns something that depends on all of them.
using Reader = uint64_t (*)(const std::byte* data, size_t lines);

uint64_t read_words(const std::byte* data, size_t lines) {
  uint64_t sums[8] = {};
  for (size_t line = 0; line < lines; ++line) {
    uint64_t words[8];
    std::memcpy(words, data + 64 * line, sizeof(words));
    for (int i = 0; i < 8; ++i) sums[i] += words[i];
  }
  return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

#if defined(__x86_64__)

__attribute__((target("avx512f"))) inline void add_lines(const std::byte* data, __m512i* sums) {
  for (int i = 0; i < 8; ++i) {
    sums[i] = _mm512_add_epi64(sums[i], _mm512_loadu_si512(data + 64 * i));
  }
}

template <int PrefetchBytes, int Streams, _mm_hint Hint = _MM_HINT_T0>
__attribute__((target("avx512f"))) uint64_t read_vectors(const std::byte* data, size_t lines) {
  __m512i sums[8] = {};
  const size_t stream_lines = lines / Streams / 8 * 8;
  for (size_t line = 0; line < stream_lines; line += 8) {
    for (int s = 0; s < Streams; ++s) {
      const std::byte* block = data + 64 * (line + size_t(s) * stream_lines);
      if (PrefetchBytes != 0) {
        for (int i = 0; i < 8; ++i) {
          _mm_prefetch(reinterpret_cast<const char*>(block + PrefetchBytes + 64 * i), Hint);
        }
      }
      add_lines(block, sums);
    }
  }
  uint64_t words[8] = {};
  for (const __m512i& sum : sums) {
    uint64_t part[8];
    _mm512_storeu_si512(part, sum);
    for (int i = 0; i < 8; ++i) words[i] += part[i];
  }
  const size_t done = stream_lines * Streams;
  return words[0] + words[1] + words[2] + words[3] + words[4] + words[5] + words[6] + words[7] +
         read_words(data + 64 * done, lines - done);
}

#endif

std::vector<Reader> readers() {
  std::vector<Reader> all = {read_words};
#if defined(__x86_64__)
  if (best_isa() >= Isa::kAvx512Bf16) {
    all.insert(all.end(),
               {read_vectors<0, 1>, read_vectors<2048, 1>, read_vectors<4096, 1>,
                read_vectors<8192, 1>, read_vectors<2048, 4>, read_vectors<4096, 4>,
                read_vectors<32768, 1, _MM_HINT_T1>, read_vectors<16384, 2, _MM_HINT_T1>});
  }
#endif
  return all;
}

/// [begin, end) of `lines` for one thread.
std::pair<size_t, size_t> share(const CpuStream& stream, size_t lines) {
  const size_t index = size_t(stream.index()), count = size_t(stream.count());
  return {lines * index / count, lines * (index + 1) / count};
}

}  // namespace

ReadYardstick::ReadYardstick(Backend& backend, size_t bytes)
    : backend_(backend),
      lines_(std::max<size_t>((bytes + 63) / 64, 1)),
      buffer_(backend.allocate(lines_ * 64)) {
  // Each thread touches first what it will read.
  backend.run([&](Stream& stream) {
    const auto [begin, end] = share(cpu_stream(stream), lines_);
    std::memset(static_cast<std::byte*>(buffer_->data()) + 64 * begin, 1, 64 * (end - begin));
  });
  double best = 0;
  for (const Reader reader : readers()) {
    double fastest = sweep(reader);
    for (int i = 0; i < 2; ++i) fastest = std::min(fastest, sweep(reader));
    if (reader_ == nullptr || fastest < best) {
      best = fastest;
      reader_ = reader;
    }
  }
}

double ReadYardstick::sweep() {
  return sweep(reader_);
}

double ReadYardstick::sweep(Reader reader) {
  const auto* data = static_cast<const std::byte*>(buffer_->data());
  std::atomic<uint64_t> sum{0};
  double seconds = 0;
  backend_.run([&](Stream& stream) {
    CpuStream& mine = cpu_stream(stream);
    const auto [begin, end] = share(mine, lines_);
    mine.barrier();
    const Clock::time_point start = Clock::now();
    const uint64_t part = reader(data + 64 * begin, end - begin);
    mine.barrier();
    if (mine.index() == 0) seconds = seconds_since(start);
    sum.fetch_add(part, std::memory_order_relaxed);
  });
  sink_ += sum;  // somebody wants to know
  return seconds;
}

MatmulYardstick::MatmulYardstick(Backend& backend, DType dtype) : backend_(backend), dtype_(dtype) {
  const size_t element = dtype_size(dtype);
  const auto weights = backend.allocate(size_t(kSize * kSize) * element);
  inputs_ = backend.allocate(size_t(kRows * kSize) * element);
  outputs_ = backend.allocate(size_t(kRows * kSize) * sizeof(float));
  // Any finite numbers will do: 0x3c3c is a small bfloat16, and 0x3c3c3c3c a small float.
  std::memset(weights->data(), 0x3c, weights->bytes());
  std::memset(inputs_->data(), 0x3c, inputs_->bytes());
  weights_ = backend.pack({.parts = {TensorView::matrix(weights->data(), dtype, kSize, kSize)},
                           .dtype = dtype,
                           .groups = 1});
  product();  // touches what there is to touch
}

double MatmulYardstick::product() {
  const MatmulArgs args{.x = TensorView::matrix(inputs_->data(), dtype_, kRows, kSize),
                        .weights = weights_.get(),
                        .bias = nullptr,
                        .y = TensorView::matrix(outputs_->data(), DType::kFloat32, kRows, kSize)};
  const Clock::time_point start = Clock::now();
  backend_.run([&](Stream& stream) { backend_.matmul(stream, args); });
  return seconds_since(start);
}

double measure_read_bandwidth(Backend& backend, size_t bytes) {
  ReadYardstick yardstick(backend, bytes);
  const Clock::time_point start = Clock::now();
  double fastest = yardstick.sweep();
  while (seconds_since(start) < 0.2) fastest = std::min(fastest, yardstick.sweep());
  return double(yardstick.bytes()) / fastest;
}

double measure_matmul_rate(Backend& backend, DType dtype) {
  MatmulYardstick yardstick(backend, dtype);
  const Clock::time_point start = Clock::now();
  double fastest = yardstick.product();
  while (seconds_since(start) < 0.3) fastest = std::min(fastest, yardstick.product());
  return MatmulYardstick::operations() / fastest;
}

}  // namespace convoke::cpu
