#include "tests/bench/onednn_matmul.h"

#ifdef CONVOKE_HAVE_ONEDNN
#include <omp.h>

#include <cstring>
#include <dnnl.hpp>

namespace convoke {
namespace {

class Matmul final : public OneDnnMatmul {
 public:
  Matmul(int64_t rows, int64_t inputs, int64_t outputs)
      : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    using Tag = dnnl::memory::format_tag;
    using Type = dnnl::memory::data_type;
    const dnnl::memory::desc x({rows, inputs}, Type::bf16, Tag::ab);
    const dnnl::memory::desc any({inputs, outputs}, Type::bf16, Tag::any);
    const dnnl::memory::desc y({rows, outputs}, Type::f32, Tag::ab);
    const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(x, any, y), engine_);
    primitive_ = dnnl::matmul(desc);
    x_ = dnnl::memory(x, engine_);
    y_ = dnnl::memory(y, engine_);
    weights_ = dnnl::memory(desc.weights_desc(), engine_);
    dnnl::memory plain({{inputs, outputs}, Type::bf16, Tag::ba}, engine_);
    for (dnnl::memory* memory : {&x_, &plain}) {
      std::memset(memory->get_data_handle(), 0x3c, memory->get_desc().get_size());
    }
    dnnl::reorder(plain, weights_).execute(stream_, plain, weights_);
    stream_.wait();
  }

  void run() override {
    primitive_.execute(stream_,
                       {{DNNL_ARG_SRC, x_}, {DNNL_ARG_WEIGHTS, weights_}, {DNNL_ARG_DST, y_}});
    stream_.wait();
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul primitive_;
  dnnl::memory x_, y_, weights_;
};

}  // namespace

std::unique_ptr<OneDnnMatmul> make_onednn_matmul(int64_t rows, int64_t inputs, int64_t outputs,
                                                 int threads) {
  omp_set_num_threads(threads);
  return std::make_unique<Matmul>(rows, inputs, outputs);
}

}  // namespace convoke

#else

namespace convoke {
std::unique_ptr<OneDnnMatmul> make_onednn_matmul(int64_t, int64_t, int64_t, int) {
  return nullptr;
}
}  // namespace convoke

#endif
