#include "kernels/cpu/elementwise.h"

#include <algorithm>

#include "kernels/copy_row.h"
#include "kernels/cpu/elementwise_kernels.h"
#include "kernels/cpu/simd_tables.h"
#include "kernels/dtype_convert.h"

namespace convoke::cpu {

const ElementwiseKernels& elementwise_kernels_for(Isa isa) {
  return table_for(isa, portable::elementwise_kernels(), avx2::elementwise_kernels(),
                   avx512::elementwise_kernels());
}

namespace {

/// Calls work(row, begin, end) for this thread's share of a rows x columns matrix: whole rows, or
/// column ranges when rows are fewer than threads and `split_columns` allows it. Ranges begin at
/// multiples of 64 elements, so no two threads write one cache line of a row.
template <typename Work>
void for_my_share(const CpuStream& stream, int64_t rows, int64_t columns, bool split_columns,
                  Work work) {
  const int64_t count = stream.count();
  const int64_t parts = split_columns && rows > 0 && rows < count ? (count + rows - 1) / rows : 1;
  const int64_t width = ((columns + parts - 1) / parts + 63) / 64 * 64;
  const int64_t units = rows * parts;
  const int64_t first = units * stream.index() / count;
  const int64_t last = units * (stream.index() + 1) / count;
  for (int64_t unit = first; unit < last; ++unit) {
    const int64_t begin = unit % parts * width;
    const int64_t end = std::min(columns, begin + width);
    if (begin < end) work(unit / parts, begin, end);
  }
}

void check_output_dtype(const TensorView& y) {
  CONVOKE_CHECK(y.dtype == DType::kFloat32 || y.dtype == DType::kBFloat16);
}

template <typename T>
void* element(const TensorView& view, int64_t row, int64_t column) {
  return view.row<T>(row) + column;
}
void* element(const TensorView& view, int64_t row, int64_t column) {
  return dtype_size(view.dtype) == 4 ? element<float>(view, row, column)
                                     : element<uint16_t>(view, row, column);
}

}  // namespace

void embed(CpuStream& stream, Isa isa, const EmbedArgs& args) {
  const ElementwiseKernels& kernels = elementwise_kernels_for(isa);
  const int64_t columns = args.x.cols;
  CONVOKE_CHECK_EQ(args.x.rows, int64_t(args.tokens.size()));
  CONVOKE_CHECK(args.x.dtype == DType::kFloat32);
  CONVOKE_CHECK(args.table.rows == 0 || args.table.cols == columns);
  CONVOKE_CHECK(args.lookahead.rows == 0 || args.lookahead.cols == columns);
  for_my_share(stream, args.x.rows, columns, true, [&](int64_t row, int64_t begin, int64_t end) {
    const int64_t token = args.tokens[size_t(row)];
    const TensorView* source = nullptr;
    int64_t source_row = 0;
    if (token < 0) {
      source_row = -1 - token;
      CONVOKE_CHECK_LT(source_row, args.lookahead.rows);
      if (args.first_token == 0) source = &args.lookahead;
    } else {
      source_row = token - args.first_token;
      if (0 <= source_row && source_row < args.table.rows) source = &args.table;
    }
    float* const target = args.x.row<float>(row) + begin;
    if (source == nullptr) {
      std::fill(target, target + (end - begin), 0.f);
    } else {
      kernels.widen(element(*source, source_row, begin), source->dtype, target, end - begin);
    }
  });
  stream.barrier();
}

void rms_norm(CpuStream& stream, Isa isa, const RmsNormArgs& args) {
  const ElementwiseKernels& kernels = elementwise_kernels_for(isa);
  const int64_t columns = args.x.cols;
  CONVOKE_CHECK(args.x.dtype == DType::kFloat32);
  CONVOKE_CHECK_EQ(args.y.cols, columns);
  // Without a gather y may have fewer rows than x: none, when no row needs logits.
  CONVOKE_CHECK(args.gather.empty() ? args.y.rows <= args.x.rows
                                    : args.y.rows == int64_t(args.gather.size()));
  check_output_dtype(args.y);
  // Threads that share a row each sum all of it: cheaper than waiting for each other. In place the
  // one would write what the other still reads.
  const bool split_columns = args.y.data != args.x.data;
  for_my_share(stream, args.y.rows, columns, split_columns,
               [&](int64_t row, int64_t begin, int64_t end) {
                 const int64_t source = args.gather.empty() ? row : args.gather[size_t(row)];
                 CONVOKE_CHECK(0 <= source && source < args.x.rows);
                 const float* const x = args.x.row<float>(source);
                 const float factor = kernels.inverse_rms(x, columns, args.epsilon);
                 kernels.scale(x + begin, factor, args.weight + begin, element(args.y, row, begin),
                               args.y.dtype, end - begin);
               });
  stream.barrier();
}

void convert(CpuStream& stream, const TensorView& x, const TensorView& y) {
  CONVOKE_CHECK(x.dtype == DType::kFloat32);
  CONVOKE_CHECK(x.rows == y.rows && x.cols == y.cols);
  check_output_dtype(y);
  for_my_share(stream, x.rows, x.cols, true, [&](int64_t row, int64_t begin, int64_t end) {
    const float* const from = x.row<float>(row);
    if (y.dtype == DType::kFloat32) {
      std::copy(from + begin, from + end, y.row<float>(row) + begin);
    } else {
      std::transform(from + begin, from + end, y.row<uint16_t>(row) + begin, float_to_bf16);
    }
  });
  stream.barrier();
}

namespace {

/// Columns [begin, end) of row `source` of x to those of row `target` of y.
void copy_part(const CopyRowsArgs& args, int64_t source, int64_t target, int64_t begin,
               int64_t end) {
  const TensorView &x = args.x, &y = args.y;
  CONVOKE_CHECK(-1 <= source && source < x.rows);  // nothing is filled up here: no padding rows
  const void* const from = source < 0 ? nullptr : element(x, source, begin);
  if (!args.accumulate) {
    copy_row(from, x.dtype, element(y, target, begin), y.dtype, end - begin);
  } else if (source >= 0) {
    const float* const addend = x.row<float>(source);
    float* const sum = y.row<float>(target);
    for (int64_t c = begin; c < end; ++c) sum[c] += addend[c];
  }
}

}  // namespace

void copy_rows(CpuStream& stream, const CopyRowsArgs& args) {
  const int64_t rows = args.rows();
  CONVOKE_CHECK_EQ(args.x.cols, args.y.cols);
  CONVOKE_CHECK(args.to.empty() ? rows <= args.y.rows : rows == int64_t(args.to.size()));
  check_output_dtype(args.y);
  CONVOKE_CHECK(!args.accumulate ||
                (args.x.dtype == DType::kFloat32 && args.y.dtype == DType::kFloat32));
  for_my_share(stream, rows, args.x.cols, true, [&](int64_t row, int64_t begin, int64_t end) {
    const int64_t target = args.to.empty() ? row : args.to[size_t(row)];
    CONVOKE_CHECK(-1 <= target && target < args.y.rows);
    if (target < 0) return;
    copy_part(args, args.from.empty() ? row : args.from[size_t(row)], target, begin, end);
  });
  stream.barrier();
}

void silu_mul(CpuStream& stream, Isa isa, const SiluMulArgs& args) {
  const ElementwiseKernels& kernels = elementwise_kernels_for(isa);
  const int64_t columns = args.y.cols;
  CONVOKE_CHECK(args.x.dtype == DType::kFloat32);
  CONVOKE_CHECK_EQ(args.x.rows, args.y.rows);
  CONVOKE_CHECK_EQ(args.x.cols, 2 * columns);
  check_output_dtype(args.y);
  for_my_share(stream, args.y.rows, columns, true, [&](int64_t row, int64_t begin, int64_t end) {
    const float* const gate = args.x.row<float>(row) + begin;
    kernels.silu_mul(gate, gate + columns, element(args.y, row, begin), args.y.dtype, end - begin);
  });
  stream.barrier();
}

}  // namespace convoke::cpu
