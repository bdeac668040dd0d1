// Time per layer of the attention and elementwise kernels of the demo model's shape (hidden 512,
// 8 heads on 4 key/value heads of 64, bfloat16 cache), for decode rows, draft trees and prompts.
#include <benchmark/benchmark.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/elementwise.h"

namespace convoke::cpu {
namespace {

constexpr int kHidden = 512, kHeads = 8, kKvHeads = 4, kHeadDim = 64, kIntermediate = 1024;
constexpr int kRowWidth = (kHeads + 2 * kKvHeads) * kHeadDim;
constexpr int kMaxPositions = 5200;

/// Two spinning threads: what the kernels cost, without what waking a parked team costs.
class SpinStream : public CpuStream {
 public:
  SpinStream(int index, int count, std::atomic<int>* arrived)
      : index_(index), count_(count), arrived_(arrived) {}
  int index() const override { return index_; }
  int count() const override { return count_; }
  void barrier() override {
    passed_ += count_;
    arrived_->fetch_add(1, std::memory_order_acq_rel);
    while (arrived_->load(std::memory_order_acquire) < passed_) {
    }
  }

 private:
  int index_, count_;
  std::atomic<int>* arrived_;
  int passed_ = 0;
};

/// Runs the body on `threads` threads, `state`'s iterations in batches so that both agree on them.
template <typename Body>
void run_benchmark(benchmark::State& state, int threads, Body body) {
  // Asking is needed: it is what makes the operating system hand out the tiles.
  if (Isa(state.range(0)) > best_isa()) {
    state.SkipWithError("this machine lacks the instruction set");
    return;
  }
  constexpr int kBatch = 16;
  std::atomic<int> arrived{0};
  std::atomic<bool> go_on{true};
  const auto loop = [&](CpuStream& stream) {
    for (;;) {
      stream.barrier();
      if (!go_on.load()) return;
      for (int i = 0; i < kBatch; ++i) body(stream);
    }
  };
  std::vector<std::jthread> others;
  for (int i = 1; i < threads; ++i) {
    others.emplace_back([&, i] {
      SpinStream stream(i, threads, &arrived);
      loop(stream);
    });
  }
  SpinStream stream(0, threads, &arrived);
  while (state.KeepRunningBatch(kBatch)) {
    stream.barrier();
    for (int i = 0; i < kBatch; ++i) body(stream);
  }
  go_on = false;
  stream.barrier();
}

/// A pass over one sequence: rows of a tree of depth about 5 over a committed context, or a prompt
/// chunk.
struct Pass {
  Pass(int row_count, int context_length, bool tree) : rows(row_count) {
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    for (int i = 0; i < rows * kRowWidth; ++i) qkv_data.push_back(normal(engine));
    out.resize(size_t(rows * kHeads * kHeadDim));
    angles.assign(size_t(kMaxPositions * kHeadDim / 2), 0.5f);
    path_begin.push_back(0);
    for (int i = 0; i < rows; ++i) {
      sequence.push_back(0);
      slot.push_back(context_length + i);
      if (tree) {
        const int depth = i % 6;
        position.push_back(context_length + depth);
        context.push_back(context_length);
        for (int k = i - depth; k <= i; ++k) path_slots.push_back(context_length + k);
      } else {
        position.push_back(context_length + i);
        context.push_back(context_length + i + 1);
      }
      path_begin.push_back(int32_t(path_slots.size()));
    }
    const int blocks = (context_length + rows) / kKvBlockSize + 1;
    for (int i = 0; i < blocks; ++i) table.push_back(blocks - 1 - i);
    kv.shape = {kKvHeads, kHeadDim, DType::kBFloat16};
    cache.resize(size_t(blocks) * kv_block_bytes(kv.shape) / 2);
    for (uint16_t& value : cache) value = uint16_t(0x3f00 | (engine() & 0x80ff));
    kv.data = cache.data();
    tables.push_back(table.data());
    batch = {rows, sequence, position, slot, context, path_begin, path_slots, tables};
    qkv = TensorView::matrix(qkv_data.data(), DType::kFloat32, rows, kRowWidth);
  }
  RopeAppendArgs rope() const {
    return {qkv, kHeads, &batch, kv, angles.data(), angles.data(), nullptr, nullptr, 0};
  }
  AttentionArgs attention() {
    return {qkv,
            kHeads,
            &batch,
            kv,
            0.125f,
            0,
            TensorView::matrix(out.data(), DType::kBFloat16, rows, kHidden)};
  }
  int rows;
  std::vector<float> qkv_data, angles;
  std::vector<uint16_t> out, cache;
  std::vector<int32_t> sequence, position, slot, context, path_begin, path_slots, table;
  std::vector<const int32_t*> tables;
  AttentionBatch batch;
  KvLayer kv;
  TensorView qkv;
};

Isa isa_of(const benchmark::State& state) {
  return Isa(state.range(0));
}

void attention_pass(benchmark::State& state, bool tree) {
  Pass pass(int(state.range(2)), int(state.range(3)), tree);
  const AttentionArgs args = pass.attention();
  run_benchmark(state, int(state.range(1)),
                [&](CpuStream& stream) { attention(stream, isa_of(state), args); });
  double pairs = 0;  // query-position pairs
  for (int r = 0; r < pass.rows; ++r) {
    pairs += double(pass.context[size_t(r)] + pass.path_begin[size_t(r) + 1] -
                    pass.path_begin[size_t(r)]) *
             kHeads;
  }
  state.counters["GFLOP/s"] =
      benchmark::Counter(pairs * kHeadDim * 4e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void BM_AttentionTree(benchmark::State& state) {
  attention_pass(state, true);
}
void BM_AttentionPrompt(benchmark::State& state) {
  attention_pass(state, false);
}

void BM_RopeAppend(benchmark::State& state) {
  Pass pass(int(state.range(2)), 256, true);
  const RopeAppendArgs args = pass.rope();
  run_benchmark(state, int(state.range(1)),
                [&](CpuStream& stream) { rope_append(stream, isa_of(state), args); });
}

void BM_RmsNorm(benchmark::State& state) {
  const int64_t rows = state.range(2);
  std::vector<float> x(size_t(rows * kHidden), 0.5f), weight(kHidden, 1.f);
  std::vector<uint16_t> y(x.size());
  run_benchmark(state, int(state.range(1)), [&](CpuStream& stream) {
    rms_norm(stream, isa_of(state),
             {TensorView::matrix(x.data(), DType::kFloat32, rows, kHidden),
              weight.data(),
              1e-5f,
              TensorView::matrix(y.data(), DType::kBFloat16, rows, kHidden),
              {}});
  });
}

void BM_SiluMul(benchmark::State& state) {
  const int64_t rows = state.range(2);
  std::vector<float> x(size_t(rows * 2 * kIntermediate), 0.5f);
  std::vector<uint16_t> y(size_t(rows * kIntermediate));
  run_benchmark(state, int(state.range(1)), [&](CpuStream& stream) {
    silu_mul(stream, isa_of(state),
             {TensorView::matrix(x.data(), DType::kFloat32, rows, 2 * kIntermediate),
              TensorView::matrix(y.data(), DType::kBFloat16, rows, kIntermediate)});
  });
}

/// What every kernel pays besides its work.
void BM_Barrier(benchmark::State& state) {
  run_benchmark(state, int(state.range(1)), [](CpuStream& stream) { stream.barrier(); });
}

const std::vector<int64_t> kIsas = {int64_t(Isa::kAmxBf16), int64_t(Isa::kAvx512Bf16),
                                    int64_t(Isa::kAvx2)};

BENCHMARK(BM_AttentionTree)
    ->ArgNames({"isa", "threads", "rows", "context"})
    ->ArgsProduct({kIsas, {1, 2}, {1, 8, 32}, {64, 256, 512, 4096}})
    ->UseRealTime();
BENCHMARK(BM_AttentionPrompt)
    ->ArgNames({"isa", "threads", "rows", "context"})
    ->ArgsProduct({kIsas, {1, 2}, {512}, {0, 512}})
    ->UseRealTime();
BENCHMARK(BM_RopeAppend)
    ->ArgNames({"isa", "threads", "rows"})
    ->ArgsProduct({kIsas, {1, 2}, {1, 8, 32, 512}})
    ->UseRealTime();
BENCHMARK(BM_RmsNorm)
    ->ArgNames({"isa", "threads", "rows"})
    ->ArgsProduct({kIsas, {1, 2}, {1, 8, 32}})
    ->UseRealTime();
BENCHMARK(BM_SiluMul)
    ->ArgNames({"isa", "threads", "rows"})
    ->ArgsProduct({kIsas, {1, 2}, {1, 8, 32}})
    ->UseRealTime();
BENCHMARK(BM_Barrier)->ArgNames({"isa", "threads"})->ArgsProduct({{0}, {1, 2}})->UseRealTime();

}  // namespace
}  // namespace convoke::cpu
