// The CPU backend: a team of threads, packed weights, one instruction-set path chosen at run time.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "kernels/backend.h"

namespace convoke::cpu {

/// Instruction-set paths, best last. A path's results are bits of its own: a job must use one path
/// on all its ranks (the launcher takes the lowest common one).
enum class Isa { kPortable, kAvx2, kAvx512Bf16, kAmxBf16 };

Isa best_isa();                        ///< what this machine can run; asks the kernel for AMX
std::string_view isa_name(Isa isa);    ///< "portable", "avx2", "avx512-bf16", "amx-bf16"
Isa parse_isa(std::string_view name);  ///< throws Error(kUsage), listing the names

struct CpuOptions {
  int threads = 1;  ///< team size, the calling thread included
  Isa isa = best_isa();
  bool pin_threads = false;
};

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);

/// One thread's membership in the team that executes a program. What host-memory code outside
/// kernels (communicators, pick gathering) uses to split its own work.
class CpuStream : public Stream {
 public:
  virtual int index() const = 0;  ///< 0 = the thread that called run()
  virtual int count() const = 0;
  virtual void barrier() = 0;  ///< of the team; spins shortly, then yields, then parks

  CpuStream& host() final { return *this; }
  bool leads() const final { return index() == 0; }
};

/// A team of one: the host thread between the kernels of another device.
class LoneStream final : public CpuStream {
 public:
  int index() const override { return 0; }
  int count() const override { return 1; }
  void barrier() override {}
};

/// For what runs on the CPU backend only; other host code asks Stream::host().
inline CpuStream& cpu_stream(Stream& stream) {
  return static_cast<CpuStream&>(stream);
}

}  // namespace convoke::cpu
