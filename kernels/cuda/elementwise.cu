// Kernels without sums: each element of the output has its own thread.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/kernels.h"

namespace convoke::cuda {
namespace {

constexpr int kThreads = 256;

/// A grid of one thread per element: columns along x, rows along y and, beyond what y can count,
/// in strides.
LaunchShape over(int64_t rows, int64_t columns) {
  constexpr int64_t kMostRows = 65535;
  return {dim3(unsigned(ceil_div<int64_t>(columns, kThreads)), unsigned(std::min(rows, kMostRows))),
          kThreads};
}

/// Calls visit(row, column) for this thread's elements.
template <typename Visit>
__device__ __forceinline__ void for_elements(int64_t rows, int64_t columns, Visit visit) {
  const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= columns) return;
  for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) visit(row, column);
}

/// What a kernel needs of a view: element (r, c) is data[r * stride + c].
template <typename T>
struct Matrix {
  T* data;
  int64_t rows, columns, stride;

  explicit Matrix(const TensorView& view)
      : data(static_cast<T*>(view.data)),
        rows(view.rows),
        columns(view.cols),
        stride(view.row_stride) {}
  __device__ __forceinline__ T& operator()(int64_t row, int64_t column) const {
    return data[row * stride + column];
  }
};

template <typename T, typename Lookahead>
__global__ void embed_kernel(const int32_t* tokens, Matrix<const T> table, int32_t first_token,
                             Matrix<const Lookahead> lookahead, Matrix<float> x) {
  for_elements(x.rows, x.columns, [&](int64_t row, int64_t column) {
    const int64_t token = tokens[row];
    const int64_t place = token < 0 ? -1 - token : token - first_token;
    float value = 0;
    if (token == kPaddingToken) {
      value = NAN;
    } else if (token < 0) {
      if (first_token == 0) value = to_float(lookahead(place, column)) + 0.0f;
    } else if (0 <= place && place < table.rows) {
      value = to_float(table(place, column)) + 0.0f;
    }
    x(row, column) = value;
  });
}

template <typename T>
__global__ void silu_mul_kernel(Matrix<const float> x, Matrix<T> y) {
  for_elements(y.rows, y.columns, [&](int64_t row, int64_t column) {
    assign(y(row, column), silu(x(row, column)) * x(row, y.columns + column));
  });
}

__global__ void add_bias_kernel(Matrix<float> x, const float* bias) {
  for_elements(x.rows, x.columns,
               [&](int64_t row, int64_t column) { x(row, column) += bias[column]; });
}

template <typename T>
__global__ void convert_kernel(Matrix<const float> x, Matrix<T> y) {
  for_elements(y.rows, y.columns,
               [&](int64_t row, int64_t column) { assign(y(row, column), x(row, column)); });
}

template <typename From, typename To>
__global__ void copy_rows_kernel(Matrix<const From> x, const int32_t* from, Matrix<To> y,
                                 const int32_t* to, int64_t rows, bool accumulate) {
  for_elements(rows, y.columns, [&](int64_t row, int64_t column) {
    const int64_t target = to != nullptr ? to[row] : row;
    const int64_t source = from != nullptr ? from[row] : row;
    if (target < 0) return;
    float value = source == kPaddingToken ? NAN : 0.0f;
    if (source >= 0) value = to_float(x(source, column));
    To& element = y(target, column);
    assign(element, accumulate ? to_float(element) + value : value);
  });
}

template <typename T>
__global__ void fill_zero_kernel(Matrix<T> x) {
  for_elements(x.rows, x.columns,
               [&](int64_t row, int64_t column) { assign(x(row, column), 0.0f); });
}

bool empty(const TensorView& view) {
  return view.rows == 0 || view.cols == 0;
}

}  // namespace

void embed(const CudaStream& stream, const EmbedArgs& args) {
  CONVOKE_CHECK(args.x.dtype == DType::kFloat32);
  CONVOKE_CHECK_EQ(args.x.rows, int64_t(args.tokens.size()));
  CONVOKE_CHECK(args.table.rows == 0 || args.table.cols == args.x.cols);
  CONVOKE_CHECK(args.lookahead.rows == 0 || args.lookahead.cols == args.x.cols);
  if (empty(args.x)) return;
  with_element(args.table.dtype, [&](auto element) {
    with_element(args.lookahead.dtype, [&](auto lookahead_element) {
      using T = decltype(element);
      using Lookahead = decltype(lookahead_element);
      launch(stream, over(args.x.rows, args.x.cols), embed_kernel<T, Lookahead>, args.tokens.data(),
             Matrix<const T>(args.table), args.first_token, Matrix<const Lookahead>(args.lookahead),
             Matrix<float>(args.x));
    });
  });
}

void silu_mul(const CudaStream& stream, const SiluMulArgs& args) {
  CONVOKE_CHECK(args.x.dtype == DType::kFloat32);
  CONVOKE_CHECK_EQ(args.x.rows, args.y.rows);
  CONVOKE_CHECK_EQ(args.x.cols, 2 * args.y.cols);
  if (empty(args.y)) return;
  with_element(args.y.dtype, [&](auto element) {
    using T = decltype(element);
    launch(stream, over(args.y.rows, args.y.cols), silu_mul_kernel<T>, Matrix<const float>(args.x),
           Matrix<T>(args.y));
  });
}

void add_bias(const CudaStream& stream, const TensorView& x, const float* bias) {
  CONVOKE_CHECK(x.dtype == DType::kFloat32);
  if (empty(x)) return;
  launch(stream, over(x.rows, x.cols), add_bias_kernel, Matrix<float>(x), bias);
}

void fill_zero(const CudaStream& stream, const TensorView& x) {
  if (empty(x)) return;
  with_element(x.dtype, [&](auto element) {
    using T = decltype(element);
    launch(stream, over(x.rows, x.cols), fill_zero_kernel<T>, Matrix<T>(x));
  });
}

void convert(const CudaStream& stream, const TensorView& x, const TensorView& y) {
  CONVOKE_CHECK(x.dtype == DType::kFloat32);
  CONVOKE_CHECK(x.rows == y.rows && x.cols == y.cols);
  if (empty(y)) return;
  with_element(y.dtype, [&](auto element) {
    using T = decltype(element);
    launch(stream, over(y.rows, y.cols), convert_kernel<T>, Matrix<const float>(x), Matrix<T>(y));
  });
}

void copy_rows(const CudaStream& stream, const CopyRowsArgs& args) {
  const int64_t rows = args.rows();
  CONVOKE_CHECK_EQ(args.x.cols, args.y.cols);
  CONVOKE_CHECK(args.to.empty() ? rows <= args.y.rows : rows == int64_t(args.to.size()));
  CONVOKE_CHECK(!args.accumulate ||
                (args.x.dtype == DType::kFloat32 && args.y.dtype == DType::kFloat32));
  if (rows == 0 || empty(args.y)) return;
  const auto indices = [](std::span<const int32_t> list) {
    return list.empty() ? nullptr : list.data();
  };
  with_element(args.x.dtype, [&](auto from) {
    with_element(args.y.dtype, [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      launch(stream, over(rows, args.y.cols), copy_rows_kernel<From, To>,
             Matrix<const From>(args.x), indices(args.from), Matrix<To>(args.y), indices(args.to),
             rows, args.accumulate);
    });
  });
}

}  // namespace convoke::cuda
