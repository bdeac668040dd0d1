// Rows of numbers from one float format to another: what heads put together before their first
// matrix product, and what they keep after their last.
#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/tensor.h"

namespace convoke {

/// to[i] = from[i], i < count. `to_dtype` is kFloat32 or kBFloat16, `from_dtype` any float; null
/// `from` gives zeros. Throws Error(kModel) for a dtype that is none.
void copy_row(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count);

/// First address of row `row` of a view.
inline void* row_address(const TensorView& view, int64_t row) {
  return static_cast<std::byte*>(view.data) +
         row * view.row_stride * int64_t(dtype_size(view.dtype));
}

/// Calls work(row) for this thread's share of the rows of a host program (kernels/backend.h). Does
/// not wait for the other threads.
template <typename Work>
void for_my_rows(Stream& stream, int64_t rows, Work&& work) {
  const cpu::CpuStream& own = cpu::cpu_stream(stream);
  const int64_t first = rows * own.index() / own.count();
  const int64_t last = rows * (own.index() + 1) / own.count();
  for (int64_t row = first; row < last; ++row) work(row);
}

}  // namespace convoke
