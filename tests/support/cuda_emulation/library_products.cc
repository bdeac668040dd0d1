// The library's products (kernels/cuda/library_products.h) on emulated devices: plain sums.
#include "kernels/cuda/library_products.h"

#include <set>
#include <tuple>

#include "kernels/check.h"
#include "kernels/dtype_convert.h"
#include "tests/support/cuda_emulation/emulation.h"

namespace convoke::cuda {
namespace {

class PlainProducts final : public LibraryProducts {
 public:
  void prepare(const LibraryProduct& p) override {
    shapes_.emplace(p.dtype, p.rows, p.outputs, p.inputs, p.accumulate);
  }
  int prepared() const override { return int(shapes_.size()); }

 protected:
  void enqueue(const CudaStream& stream, const LibraryProduct& p, const void* x,
               const void* weights, float* y) override {
    prepare(p);
    const void* const pointers[] = {x, weights, y};
    emulation::check_argument_words(pointers, sizeof pointers);
    emulation::enqueue(stream.handle, [=] {
      const auto load = [half = p.dtype == DType::kFloat16](const void* from, int64_t i) {
        const uint16_t bits = static_cast<const uint16_t*>(from)[i];
        return double(half ? fp16_to_float(bits) : bf16_to_float(bits));
      };
      for (int64_t r = 0; r < p.rows; ++r) {
        for (int64_t n = 0; n < p.outputs; ++n) {
          double sum = 0;
          for (int64_t k = 0; k < p.inputs; ++k) {
            sum += load(x, r * p.x_stride + k) * load(weights, n * p.inputs + k);
          }
          float& out = y[r * p.y_stride + n];
          out = p.accumulate ? out + float(sum) : float(sum);
        }
      }
    });
  }

 private:
  std::set<std::tuple<DType, int64_t, int64_t, int64_t, bool>> shapes_;
};

}  // namespace

std::unique_ptr<LibraryProducts> make_library_products() {
  return std::make_unique<PlainProducts>();
}

}  // namespace convoke::cuda
