// All tensor-parallel ranks of a replica inside a test, without actors: weights, executors, and a
// scheduler loop that runs requests to their ends.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "launcher/replica.h"
#include "runtime/scheduler.h"

namespace convoke::testing {

struct ReplicaShape {
  int tp = 1;
  int threads = 1;
  std::string isa = "auto";
  std::string load_format = "auto";
  std::string dtype = "auto";
  int max_sequences = 16;
  int max_rows = 512;
  int prompt_chunk = 0;
  int64_t kv_cache_tokens = 0;
  int probe_candidates = 0;
  FeatureSpec features;
  /// Look-ahead embedding i is that of this vocabulary token.
  std::vector<int32_t> lookahead_tokens;
  /// Not empty: what shards compute on instead of the CPU, in weights of `storage`.
  std::function<std::unique_ptr<Backend>()> make_backend;
  DType storage = DType::kBFloat16;
  /// Not empty: how the shards add up, instead of through host memory.
  std::function<std::unique_ptr<Communicator>(Backend&, std::unique_ptr<Communicator>)>
      make_communicator;
};

/// What a request produced; equal outcomes are equal to the bit.
struct Outcome {
  std::vector<int32_t> tokens;
  std::vector<uint64_t> digests;                ///< of the logits that picked each token
  std::vector<std::vector<int32_t>> top;        ///< ids of the most likely tokens, if asked for
  std::vector<std::vector<uint32_t>> top_bits;  ///< bits of their log-probabilities
  bool operator==(const Outcome&) const = default;
};

struct TestRequest {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
};

/// Every penalty, filter and limit at once.
void use_every_processor(SamplingParams& sampling);

class TestReplica {
 public:
  TestReplica(const std::filesystem::path& model, const ReplicaShape& shape);
  ~TestReplica();

  const ModelConfig& config() const { return setup_.config; }
  ShardExecutor& executor(int rank);
  Backend& backend(int rank);
  SharedWeights shared_weights() const;               ///< of rank 0
  std::shared_ptr<FeatureRing> feature_ring() const;  ///< likewise
  /// Executes one plan on all ranks; the result is rank 0's.
  void execute(const StepPlan& plan, StepResult& result);

  /// A tree for a sequence with these tokens, or nothing. Called once per decoding step.
  using TreeSource = std::function<DraftTree(SequenceId id, std::span<const int32_t> tokens)>;
  std::vector<Outcome> run(const std::vector<TestRequest>& requests, const TreeSource& trees = {});
  /// With a drafter that is told what became of its trees, and given the features that the shape
  /// asks for. `keep`: how many nodes of a tree take
  /// part; negative: the tree comes late. Empty: all.
  std::vector<Outcome> run(const std::vector<TestRequest>& requests, Drafter& drafter,
                           const DraftLimits& limits,
                           const std::function<int(const DraftTree&)>& keep = {});
  /// Of the last run.
  int64_t accepted() const { return accepted_; }
  int64_t preemptions() const { return preemptions_; }
  int64_t steps() const { return steps_; }

  /// Logits of the rows of one prompt, computed in chunks of `chunk` rows: [rows][vocabulary].
  std::vector<std::vector<float>> logits(const std::vector<int32_t>& tokens, int chunk);

 private:
  struct Rank;
  using TreeLookup = Scheduler::TreeLookup;
  using AfterStep =
      std::function<void(std::span<const Progress>, const Scheduler&, const StepResult&)>;
  std::vector<Outcome> run(const std::vector<TestRequest>& requests,
                           const std::function<TreeLookup(const Scheduler&)>& before_step,
                           const AfterStep& after_step);
  std::shared_ptr<const DraftSupport> support_of(const ReplicaShape& shape) const;
  void on_all_ranks(const std::function<void(Rank&)>& work);

  ReplicaSetup setup_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  int64_t accepted_ = 0, preemptions_ = 0, steps_ = 0;
};

/// Trees that adversarially mix truth and nonsense: half of the paths follow `truth` (the tokens
/// that plain decoding gave for each request), the rest is random, with probes and equal siblings.
TestReplica::TreeSource mixed_trees(const std::vector<TestRequest>& requests,
                                    const std::vector<Outcome>& truth, int vocabulary,
                                    uint32_t seed);

/// The tensor-parallel sizes that a model can be cut into.
std::vector<int> possible_tp(const ModelConfig& config);

}  // namespace convoke::testing
