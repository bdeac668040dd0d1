// Passes of one shard over a few rows against the floors of the machine, without actors around it:
//   pass_bench --model DIR [--load-format dummy] [--rows 1,4,8] [--context N] [--rounds N]
//              [--device cuda]
//
// Row counts take turns with sweeps through memory and a large product, `passes` of each at a time:
// the caches hold what they hold in a decode loop, except for the first few, which are left out: a
// large last cache still has a part of what was read in another order. The fastest tenth counts on
// both sides, so that other load on the machine disturbs the ratio little. The digest covers the
// logits of every row: two builds that print the same compute the same bits. On a GPU the floor is
// that of the bytes alone, at the bandwidth of copies within its memory.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <limits>

#include "kernels/cpu/measure.h"
#include "launcher/replica.h"

namespace convoke {
namespace {

using Clock = std::chrono::steady_clock;

double fast_tenth(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 10];
}

struct Shape {
  int rows = 0;
  std::vector<double> seconds;
  uint64_t digest = 0;
};

class Bench {
 public:
  Bench(const EngineOptions& options, int context)
      : setup_(prepare_replica(options, 1, 1)),
        rank_(setup_, make_single_communicator(setup_.communicator_options())) {
    StepPlan plan;
    SamplingParams greedy;
    greedy.temperature = 0;
    plan.opened.push_back({0, 1, context, greedy});
    SequenceRows& rows = plan.sequences.emplace_back();
    for (int i = 0; i < context; ++i) rows.chain.push_back((7 + 13 * i) % setup_.config.vocabulary);
    for (int i = 0; i * kKvBlockSize < context + kMaxRows; ++i) rows.new_blocks.push_back(i);
    rank_.executor().execute(plan, result_);
    context_ = context;
  }

  /// The pending token and a tree of rows - 1 nodes, each the child of the node (its number - 1)
  /// / 4: always the same rows, of which nothing is committed. Returns its seconds.
  double pass(Shape& shape) {
    StepPlan plan;
    SequenceRows& rows = plan.sequences.emplace_back();
    rows.chain = {5};
    rows.context = context_;
    rows.pick = true;
    for (int i = 0; i + 1 < shape.rows; ++i) {
      rows.tree.nodes.push_back({i == 0 ? -1 : (i - 1) / 4, 11 + i, false});
    }
    const Clock::time_point start = Clock::now();
    rank_.executor().execute(plan, result_);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    shape.digest = 0;
    for (const Pick& pick : result_.sequences[0].picks) {
      shape.digest = shape.digest * 0x9e3779b97f4a7c15u + pick.digest;
    }
    return seconds;
  }

  void measure_machine(int sweeps) {
    if (on_device()) return measure_device();
    if (memory_ == nullptr) {
      yardstick_ = cpu::make_cpu_backend({.threads = setup_.threads, .isa = setup_.isa});
      memory_ = std::make_unique<cpu::ReadYardstick>(*yardstick_, weight_bytes());
      arithmetic_ = std::make_unique<cpu::MatmulYardstick>(*yardstick_);
    }
    products_.push_back(arithmetic_->product());
    for (int i = 0; i < kWarmUp; ++i) memory_->sweep();
    for (int i = 0; i < sweeps; ++i) sweeps_.push_back(memory_->sweep());
  }

  void measure_device() {
    Backend& backend = rank_.backend();
    const auto from = backend.allocate(kCopyBytes), to = backend.allocate(kCopyBytes);
    const auto view = [](const Buffer& memory) {
      return TensorView::matrix(memory.data(), DType::kFloat32, 1, kCopyBytes / 4);
    };
    for (int i = 0; i < 1 + kWarmUp; ++i) {
      const Clock::time_point start = Clock::now();
      backend.run([&](Stream& stream) {
        for (int n = 0; n < kCopies; ++n) backend.copy(stream, view(*from), view(*to));
      });
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      if (i > 0) sweeps_.push_back(seconds);
    }
  }

  double floor(int rows) const {
    const ModelConfig& c = setup_.config;
    const double q = double(c.heads) * c.head_dim, kv = double(c.kv_heads) * c.head_dim;
    const double layer = c.hidden * (2 * q + 2 * kv) + 3.0 * c.hidden * double(c.intermediate);
    const double operations = 2.0 * (c.layers * layer + double(c.vocabulary) * c.hidden);
    return std::max(double(weight_bytes()) / bandwidth(), operations * rows / rate());
  }

  size_t weight_bytes() const { return size_t(rank_.weight_bytes()); }
  double bandwidth() const {
    const double bytes = on_device() ? 2.0 * kCopies * kCopyBytes : double(memory_->bytes());
    return bytes / fast_tenth(sweeps_);
  }
  double rate() const {
    if (on_device()) return std::numeric_limits<double>::infinity();
    return arithmetic_->operations() / fast_tenth(products_);
  }
  static constexpr int kMaxRows = 64;
  static constexpr int kWarmUp = 4;

 private:
  static constexpr int64_t kCopyBytes = int64_t{256} << 20;
  static constexpr int kCopies = 16;
  bool on_device() const { return setup_.device == ShardDevice::kCuda; }

  ReplicaSetup setup_;
  ShardRank rank_;
  std::unique_ptr<Backend> yardstick_;
  std::unique_ptr<cpu::ReadYardstick> memory_;
  std::unique_ptr<cpu::MatmulYardstick> arithmetic_;
  std::vector<double> sweeps_, products_;
  StepResult result_;
  int context_ = 0;
};

int run(int argc, char** argv) {
  CLI::App app("Time of passes over a few rows, against the machine's floors.");
  EngineOptions options;
  std::string rows = "1,4,8,16,32";
  int context = 64, rounds = 10, passes = 16;
  bool machine = true;
  app.add_option("--model", options.model)->required();
  app.add_option("--load-format", options.load_format);
  app.add_option("--device", options.device);
  app.add_option("--max-model-len", options.max_model_len);
  app.add_option("--cpu-isa", options.cpu_isa);
  app.add_option("--threads", options.threads);
  app.add_option("--rows", rows);
  app.add_option("--context", context);
  app.add_option("--rounds", rounds);
  app.add_option("--passes", passes, "of each row count, per round");
  app.add_option("--floor", machine, "0: do not measure the machine");
  CLI11_PARSE(app, argc, argv);
  options.max_num_seqs = 1;
  options.max_batched_tokens = std::max(options.max_batched_tokens, context);  // one pass
  Bench bench(options, context);
  std::vector<Shape> shapes;
  for (const std::string& text : CLI::detail::split(rows, ',')) {
    shapes.push_back({.rows = std::clamp(std::stoi(text), 1, Bench::kMaxRows)});
  }
  for (int round = 0; round < rounds; ++round) {
    if (machine) bench.measure_machine(passes);
    for (Shape& shape : shapes) {
      for (int i = 0; i < Bench::kWarmUp + passes; ++i) {
        const double seconds = bench.pass(shape);
        if (i >= Bench::kWarmUp) shape.seconds.push_back(seconds);
      }
    }
  }
  if (machine) {
    fmt::print("{:.1f} GB/s, {:.0f} GFLOP/s\n", bench.bandwidth() * 1e-9, bench.rate() * 1e-9);
  }
  for (const Shape& shape : shapes) {
    const double ms = fast_tenth(shape.seconds) * 1e3;
    fmt::print("{:3} rows {:8.3f} ms", shape.rows, ms);
    if (machine) fmt::print("  {:5.1f} % of floor", bench.floor(shape.rows) * 1e5 / ms);
    fmt::print("  digest {:016x}\n", shape.digest);
  }
  return 0;
}

}  // namespace
}  // namespace convoke

int main(int argc, char** argv) {
  return convoke::run(argc, argv);
}
