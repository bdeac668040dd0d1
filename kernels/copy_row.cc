#include "kernels/copy_row.h"

#include <cstring>

#include "kernels/check.h"
#include "kernels/dtype_convert.h"

namespace convoke {
namespace {

float widen(float value, DType) {
  return value;
}
float widen(uint16_t bits, DType dtype) {
  return dtype == DType::kBFloat16 ? bf16_to_float(bits) : fp16_to_float(bits);
}

template <typename From>
void convert(const From* from, DType from_dtype, void* to, DType to_dtype, int64_t count) {
  if (to_dtype == DType::kFloat32) {
    auto* const out = static_cast<float*>(to);
    for (int64_t i = 0; i < count; ++i) out[i] = widen(from[i], from_dtype);
  } else {
    auto* const out = static_cast<uint16_t*>(to);
    for (int64_t i = 0; i < count; ++i) out[i] = float_to_bf16(widen(from[i], from_dtype));
  }
}

}  // namespace

void copy_row(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t count) {
  CONVOKE_CHECK(to_dtype == DType::kFloat32 || to_dtype == DType::kBFloat16);
  if (from == nullptr) {
    std::memset(to, 0, size_t(count) * dtype_size(to_dtype));  // zero in both formats
  } else if (from_dtype == to_dtype) {
    std::memcpy(to, from, size_t(count) * dtype_size(to_dtype));
  } else if (from_dtype == DType::kFloat32) {
    convert(static_cast<const float*>(from), from_dtype, to, to_dtype, count);
  } else if (from_dtype == DType::kBFloat16 || from_dtype == DType::kFloat16) {
    convert(static_cast<const uint16_t*>(from), from_dtype, to, to_dtype, count);
  } else {
    throw_error(ErrorKind::kModel, "a tensor of dtype {} stands where floats are needed",
                dtype_name(from_dtype));
  }
}

}  // namespace convoke
