#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace convoke::cpu {
namespace {

constexpr Isa kAllIsas[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512Bf16, Isa::kAmxBf16};

#if defined(__x86_64__)

struct CpuidLeaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidLeaf cpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidLeaf result;
  __get_cpuid_count(leaf, subleaf, &result.eax, &result.ebx, &result.ecx, &result.edx);
  return result;
}

bool bit(uint32_t word, int index) {
  return ((word >> index) & 1u) != 0;
}

/// Register state that the operating system saves (XCR0).
uint64_t enabled_state() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t(high) << 32) | low;
}

/// Linux gives a process the tile registers only when it asks (Linux documentation, x86/xstate:
/// ARCH_REQ_XCOMP_PERM with the number of the tile data state). Threads share the permission.
bool request_tiles() {
  constexpr long kRequestPermission = 0x1023;
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Bit numbers: Intel 64 and IA-32 Architectures Software Developer's Manual, CPUID.
Isa detect() {
  const CpuidLeaf leaf1 = cpuid(1, 0);
  const bool xsave_enabled = bit(leaf1.ecx, 27);
  if (!xsave_enabled) return Isa::kPortable;
  const uint64_t state = enabled_state();
  const CpuidLeaf leaf7 = cpuid(7, 0);
  const CpuidLeaf leaf7_1 = cpuid(7, 1);

  const bool ymm_state = (state & 0x6) == 0x6;
  const bool avx2 = ymm_state && bit(leaf1.ecx, 12) /* FMA */ && bit(leaf1.ecx, 29) /* F16C */ &&
                    bit(leaf7.ebx, 5);
  if (!avx2) return Isa::kPortable;

  const bool zmm_state = (state & 0xe6) == 0xe6;
  const bool avx512 = zmm_state && bit(leaf7.ebx, 16) /* F */ && bit(leaf7.ebx, 17) /* DQ */ &&
                      bit(leaf7.ebx, 30) /* BW */ && bit(leaf7.ebx, 31) /* VL */ &&
                      bit(leaf7_1.eax, 5) /* BF16 */;
  if (!avx512) return Isa::kAvx2;

  const bool tile_state = (state & 0x60000) == 0x60000;
  const bool amx = tile_state && bit(leaf7.edx, 24) /* TILE */ && bit(leaf7.edx, 22) /* BF16 */;
  return amx && request_tiles() ? Isa::kAmxBf16 : Isa::kAvx512Bf16;
}

#else

Isa detect() {
  return Isa::kPortable;
}

#endif

}  // namespace

Isa best_isa() {
  static const Isa best = detect();
  return best;
}

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512Bf16:
      return "avx512-bf16";
    case Isa::kAmxBf16:
      return "amx-bf16";
  }
  return "?";
}

Isa parse_isa(std::string_view name) {
  std::string names;
  for (Isa isa : kAllIsas) {
    if (isa_name(isa) == name) return isa;
    names += names.empty() ? "" : ", ";
    names += isa_name(isa);
  }
  throw_error(ErrorKind::kUsage, "unknown instruction set '{}': give one of {}", name, names);
}

}  // namespace convoke::cpu
