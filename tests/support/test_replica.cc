#include "tests/support/test_replica.h"

#include <bit>
#include <map>
#include <random>
#include <thread>

#include "kernels/check.h"
#include "kernels/dtype_convert.h"

namespace convoke::testing {

struct TestReplica::Rank {
  Rank(const ReplicaSetup& setup, std::unique_ptr<Communicator> communicator)
      : shard(setup, std::move(communicator)) {}
  ShardRank shard;
  StepResult result;
};

TestReplica::TestReplica(const std::filesystem::path& model, const ReplicaShape& shape) {
  EngineOptions options;
  options.model = model;
  options.device = "cpu";
  options.cpu_isa = shape.isa;
  options.load_format = shape.load_format;
  options.dtype = shape.dtype;
  options.threads = shape.threads * shape.tp;
  options.max_num_seqs = shape.max_sequences;
  options.max_batched_tokens = shape.max_rows;
  options.prompt_chunk = shape.prompt_chunk;
  options.kv_cache_tokens = shape.kv_cache_tokens;
  options.drafter.limits.max_nodes = 32;
  setup_ = prepare_replica(options, shape.tp, shape.tp);
  if (shape.make_backend) {
    setup_.make_backend = shape.make_backend;
    setup_.dtype = shape.storage;
  }
  setup_.make_communicator = shape.make_communicator;
  setup_.draft_setup->set(support_of(shape));
  auto communicators = make_thread_communicators(shape.tp, setup_.communicator_options());
  ranks_.resize(size_t(shape.tp));
  std::vector<std::jthread> loading;
  for (int r = 0; r < shape.tp; ++r) {
    loading.emplace_back([&, r] {
      ranks_[size_t(r)] = std::make_unique<Rank>(setup_, std::move(communicators[size_t(r)]));
    });
  }
}

TestReplica::~TestReplica() = default;

std::shared_ptr<const DraftSupport> TestReplica::support_of(const ReplicaShape& shape) const {
  auto support = std::make_shared<DraftSupport>();
  support->needs.features = shape.features;
  support->needs.probe_candidates = shape.probe_candidates;
  support->needs.lookahead_count = int(shape.lookahead_tokens.size());
  if (shape.lookahead_tokens.empty()) return support;
  const TensorView table = setup_.source->tensor("model.embed_tokens.weight");
  LookaheadTable& lookahead = support->lookahead;
  lookahead.count = support->needs.lookahead_count;
  lookahead.hidden = setup_.config.hidden;
  for (int32_t token : shape.lookahead_tokens) {
    for (int64_t c = 0; c < table.cols; ++c) {
      const uint16_t bits = table.row<uint16_t>(token)[c];
      lookahead.values.push_back(table.dtype == DType::kFloat32    ? table.row<float>(token)[c]
                                 : table.dtype == DType::kBFloat16 ? bf16_to_float(bits)
                                                                   : fp16_to_float(bits));
    }
  }
  return support;
}

void TestReplica::on_all_ranks(const std::function<void(Rank&)>& work) {
  std::vector<std::jthread> others;
  for (size_t r = 1; r < ranks_.size(); ++r) {
    others.emplace_back([&, r] { work(*ranks_[r]); });
  }
  work(*ranks_[0]);
}

ShardExecutor& TestReplica::executor(int rank) {
  return ranks_[size_t(rank)]->shard.executor();
}

Backend& TestReplica::backend(int rank) {
  return ranks_[size_t(rank)]->shard.backend();
}

SharedWeights TestReplica::shared_weights() const {
  return ranks_[0]->shard.shared_weights();
}

std::shared_ptr<FeatureRing> TestReplica::feature_ring() const {
  return ranks_[0]->shard.feature_ring();
}

void TestReplica::execute(const StepPlan& plan, StepResult& result) {
  on_all_ranks([&](Rank& rank) { rank.shard.executor().execute(plan, rank.result); });
  result = ranks_[0]->result;
}

std::vector<Outcome> TestReplica::run(const std::vector<TestRequest>& requests,
                                      const TreeSource& trees) {
  DraftTree tree;
  const auto before_step = [&](const Scheduler& scheduler) {
    return [&](SequenceId id, int32_t) -> const DraftTree* {
      if (!trees) return nullptr;
      tree = trees(id, scheduler.tokens(id));
      return &tree;
    };
  };
  return run(requests, before_step, {});
}

namespace {

/// Tells the drafter what became of the plan's sequence `i`, with the features of the rows that
/// were committed: the chain, then the accepted nodes.
void advance(Drafter& drafter, DraftVerdict& verdict, const StepResult& result,
             const SequenceRows& rows, size_t i, std::span<const int32_t> accepted) {
  const TensorView& all = result.features;
  std::vector<std::byte> bytes;
  if (all.rows > 0) {
    const auto first = int64_t(result.sequences[i].first_row), chain = int64_t(rows.chain.size());
    const auto append = [&](int64_t row) {
      const auto* const at = all.row<std::byte>(row);
      bytes.insert(bytes.end(), at, at + size_t(all.cols) * dtype_size(all.dtype));
    };
    for (int64_t r = 0; r < chain; ++r) append(first + r);
    for (const int32_t node : accepted) append(first + chain + node);
    verdict.feature_begin = rows.context;
    verdict.features =
        TensorView::matrix(bytes.data(), all.dtype, chain + int64_t(accepted.size()), all.cols);
  }
  drafter.advance(verdict);
}

}  // namespace

std::vector<Outcome> TestReplica::run(const std::vector<TestRequest>& requests, Drafter& drafter,
                                      const DraftLimits& limits,
                                      const std::function<int(const DraftTree&)>& keep) {
  for (size_t i = 0; i < requests.size(); ++i) {
    drafter.open({SequenceId(i), requests[i].prompt, int32_t(requests[i].prompt.size()),
                  requests[i].sampling});
  }
  std::map<SequenceId, DraftTree> proposed;
  const auto before_step = [&](const Scheduler& scheduler) {
    proposed.clear();
    const std::span<const SequenceId> ids = scheduler.decoding();
    std::vector<DraftTree> trees = drafter.propose(ids, limits);
    for (size_t i = 0; i < ids.size(); ++i) {
      const int kept = keep ? keep(trees[i]) : trees[i].size();
      if (kept < 0) continue;
      truncate(trees[i], kept, trees[i].size());
      proposed[ids[i]] = std::move(trees[i]);
    }
    return [&](SequenceId id, int32_t) -> const DraftTree* {
      const auto tree = proposed.find(id);
      return tree == proposed.end() ? nullptr : &tree->second;
    };
  };
  const auto after_step = [&](std::span<const Progress> done, const Scheduler& scheduler,
                              const StepResult& result) {
    const StepPlan& plan = scheduler.last_plan();
    for (const Progress& p : done) {
      if (p.end != SequenceEnd::kNone) {
        drafter.close(p.id);
        continue;
      }
      DraftVerdict verdict{.id = p.id, .base_length = p.base_length, .verified = p.verified};
      for (const CommittedToken& t : p.tokens) verdict.tokens.push_back(t.token);
      for (const ProbePicks& probe : p.probes) {
        verdict.probes.push_back(
            {probe.node, probe.pick, {probe.ranked.begin(), probe.ranked.end()}});
      }
      const auto i = size_t(p.sequence);
      advance(drafter, verdict, result, plan.sequences[i], i, p.accepted_nodes);
    }
    // Parts of prompts pick nothing, and have features.
    for (size_t i = 0; result.features.rows > 0 && i < plan.sequences.size(); ++i) {
      if (!result.sequences[i].picks.empty()) continue;
      const SequenceId id = scheduler.planned()[i];
      DraftVerdict verdict{.id = id, .base_length = int32_t(scheduler.tokens(id).size())};
      advance(drafter, verdict, result, plan.sequences[i], i, {});
    }
  };
  return run(requests, before_step, after_step);
}

std::vector<Outcome> TestReplica::run(
    const std::vector<TestRequest>& requests,
    const std::function<TreeLookup(const Scheduler&)>& before_step, const AfterStep& after_step) {
  Scheduler scheduler(setup_.scheduler_options());
  std::vector<Outcome> outcomes(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    scheduler.add(SequenceId(i), requests[i].prompt, requests[i].sampling);
  }
  accepted_ = preemptions_ = steps_ = 0;
  StepResult result;
  while (!scheduler.idle()) {
    execute(scheduler.plan(before_step(scheduler)), result);
    ++steps_;
    const std::span<const Progress> done = scheduler.commit(result);
    for (const Progress& p : done) {
      Outcome& outcome = outcomes[size_t(p.id)];
      for (const CommittedToken& t : p.tokens) {
        outcome.tokens.push_back(t.token);
        outcome.digests.push_back(t.digest);
        if (t.logprobs == nullptr) continue;
        auto& top = outcome.top.emplace_back();
        auto& bits = outcome.top_bits.emplace_back();
        for (const TokenLogprob& l : *t.logprobs) {
          top.push_back(l.token);
          bits.push_back(std::bit_cast<uint32_t>(l.logprob));
        }
      }
      accepted_ += p.accepted;
      preemptions_ = std::max(preemptions_, p.preemptions);
    }
    if (after_step) after_step(done, scheduler, result);
  }
  // Places stay open on the shards until the next plan: tell them.
  execute(scheduler.plan({}), result);
  scheduler.commit(result);
  return outcomes;
}

std::vector<std::vector<float>> TestReplica::logits(const std::vector<int32_t>& tokens, int chunk) {
  const auto total = int(tokens.size());
  const ModelConfig& config = setup_.config;
  std::vector<std::vector<float>> out(tokens.size(), std::vector<float>(size_t(config.vocabulary)));
  on_all_ranks([&](Rank& rank) {
    // A pass of its own, beside the executor: own cache, own workspace.
    Communicator& communicator = rank.shard.communicator();
    const ShardPlan plan =
        make_shard_plan(config.extents(), communicator.size(), communicator.rank());
    KvCache cache(rank.shard.backend(), config.layers,
                  {int(plan.local_kv_heads()), config.head_dim,
                   rank.shard.weights().lm_head->activation_dtype()},
                  blocks_for(total));
    Transformer transformer(rank.shard.backend(), communicator, config, plan, rank.shard.weights(),
                            chunk, 1);
    std::vector<float> picked(size_t(kLogitRows * plan.vocabulary.size()));
    std::vector<int32_t> blocks;
    for (int b = blocks_for(total) - 1; b >= 0; --b) blocks.push_back(b);  // not in order
    const std::vector<const int32_t*> tables{blocks.data()};
    for (int begin = 0; begin < total; begin += chunk) {
      const int rows = std::min(chunk, total - begin);
      std::vector<int32_t> position, context, wanted;
      for (int i = 0; i < rows; ++i) {
        position.push_back(begin + i);
        context.push_back(begin + i + 1);
        wanted.push_back(i);
      }
      const std::vector<int32_t> sequence(size_t(rows), 0), path_begin(size_t(rows) + 1, 0);
      const AttentionBatch batch{rows,    sequence,   position, position,
                                 context, path_begin, {},       tables};
      Backend& backend = rank.shard.backend();
      const PassArrays arrays{
          .tokens = std::span(tokens).subspan(size_t(begin), size_t(rows)),
          .batch = &batch,
          .rows = {std::span<const int32_t>(wanted)},
      };
      backend.run(arrays, [&](Stream& stream) {
        transformer.forward(stream, arrays.tokens, batch, cache);
        for (int first = 0; first < rows; first += kLogitRows) {
          const int count = std::min(kLogitRows, rows - first);
          const TensorView view =
              transformer.logits(stream, std::span(wanted).subspan(size_t(first), size_t(count)));
          const TensorView copy =
              TensorView::matrix(picked.data(), DType::kFloat32, count, view.cols);
          backend.copy(stream, view, copy);
          cpu::CpuStream& team = stream.host();
          for (int i = 0; team.index() == 0 && i < count; ++i) {
            std::copy_n(copy.row<float>(i), view.cols,
                        out[size_t(begin + first + i)].begin() + plan.vocabulary.begin);
          }
          team.barrier();
        }
      });
    }
  });
  return out;
}

TestReplica::TreeSource mixed_trees(const std::vector<TestRequest>& requests,
                                    const std::vector<Outcome>& truth, int vocabulary,
                                    uint32_t seed) {
  auto random = std::make_shared<std::mt19937>(seed);
  return [=, &requests, &truth](SequenceId id, std::span<const int32_t> tokens) {
    auto& draw = *random;
    const auto& known = truth[size_t(id)].tokens;
    const size_t done = tokens.size() - requests[size_t(id)].prompt.size();
    DraftTree tree;
    std::vector<size_t> depth;   // of each node
    std::vector<bool> on_truth;  // the node's path is what plain decoding gave
    const int size = int(draw() % 14);
    for (int n = 0; n < size; ++n) {
      const int parent = int(draw() % unsigned(tree.size() + 1)) - 1;
      if (parent >= 0 && tree.nodes[size_t(parent)].probe) continue;
      const size_t level = parent < 0 ? 0 : depth[size_t(parent)] + 1;
      const bool parent_true = parent < 0 || on_truth[size_t(parent)];
      const bool tell = draw() % 2 == 0 && done + level < known.size();
      const int32_t token = tell ? known[done + level] : int32_t(draw() % unsigned(vocabulary));
      const bool probe = draw() % 8 == 0;
      tree.nodes.push_back({parent, token, probe});
      depth.push_back(level);
      on_truth.push_back(parent_true && tell && !probe);
    }
    return tree;
  };
}

void use_every_processor(SamplingParams& sampling) {
  sampling.temperature = 0.8f;
  sampling.top_p = 0.95f;
  sampling.top_k = 20;
  sampling.min_p = 0.01f;
  sampling.repetition_penalty = 1.2f;
  sampling.presence_penalty = 0.3f;
  sampling.frequency_penalty = 0.2f;
  sampling.logit_bias = {{3, 1.5f}, {7, -2.0f}};
  sampling.min_tokens = 5;
  sampling.stop_tokens = {9, 11};
  sampling.logprobs = 3;
}

std::vector<int> possible_tp(const ModelConfig& config) {
  std::vector<int> sizes;
  for (int tp : {1, 2, 4, 8}) {
    try {
      make_shard_plan(config.extents(), tp, 0);
      sizes.push_back(tp);
    } catch (const Error&) {
    }
  }
  return sizes;
}

}  // namespace convoke::testing
