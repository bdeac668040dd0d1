// Cost of the pick rule: rows x vocabulary, greedy, sampling, and with filters. Arguments: rows,
// vocabulary, instruction-set path. Logits are normal with a few dozen likely tokens, or flat.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "kernels/cpu/pick.h"
#include "kernels/cpu/team.h"

namespace {

using namespace convoke;

std::vector<float> make_logits(int64_t count, int64_t vocabulary, bool flat) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, flat ? 1.0f : 2.5f);
  std::vector<float> logits(static_cast<size_t>(count));
  for (float& l : logits) l = normal(random);
  if (flat) return logits;
  for (int64_t i = 0; i < count; i += vocabulary / 32) logits[size_t(i)] += 12.0f;
  return logits;
}

struct Setting {
  float temperature;
  int32_t top_k;
  float top_p;
  int32_t logprobs;
  bool flat;
};

void run(benchmark::State& state, const Setting& setting) {
  const int64_t rows = state.range(0), vocabulary = state.range(1);
  const auto isa = cpu::Isa(state.range(2));
  if (isa > cpu::best_isa()) {
    state.SkipWithError("not on this machine");
    return;
  }
  std::vector<float> logits = make_logits(rows * vocabulary, vocabulary, setting.flat);
  std::vector<float> scratch(2 * logits.size());
  PickRow row;
  row.temperature = setting.temperature;
  row.top_k = setting.top_k;
  row.top_p = setting.top_p;
  row.logprobs = setting.logprobs;
  std::vector<PickRow> params(static_cast<size_t>(rows), row);
  std::vector<Pick> picks(params.size());
  std::vector<TokenLogprob> logprobs(params.size() * 21);
  PickFullArgs args{TensorView::matrix(logits.data(), DType::kFloat32, rows, vocabulary),
                    params,
                    TensorView::matrix(scratch.data(), DType::kFloat32, rows, 2 * vocabulary),
                    picks,
                    {},
                    20};
  if (setting.logprobs >= 0) args.logprobs = logprobs;
  cpu::Team team(1);
  int64_t position = 0;
  for (auto _ : state) {
    for (PickRow& p : params) p.position = position++;
    team.run([&](cpu::CpuStream& stream) { cpu::pick_full(stream, isa, args); });
  }
  state.SetItemsProcessed(int64_t(state.iterations()) * rows * vocabulary);
  state.SetLabel(std::string(cpu::isa_name(isa)));
}

/// A ranking of `count` tokens per row; every fourth token of a vocabulary four times as large if
/// `reduced`.
void run_rank(benchmark::State& state, float temperature, int count, bool reduced, bool flat) {
  const int64_t rows = state.range(0), vocabulary = state.range(1);
  const auto isa = cpu::Isa(state.range(2));
  if (isa > cpu::best_isa()) {
    state.SkipWithError("not on this machine");
    return;
  }
  std::vector<float> logits = make_logits(rows * vocabulary, vocabulary, flat);
  std::vector<int32_t> tokens;
  for (int64_t c = 0; reduced && c < vocabulary; ++c) tokens.push_back(int32_t(4 * c + 1));
  std::vector<PickRow> params(static_cast<size_t>(rows));
  std::vector<RankedToken> ranked(params.size() * size_t(count));
  const RankArgs args{
      .logits = TensorView::matrix(logits.data(), DType::kFloat32, rows, vocabulary),
      .tokens = tokens,
      .params = params,
      .count = count,
      .ranked = ranked};
  cpu::Team team(1);
  int64_t position = 0;
  for (auto _ : state) {
    for (PickRow& p : params) p.temperature = temperature, p.position = position++;
    team.run([&](cpu::CpuStream& stream) { cpu::rank(stream, isa, args); });
  }
  state.SetItemsProcessed(int64_t(state.iterations()) * rows * vocabulary);
  state.SetLabel(std::string(cpu::isa_name(isa)));
}

void shapes(benchmark::internal::Benchmark* benchmark) {
  for (int isa = 0; isa <= int(cpu::Isa::kAvx512Bf16); ++isa) {
    benchmark->Args({32, 4096, isa})->Args({1, 131072, isa});
  }
  benchmark->Unit(benchmark::kMicrosecond);
}

BENCHMARK_CAPTURE(run, greedy, Setting{0, 0, 1, -1, false})->Apply(shapes);
BENCHMARK_CAPTURE(run, sample, Setting{0.8f, 0, 1, -1, false})->Apply(shapes);
BENCHMARK_CAPTURE(run, sample_flat, Setting{0.8f, 0, 1, -1, true})->Apply(shapes);
BENCHMARK_CAPTURE(run, top_p, Setting{0.8f, 0, 0.95f, -1, false})->Apply(shapes);
BENCHMARK_CAPTURE(run, top_p_flat, Setting{0.8f, 0, 0.95f, -1, true})->Apply(shapes);
BENCHMARK_CAPTURE(run, top_k_top_p, Setting{0.8f, 50, 0.95f, -1, false})->Apply(shapes);
BENCHMARK_CAPTURE(run, greedy_logprobs, Setting{0, 0, 1, 20, false})->Apply(shapes);
BENCHMARK_CAPTURE(run_rank, greedy_10, 0.0f, 10, false, false)->Apply(shapes);
BENCHMARK_CAPTURE(run_rank, sample_10, 0.8f, 10, false, false)->Apply(shapes);
BENCHMARK_CAPTURE(run_rank, sample_flat_64, 0.8f, 64, false, true)->Apply(shapes);
BENCHMARK_CAPTURE(run_rank, sample_reduced_10, 0.8f, 10, true, false)->Apply(shapes);

}  // namespace

BENCHMARK_MAIN();
