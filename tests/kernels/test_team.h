// A team of threads for testing kernels without the backend that owns the real one.
#pragma once

#include <barrier>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace convoke::cpu {

class TestStream : public CpuStream {
 public:
  TestStream(int index, int count, std::barrier<>* barrier)
      : index_(index), count_(count), barrier_(barrier) {}
  int index() const override { return index_; }
  int count() const override { return count_; }
  void barrier() override { barrier_->arrive_and_wait(); }

 private:
  int index_, count_;
  std::barrier<>* barrier_;
};

/// Runs program(stream) on `threads` threads at once and returns when all are done.
template <typename Program>
void run_team(int threads, Program program) {
  std::barrier barrier(threads);
  std::vector<std::jthread> others;
  for (int i = 1; i < threads; ++i) {
    others.emplace_back([&, i] {
      TestStream stream(i, threads, &barrier);
      program(static_cast<CpuStream&>(stream));
    });
  }
  TestStream stream(0, threads, &barrier);
  program(static_cast<CpuStream&>(stream));
}

/// Whether this machine can run the kernels of an instruction set.
inline bool machine_has(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
  }
  if (isa == Isa::kAvx512Bf16) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  // Not only a feature bit: best_isa() also asks the operating system for the tiles.
  if (isa == Isa::kAmxBf16) return best_isa() == Isa::kAmxBf16;
#endif
  return isa == Isa::kPortable;
}

inline std::string test_name(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512Bf16:
      return "avx512";
    case Isa::kAmxBf16:
      return "amx";
  }
  return "unknown";
}

}  // namespace convoke::cpu
