// Random weights on a device: the bytes of those that the CPU makes and uploads, on every rank.
#include "kernels/cuda/packed_matrix.h"
#include "runtime/weights.h"
#include "tests/kernels/cuda/backend_fixture.h"

namespace convoke {
namespace {

/// A source whose tensors are to be asked for.
class WithoutRecipes final : public TensorSource {
 public:
  explicit WithoutRecipes(const ModelConfig& config) : source_(config) {}
  std::vector<TensorInfo> list() const override { return source_.list(); }
  bool contains(const std::string& name) const override { return source_.contains(name); }
  TensorView tensor(const std::string& name) const override { return source_.tensor(name); }

 private:
  DummySource source_;
};

std::vector<uint8_t> bytes_of(Backend& backend, const void* data, size_t bytes) {
  std::vector<uint8_t> host(bytes);
  const auto view = [&](const void* at) {
    return TensorView::matrix(const_cast<void*>(at), DType::kBool, 1, int64_t(bytes));
  };
  backend.run([&](Stream& stream) { backend.copy(stream, view(data), view(host.data())); });
  return host;
}

/// Of embedding and matrices, in the order of the forward pass.
std::vector<std::vector<uint8_t>> bytes_of(Backend& backend, const ModelWeights& weights) {
  std::vector<std::vector<uint8_t>> all;
  const TensorView e = weights.embedding.view();
  all.push_back(bytes_of(backend, e.data, size_t(e.rows * e.cols) * dtype_size(e.dtype)));
  const auto add = [&](const PackedMatrix& matrix) {
    all.push_back(bytes_of(backend, static_cast<const cuda::CudaPackedMatrix&>(matrix).data(),
                           matrix.bytes()));
  };
  for (const LayerWeights& layer : weights.layers) {
    for (const auto* matrix : {&layer.qkv, &layer.output, &layer.gate_up, &layer.down}) {
      add(**matrix);
    }
  }
  add(*weights.lm_head);
  return all;
}

struct DummyCase {
  const char* model;
  DType storage;
};
void PrintTo(const DummyCase& c, std::ostream* out) {
  *out << c.model << " in " << dtype_name(c.storage);
}

class CudaDummyWeights : public ::testing::TestWithParam<DummyCase> {};

TEST_P(CudaDummyWeights, AreThoseOfTheCpuOnEveryRank) {
  const ModelConfig config = ModelConfig::load(checkout() / "tests/golden" / GetParam().model);
  for (const int tp : testing::possible_tp(config)) {
    for (int rank = 0; rank < tp; ++rank) {
      SCOPED_TRACE(::testing::Message() << "rank " << rank << " of " << tp);
      const ShardPlan plan = make_shard_plan(config.extents(), tp, rank);
      const auto backend = cuda::make_cuda_backend({});
      const auto load = [&](std::shared_ptr<const TensorSource> source) {
        return load_weights(*backend, config, plan, std::move(source), GetParam().storage, 32);
      };
      const ModelWeights made = load(std::make_shared<DummySource>(config));
      const ModelWeights uploaded = load(std::make_shared<WithoutRecipes>(config));
      EXPECT_EQ(bytes_of(*backend, made), bytes_of(*backend, uploaded));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, CudaDummyWeights,
    ::testing::Values(DummyCase{"models/llama-gqa-bf16", DType::kBFloat16},
                      DummyCase{"models/llama-gqa-bf16", DType::kFloat32},
                      DummyCase{"models/llama-linear-fp16", DType::kFloat16},
                      DummyCase{"models/llama-odd-fp32", DType::kFloat32},
                      DummyCase{"models/qwen2-tied-bf16", DType::kBFloat16},
                      DummyCase{"float8_models/compressed-channel", DType::kBFloat16},
                      DummyCase{"float8_models/compressed-head", DType::kBFloat16}),
    [](const auto& test) {
      std::string name =
          std::string(test.param.model) + "_as_" + std::string(dtype_name(test.param.storage));
      std::ranges::replace_if(
          name, [](char c) { return c == '-' || c == '/'; }, '_');
      return name;
    });

#if !defined(CONVOKE_TEST_ON_GPU)
// Norms, biases and tables come from the host; no embedding and no matrix does.
TEST(CudaDummyLoading, UploadsNoMatrix) {
  const ModelConfig config = ModelConfig::load(kGoldenModels / "llama-gqa-bf16");
  const ShardPlan plan = make_shard_plan(config.extents(), 1, 0);
  const auto backend = cuda::make_cuda_backend({});
  const auto uploads = [&](std::shared_ptr<const TensorSource> source) {
    const uint64_t before = emulation::device_counters().to_device;
    load_weights(*backend, config, plan, std::move(source), DType::kBFloat16, 32);
    return emulation::device_counters().to_device - before;
  };
  // Three tables, two norms of each layer.
  EXPECT_EQ(uploads(std::make_shared<DummySource>(config)), 3u + 2u * uint64_t(config.layers));
  EXPECT_GT(uploads(std::make_shared<WithoutRecipes>(config)), 3u + 6u * uint64_t(config.layers));
}
#endif

}  // namespace
}  // namespace convoke
