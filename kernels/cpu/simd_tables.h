// Choice of the kernels compiled for an instruction set.
#pragma once

#include "kernels/cpu/cpu_backend.h"

namespace convoke::cpu {

/// The best table that is not better than `isa`; a table is null where it was not compiled.
template <typename Table>
const Table& table_for(Isa isa, const Table* portable, const Table* avx2, const Table* avx512) {
  if (isa >= Isa::kAvx512Bf16 && avx512 != nullptr) return *avx512;
  if (isa >= Isa::kAvx2 && avx2 != nullptr) return *avx2;
  return *portable;
}

}  // namespace convoke::cpu
