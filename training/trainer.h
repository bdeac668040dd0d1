// The training loop: batches, optimizer steps, looks at held-out text, checkpoints.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "training/checkpoint.h"
#include "training/data/batch_order.h"
#include "training/data/corpus.h"
#include "training/objective.h"
#include "training/optimizer.h"
#include "training/train_options.h"

namespace convoke::training {

/// A look at the held-out texts.
struct Evaluation {
  int64_t step = 0;
  DraftScores scores;
  /// What is compared: expected tokens per pass of trees of four choices, the mean of greedy and
  /// sampled decoding.
  double score() const { return (scores.tree_length(false) + scores.tree_length(true)) / 2; }
};

struct StepReport {
  int64_t step = 0;  ///< done, of `steps`
  int64_t steps = 0;
  double loss = 0, learning_rate = 0, gradient_norm = 0;
  int64_t tokens = 0;  ///< of this step
};

/// Who is told how training goes.
struct TrainerEvents {
  std::function<void(const StepReport&)> stepped = [](const StepReport&) {};
  std::function<void(const Evaluation&, bool best)> evaluated = [](const Evaluation&, bool) {};
  std::function<bool()> interrupted = [] { return false; };
};

/// Deterministic: the weights after a step are a function of objective, corpus, options and the
/// number of threads; whether the run was interrupted between steps makes no difference.
class Trainer {
 public:
  /// `options.steps` is set. The references must outlive it.
  Trainer(Objective& objective, const TrainOptions& options, const TokenCorpus& train,
          const TokenCorpus& held_out, const Products& products,
          const std::filesystem::path& checkpoint);

  enum class End { kSteps, kPatience, kInterrupted };
  /// Goes on from the checkpoint if there is one. Afterwards the objective has the best weights
  /// seen, or the last ones where nothing was held out; interrupted, it has the last ones, and the
  /// checkpoint is up to date.
  End run(const TrainerEvents& events);

  const TrainState& state() const { return state_; }
  Evaluation evaluate();

 private:
  Batch make_batch(const TokenCorpus& corpus, std::span<const int64_t> sequences) const;
  StepReport step();
  /// Evaluates, keeps the weights if they are the best, tells whether patience is at its end.
  bool look(const TrainerEvents& events);

  Objective& objective_;
  const TrainOptions options_;
  const TokenCorpus& train_;
  const TokenCorpus& held_out_;
  const torch::Device device_;
  Checkpoint checkpoint_;
  BatchOrder order_;
  Optimizer optimizer_;
  TrainState state_;
  std::vector<Parameter> best_;
};

}  // namespace convoke::training
