#include "launcher/floor.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/measure.h"

namespace convoke {
namespace {

constexpr int kRounds = 5;
constexpr int kTokens = 24;        // passes per round and row count
constexpr int kPromptTokens = 32;  // short: the floor counts weights, not the cache
constexpr std::chrono::seconds kPatience{120};

// Seconds of one pass, averaged over the decode steps of one request.
double time_passes(Engine& engine, uint64_t request) {
  SubmitRequest submit;
  submit.request = request;
  for (int i = 0; i < kPromptTokens; ++i) {
    submit.prompt.push_back((7 + 13 * i) % engine.config().vocabulary);
  }
  submit.sampling.temperature = 0;
  submit.sampling.ignore_eos = true;
  submit.sampling.max_tokens = kTokens;
  engine.submit(submit);
  const Clock::time_point deadline = Clock::now() + kPatience;
  while (auto output = engine.receive(deadline)) {
    if (output->finish == FinishReason::kNone) continue;
    if (output->finish == FinishReason::kError) throw Error(ErrorKind::kPeer, output->error);
    const RequestStats& s = output->stats;
    return (s.target_seconds + s.communication_seconds) /
           double(std::max<int64_t>(1, s.decode_steps));
  }
  throw_error(ErrorKind::kTimeout, "measuring a pass took more than {} s", kPatience.count());
}

/// Trees of exactly so many nodes, whatever they are worth.
DrafterSpec fan_of(int nodes) {
  DrafterSpec spec = DrafterSpec::parse(nodes == 0 ? "none" : fmt::format("fan:{}", nodes));
  spec.auto_size = false;
  spec.limits.max_nodes = nodes;
  return spec;
}

template <class Measure>
double mean_of(int count, Measure&& measure) {
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += measure();
  return sum / count;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// Multiply-adds of one row through all weight matrices.
double operations_per_row(const ModelConfig& c) {
  const double q = double(c.heads) * c.head_dim;
  const double kv = double(c.kv_heads) * c.head_dim;
  const double layer = c.hidden * (2 * q + 2 * kv) + 3.0 * c.hidden * double(c.intermediate);
  return 2.0 * (c.layers * layer + double(c.vocabulary) * c.hidden);
}

}  // namespace

FloorReport measure_floor(Engine& engine, const ReplicaSetup& setup,
                          std::span<const int> row_counts) {
  FloorReport report;
  report.bytes_per_pass = engine.info().weight_bytes_per_pass;
  std::vector<std::vector<double>> seconds(row_counts.size());
  std::vector<double> sweep, product;
  const auto backend =
      cpu::make_cpu_backend({.threads = setup.threads * setup.tp, .isa = setup.isa});
  cpu::ReadYardstick memory(*backend, size_t(report.bytes_per_pass));
  cpu::MatmulYardstick arithmetic(*backend);
  uint64_t request = uint64_t{1} << 62;  // apart from the caller's ids
  // By turns and in like portions, so that a slow moment of the machine hits everything alike.
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < row_counts.size(); ++i) {
      memory.sweep();  // after passes the last cache holds another order of reading
      sweep.push_back(mean_of(kTokens, [&] { return memory.sweep(); }));
      product.push_back(arithmetic.product());
      engine.use_drafter(fan_of(row_counts[i] - 1));
      seconds[i].push_back(time_passes(engine, request++));
    }
  }
  // Means of a portion, and medians of the portions, on both sides of the ratio.
  const double bytes_per_second = double(memory.bytes()) / median(sweep);
  const double operations_per_second = arithmetic.operations() / median(product);
  report.read_bandwidth_gb_s = bytes_per_second * 1e-9;
  report.matmul_gflop_s = operations_per_second * 1e-9;
  for (size_t i = 0; i < row_counts.size(); ++i) {
    const double floor =
        std::max(double(report.bytes_per_pass) / bytes_per_second,
                 operations_per_row(setup.config) * row_counts[i] / operations_per_second);
    report.passes.push_back({row_counts[i], median(seconds[i]) * 1e3, floor * 1e3});
  }
  return report;
}

}  // namespace convoke
