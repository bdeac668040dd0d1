// Time per pass of drafting heads with random weights, of the demo model's shape (hidden 512, 8
// heads on 4 key/value heads, intermediate 1024, vocabulary 4096, bfloat16) or of another target
// whose config.json's directory is given. One sequence with 256 committed tokens.
#include <benchmark/benchmark.h>

#include <fstream>
#include <numeric>

#include "runtime/drafters/medusa.h"
#include "runtime/heads/branch_factory.h"

namespace convoke {
namespace {

constexpr int kCommitted = 256;
constexpr int kChildren = 10;

std::filesystem::path model_directory;

DraftContext context_of(int threads) {
  DraftContext context;
  context.model = model_directory;
  context.vocabulary = ModelConfig::load(model_directory).vocabulary;
  context.load_format = "dummy";
  context.threads = threads;
  context.max_sequences = 4;
  context.max_model_len = 1024;
  return context;
}

/// A model whose place 0 has taken in kCommitted tokens, and features of zeros.
struct Ready {
  Ready(const std::string& method, int threads) {
    const DraftContext context = context_of(threads);
    const ModelConfig target = ModelConfig::load(model_directory);
    model = open_branch_model(method, method == "draft-model" ? model_directory.string() : "random",
                              context, {.scratch_slots = 256, .max_rows = 64});
    if (method != "draft-model")
      width = head_needs(method, "random", target).features.width(target);
    features.resize(size_t(width) * 64);
    tokens.resize(kCommitted);
    std::iota(tokens.begin(), tokens.end(), 1);
    SamplingParams greedy;
    greedy.temperature = 0;
    model->open(0, greedy, kCommitted);
    commit(kCommitted);
  }
  void commit(size_t length) {
    tokens.resize(length, 7);
    const auto rows = std::min<int64_t>(64, int64_t(length) - 1);
    const BranchModel::Committed committed{
        .place = 0,
        .tokens = tokens,
        .feature_begin = int32_t(int64_t(length) - 1 - rows),
        .features = width > 0 ? TensorView::matrix(features.data(), DType::kBFloat16, rows, width)
                              : TensorView{}};
    model->absorb({&committed, 1}, kChildren);
  }
  std::unique_ptr<BranchModel> model;
  int64_t width = 0;
  std::vector<uint16_t> features;
  std::vector<int32_t> tokens;
};

/// A pass over `rows` siblings.
void expand(benchmark::State& state, const std::string& method) {
  const int rows = int(state.range(0));
  Ready ready(method, int(state.range(1)));
  std::vector<int32_t> slots(static_cast<size_t>(rows)), tokens(slots);
  std::iota(slots.begin(), slots.end(), 0);
  std::iota(tokens.begin(), tokens.end(), 100);
  std::vector<BranchModel::Row> batch;
  for (size_t r = 0; r < size_t(rows); ++r) {
    batch.push_back(
        {0, tokens[r], std::span(slots).subspan(r, 1), std::span(tokens).subspan(r, 1)});
  }
  for (auto _ : state) ready.model->expand(batch, kChildren);
}

/// A round's true entries: `rows` new tokens.
void absorb(benchmark::State& state, const std::string& method) {
  const auto rows = size_t(state.range(0));
  auto ready = std::make_unique<Ready>(method, int(state.range(1)));
  for (auto _ : state) {
    if (ready->tokens.size() + rows > 512) {
      state.PauseTiming();
      ready->model->close(0);
      ready->tokens.resize(kCommitted);
      SamplingParams greedy;
      greedy.temperature = 0;
      ready->model->open(0, greedy, kCommitted);
      ready->commit(kCommitted);
      state.ResumeTiming();
    }
    ready->commit(ready->tokens.size() + rows);
  }
}

void medusa(benchmark::State& state) {
  const ModelConfig target = ModelConfig::load(model_directory);
  const HeadConfig config = load_head_config(HeadKind::kMedusa, kRandomHead, target);
  const auto source = random_head(
      MedusaHeads::tensors(config, MedusaHeads::extents(config, nullptr)), DType::kBFloat16);
  const auto backend = make_draft_backend(context_of(int(state.range(1))));
  MedusaHeads heads(*backend, config, *source, {.max_rows = 32});
  const std::vector<float> feature(size_t(target.hidden), 0.5f);
  const std::vector<MedusaHeads::Row> rows(size_t(state.range(0)),
                                           {.feature = {feature.data(), DType::kFloat32}});
  for (auto _ : state) heads.rank(rows, kChildren);
}

/// A target of the demo's shape, for its config.json alone.
std::filesystem::path demo_shape() {
  const auto directory = std::filesystem::temp_directory_path() / "convoke_heads_bench";
  std::filesystem::create_directories(directory);
  std::ofstream(directory / "config.json") << R"({"architectures": ["LlamaForCausalLM"],
      "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024,
      "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
      "vocab_size": 4096, "max_position_embeddings": 2048, "torch_dtype": "bfloat16",
      "tie_word_embeddings": false})";
  return directory;
}

void declare() {
  const auto shapes = [](benchmark::internal::Benchmark* b) {
    b->ArgsProduct({{1, 8, 32}, {1, 2}})->ArgNames({"rows", "threads"})->UseRealTime();
    b->Unit(benchmark::kMicrosecond);
  };
  for (const char* method : {"eagle", "eagle3", "draft-model"}) {
    const std::string name = method;
    shapes(benchmark::RegisterBenchmark((name + "/expand").c_str(), expand, name));
    shapes(benchmark::RegisterBenchmark((name + "/absorb").c_str(), absorb, name));
  }
  shapes(benchmark::RegisterBenchmark("medusa", medusa));
}

}  // namespace
}  // namespace convoke

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  convoke::model_directory = argc > 1 ? std::filesystem::path(argv[1]) : convoke::demo_shape();
  convoke::declare();
  benchmark::RunSpecifiedBenchmarks();
}
