// Matrix products against their floors, all measured in this run: streaming of packed weights
// against the read bandwidth over as many bytes, and long products against oneDNN's.
//
//   matmul_bench [--threads N] [--isa NAME] [--large-mb N] [--rounds N]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/measure.h"
#include "kernels/dtype_convert.h"
#include "tests/bench/onednn_matmul.h"

namespace convoke::cpu {
namespace {

struct Shape {
  int64_t inputs, outputs;
  int groups;
};

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// A chain of matrices, as one decoding pass reads them, and room for its inputs and outputs.
class Chain {
 public:
  Chain(Backend& backend, const std::vector<Shape>& shapes, int64_t max_rows) : backend_(backend) {
    int64_t most_inputs = 0, most_outputs = 0;
    for (const Shape& shape : shapes) {
      most_inputs = std::max(most_inputs, shape.inputs);
      most_outputs = std::max(most_outputs, shape.outputs);
    }
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<uint16_t> pool(size_t(1) << 20);
    for (uint16_t& value : pool) value = float_to_bf16(normal(random));
    for (const Shape& shape : shapes) {
      std::vector<uint16_t> values(size_t(shape.inputs * shape.outputs));
      for (size_t i = 0; i < values.size(); i += pool.size()) {
        std::memcpy(&values[i], pool.data(), 2 * std::min(pool.size(), values.size() - i));
      }
      matrices_.push_back(
          backend.pack({.parts = {TensorView::matrix(values.data(), DType::kBFloat16, shape.outputs,
                                                     shape.inputs)},
                        .dtype = DType::kBFloat16,
                        .groups = shape.groups}));
      bytes_ += matrices_.back()->bytes();
      operations_ += 2.0 * double(shape.inputs) * double(shape.outputs);
    }
    x_ = backend.allocate(size_t(max_rows * most_inputs) * 2);
    y_ = backend.allocate(size_t(max_rows * most_outputs) * 4);
    std::memset(y_->data(), 0, y_->bytes());
    for (size_t i = 0; i < x_->bytes() / 2; ++i) {
      static_cast<uint16_t*>(x_->data())[i] = pool[i % pool.size()];
    }
  }

  size_t bytes() const { return bytes_; }
  double operations(int64_t rows) const { return operations_ * double(rows); }

  /// Seconds of one pass, as one program.
  double pass(int64_t rows) {
    const double start = now();
    backend_.run([&](Stream& stream) {
      for (const auto& matrix : matrices_) {
        backend_.matmul(
            stream,
            {.x = TensorView::matrix(x_->data(), DType::kBFloat16, rows, matrix->inputs()),
             .weights = matrix.get(),
             .bias = nullptr,
             .y = TensorView::matrix(y_->data(), DType::kFloat32, rows, matrix->outputs())});
      }
    });
    return now() - start;
  }

 private:
  Backend& backend_;
  std::vector<std::unique_ptr<PackedMatrix>> matrices_;
  std::unique_ptr<Buffer> x_, y_;
  size_t bytes_ = 0;
  double operations_ = 0;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void bench_streaming(Backend& backend, const std::string& title, const std::vector<Shape>& shapes,
                     double matmul_rate, int rounds) {
  const std::vector<int64_t> row_counts = {1, 2, 4, 8, 16, 32, 64};
  Chain chain(backend, shapes, row_counts.back());
  chain.pass(1);
  // Bandwidth before and after, rows interleaved: drift of the machine falls on all alike.
  double bandwidth = measure_read_bandwidth(backend, chain.bytes());
  std::vector<std::vector<double>> seconds(row_counts.size());
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < row_counts.size(); ++i) seconds[i].push_back(chain.pass(row_counts[i]));
  }
  bandwidth = std::max(bandwidth, measure_read_bandwidth(backend, chain.bytes()));

  fmt::print("\n{}: {:.1f} MB of weights, read bandwidth {:.1f} GB/s\n", title,
             double(chain.bytes()) / 1e6, bandwidth / 1e9);
  fmt::print("  rows   best ms  median ms    GB/s  of floor   x 1 row\n");
  const double one_row = *std::min_element(seconds[0].begin(), seconds[0].end());
  for (size_t i = 0; i < row_counts.size(); ++i) {
    const double best = *std::min_element(seconds[i].begin(), seconds[i].end());
    const double floor =
        std::max(double(chain.bytes()) / bandwidth, chain.operations(row_counts[i]) / matmul_rate);
    fmt::print("  {:4}  {:8.3f}   {:8.3f}  {:6.1f}   {:5.1f} %     {:5.2f}\n", row_counts[i],
               best * 1e3, median(seconds[i]) * 1e3, double(chain.bytes()) / best / 1e9,
               100 * floor / best, best / one_row);
  }
}

template <typename Run>
double best_of_a_turn(Run&& run) {
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  double best = 1e9;
  for (int i = 0; i < 6; ++i) {
    const double start = now();
    run();
    best = std::min(best, now() - start);
  }
  return best;
}

void bench_prompts(Backend& backend, int threads, int rounds) {
  constexpr int64_t kRows = 512;
  fmt::print("\n512 rows against oneDNN, GFLOP/s (best of {})\n", rounds);
  fmt::print("  inputs  outputs  groups      ours   oneDNN    ratio\n");
  for (const Shape& shape : {Shape{4096, 4096, 1}, Shape{4096, 4096, 8}, Shape{2048, 8192, 1},
                             Shape{8192, 2048, 8}, Shape{512, 1024, 1}, Shape{512, 512, 8},
                             Shape{512, 2048, 1}, Shape{1024, 512, 8}, Shape{512, 4096, 1}}) {
    Chain chain(backend, {shape}, kRows);
    const auto theirs = make_onednn_matmul(kRows, shape.inputs, shape.outputs, threads);
    double best_ours = 1e9, best_theirs = 1e9;
    // In turns of a few runs, with a pause between: the waiting threads of either side keep a
    // processor busy for a while.
    for (int round = 0; round < rounds; ++round) {
      best_ours = std::min(best_ours, best_of_a_turn([&] { chain.pass(kRows); }));
      if (theirs) best_theirs = std::min(best_theirs, best_of_a_turn([&] { theirs->run(); }));
    }
    const double operations = chain.operations(kRows) / 1e9;
    fmt::print("  {:6}  {:7}  {:6}  {:8.0f} {:8.0f}   {:6.2f}\n", shape.inputs, shape.outputs,
               shape.groups, operations / best_ours, theirs ? operations / best_theirs : 0.0,
               theirs ? best_theirs / best_ours : 0.0);
  }
}

std::vector<Shape> demo_shapes() {
  std::vector<Shape> shapes;
  for (int layer = 0; layer < 10; ++layer) {
    shapes.insert(shapes.end(), {{512, 1024, 1}, {512, 512, 8}, {512, 2048, 1}, {1024, 512, 8}});
  }
  shapes.push_back({512, 4096, 1});
  return shapes;
}

}  // namespace
}  // namespace convoke::cpu

int main(int argc, char** argv) {
  using namespace convoke::cpu;
  CLI::App app("Matrix products of the CPU backend against their floors");
  int threads = 2, rounds = 30;
  size_t large_mb = 1024;
  std::string isa = "all";
  app.add_option("--threads", threads, "threads of the team")->capture_default_str();
  app.add_option("--isa", isa, "one instruction set, or all that this machine has");
  app.add_option("--large-mb", large_mb, "size of the chain of 4096 x 4096 matrices, MB");
  app.add_option("--rounds", rounds, "repetitions")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  try {
    for (Isa path : {Isa::kAmxBf16, Isa::kAvx512Bf16, Isa::kAvx2, Isa::kPortable}) {
      if (path > best_isa() || (isa != "all" && path != parse_isa(isa))) continue;
      const auto backend = make_cpu_backend({.threads = threads, .isa = path});
      const double rate = measure_matmul_rate(*backend);
      fmt::print("\n=== {}: {:.0f} GFLOP/s bfloat16 matrix-product rate\n", backend->describe(),
                 rate / 1e9);
      bench_streaming(*backend, "demo model", demo_shapes(), rate, rounds * 4);
      bench_streaming(*backend, "4096 x 4096",
                      std::vector<Shape>(large_mb / 32, Shape{4096, 4096, 1}), rate,
                      std::max(rounds / 4, 3));
      bench_prompts(*backend, threads, path < Isa::kAvx512Bf16 ? 1 : rounds / 3);
    }
  } catch (const convoke::Error& error) {
    fmt::print(stderr, "matmul_bench: {}\n", error.what());
    return 1;
  }
  return 0;
}
