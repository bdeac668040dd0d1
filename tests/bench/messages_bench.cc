// What messages cost: encoding and decoding, and a VerdictBatch answered with DraftTrees over each
// transport, between two threads. No models.
#include <benchmark/benchmark.h>

#include <atomic>
#include <thread>

#include "actors/codec.h"
#include "actors/drafter_actor.h"
#include "actors/zmq_transport.h"
#include "runtime/drafters/ngram.h"

namespace convoke {
namespace {

DraftTree chain_tree(int nodes) {
  DraftTree tree;
  for (int i = 0; i < nodes; ++i) tree.nodes.push_back({i - 1, i, false});
  return tree;
}

/// `rows` rows: sequences of one pending token and a tree of seven nodes.
StepPlan plan_of(int rows) {
  StepPlan plan;
  for (int i = 0; i < rows / 8; ++i) {
    SequenceRows& s = plan.sequences.emplace_back();
    s.place = i;
    s.commit = {0, 1, 2};
    s.context = 100;
    s.chain = {5};
    s.tree = chain_tree(7);
    s.pick = true;
  }
  return plan;
}

void encode_plan_bench(benchmark::State& state) {
  const StepPlan plan = plan_of(int(state.range(0)));
  std::vector<std::byte> bytes;
  for (auto _ : state) {
    encode_plan(plan, bytes);
    benchmark::DoNotOptimize(bytes.data());
  }
  state.counters["bytes"] = double(bytes.size());
}
BENCHMARK(encode_plan_bench)->Arg(32)->Arg(256);

void decode_plan_bench(benchmark::State& state) {
  std::vector<std::byte> bytes;
  encode_plan(plan_of(int(state.range(0))), bytes);
  StepPlan plan;
  for (auto _ : state) {
    if (!decode_plan(bytes, plan)) state.SkipWithError("malformed");
    benchmark::DoNotOptimize(plan.sequences.data());
  }
}
BENCHMARK(decode_plan_bench)->Arg(32)->Arg(256);

/// One verdict of three tokens there, one tree of 16 nodes back.
void round_trip(benchmark::State& state, const char* endpoint) {
  const auto mailbox = make_zmq_mailbox({endpoint});
  std::atomic<bool> stop{false};
  std::thread peer([&, where = mailbox->endpoints().front()] {
    const auto link = make_zmq_link(where);
    link->send(DrafterReady{"bench", 0});
    DraftTrees reply;
    reply.trees.push_back({1, 100, chain_tree(16)});
    while (!stop.load()) {
      const auto letter = link->receive(Clock::now() + std::chrono::milliseconds(100));
      if (!letter) continue;
      reply.step = std::get<VerdictBatch>(letter->message).step;
      link->send(reply);
    }
  });
  const auto deadline = [] { return Clock::now() + std::chrono::seconds(5); };
  const auto hello = mailbox->receive(deadline());
  VerdictBatch batch;
  batch.verdicts.push_back({1, 97, {1, 2, 3}, {}});
  batch.wanted = {1};
  for (auto _ : state) {
    ++batch.step;
    if (!mailbox->send(hello->from, batch) || !mailbox->receive(deadline())) {
      state.SkipWithError("no answer");
      break;
    }
  }
  stop.store(true);
  peer.join();
}
BENCHMARK_CAPTURE(round_trip, inproc, "inproc://bench")->UseRealTime();
BENCHMARK_CAPTURE(round_trip, ipc, "ipc://*")->UseRealTime();
BENCHMARK_CAPTURE(round_trip, tcp, "tcp://127.0.0.1:*")->UseRealTime();

/// The n-gram drafter on a context without end: a token appended, a tree proposed.
void ngram_step(benchmark::State& state) {
  NgramDrafter drafter({});
  DraftSequence sequence{1, {}, 0, {}};
  uint32_t noise = 1;
  const auto next = [&] { return int32_t((noise = noise * 1664525u + 1013904223u) >> 22); };
  for (int64_t i = 0; i < state.range(0); ++i) sequence.tokens.push_back(next());
  drafter.open(sequence);
  auto length = int32_t(sequence.tokens.size());
  const SequenceId id = 1;
  for (auto _ : state) {
    drafter.advance({1, length++, {next()}, {}});
    benchmark::DoNotOptimize(drafter.propose({&id, 1}, {16, 8}));
  }
}
BENCHMARK(ngram_step)->Arg(1000)->Arg(100000);

}  // namespace
}  // namespace convoke

BENCHMARK_MAIN();
