#include "training/trainer.h"

#include <torch/types.h>

#include <cmath>
#include <numeric>

#include "kernels/check.h"
#include "training/data/mix.h"
#include "training/tensor_file.h"

namespace convoke::training {
namespace {

// Apart from each other, and from what other seeds of the run are used for.
constexpr uint64_t kNoise = 0x6e6f697365;
constexpr uint64_t kHeldOutNoise = 0x68656c64;

OptimizerOptions optimizer_options(const TrainOptions& options,
                                   torch::Dtype products = torch::kFloat32) {
  return {.method = options.optimizer == "muon" ? OptimizerOptions::Method::kMuon
                                                : OptimizerOptions::Method::kAdamW,
          .learning_rate = options.learning_rate,
          .warmup = std::min(options.warmup, options.steps / 2),
          .steps = options.steps,
          .weight_decay = options.weight_decay,
          .clip = options.clip,
          .products = products};
}

}  // namespace

Trainer::Trainer(Objective& objective, const TrainOptions& options, const TokenCorpus& train,
                 const TokenCorpus& held_out, const Products& products,
                 const std::filesystem::path& checkpoint)
    : objective_(objective),
      options_(options),
      train_(train),
      held_out_(held_out),
      device_(products.device),
      checkpoint_(checkpoint),
      order_(options.seed, train.size(), options.batch_size),
      optimizer_(objective.parameters(), optimizer_options(options, products.dtype)) {
  CONVOKE_CHECK_LE(1, options.steps);
}

Batch Trainer::make_batch(const TokenCorpus& corpus, std::span<const int64_t> sequences) const {
  const auto count = int64_t(sequences.size());
  torch::Tensor lengths = torch::zeros({count}, torch::kInt64);
  for (int64_t i = 0; i < count; ++i) {
    lengths[i] = int64_t(corpus.sequence(sequences[size_t(i)]).size());
  }
  torch::Tensor tokens = torch::zeros({count, lengths.max().item<int64_t>()}, torch::kInt64);
  for (int64_t i = 0; i < count; ++i) {
    const auto sequence = corpus.sequence(sequences[size_t(i)]);
    std::copy(sequence.begin(), sequence.end(), tokens.data_ptr<int64_t>() + i * tokens.size(1));
  }
  return {tokens.to(device_), lengths.to(device_)};
}

StepReport Trainer::step() {
  const std::vector<int64_t> sequences = order_.batch(state_.step);
  const size_t part = options_.micro_batch > 0
                          ? std::min(size_t(options_.micro_batch), sequences.size())
                          : sequences.size();
  StepReport report{.step = state_.step + 1, .steps = options_.steps};
  for (size_t begin = 0; begin < sequences.size(); begin += part) {
    const size_t count = std::min(part, sequences.size() - begin);
    const Batch batch = make_batch(train_, std::span(sequences).subspan(begin, count));
    const uint64_t noise = mix64(mix64(options_.seed ^ kNoise) + uint64_t(state_.step)) + begin;
    const torch::Tensor loss =
        objective_.loss(batch, noise) * (double(count) / double(sequences.size()));
    loss.backward();
    report.loss += loss.item<double>();
    report.tokens += batch.lengths.sum().item<int64_t>();
  }
  if (!std::isfinite(report.loss)) {
    throw_error(ErrorKind::kUsage,
                "the loss of step {} is {}: lower --learning-rate, or --clip, and start anew",
                report.step, report.loss);
  }
  report.learning_rate = Optimizer::learning_rate(optimizer_options(options_), state_.step);
  report.gradient_norm = optimizer_.step(state_.step);
  ++state_.step;
  return report;
}

Evaluation Trainer::evaluate() {
  Evaluation evaluation{.step = state_.step};
  const int64_t count = std::min<int64_t>(held_out_.size(), options_.eval_sequences);
  const int64_t part = options_.micro_batch > 0 ? options_.micro_batch : options_.batch_size;
  for (int64_t begin = 0; begin < count; begin += part) {
    std::vector<int64_t> sequences(size_t(std::min(part, count - begin)));
    // Spread over all of them.
    for (size_t i = 0; i < sequences.size(); ++i) {
      sequences[i] = (begin + int64_t(i)) * held_out_.size() / count;
    }
    objective_.score(make_batch(held_out_, sequences),
                     mix64(options_.seed ^ kHeldOutNoise) + uint64_t(begin) * 1024,
                     evaluation.scores);
  }
  return evaluation;
}

bool Trainer::look(const TrainerEvents& events) {
  if (held_out_.empty()) return false;
  const Evaluation evaluation = evaluate();
  const bool best = state_.best_step < 0 || evaluation.score() > state_.best_score;
  if (best) {
    state_.best_step = state_.step;
    state_.best_score = evaluation.score();
    state_.looks_without_gain = 0;
    best_.clear();
    for (const Parameter& parameter : objective_.parameters()) {
      best_.push_back({parameter.name, parameter.value.detach().clone()});
    }
  } else {
    ++state_.looks_without_gain;
  }
  events.evaluated(evaluation, best);
  return options_.patience > 0 && state_.looks_without_gain >= options_.patience;
}

Trainer::End Trainer::run(const TrainerEvents& events) {
  if (checkpoint_.exists()) {
    state_ = checkpoint_.load(objective_.parameters(), optimizer_.state(), best_);
  }
  const auto save = [&] {
    checkpoint_.save(state_, objective_.parameters(), optimizer_.state(), best_);
  };
  End end = End::kSteps;
  while (state_.step < options_.steps) {
    if (events.interrupted()) {
      save();
      return End::kInterrupted;
    }
    events.stepped(step());
    const bool last = state_.step == options_.steps;
    if ((last || state_.step % options_.eval_every == 0) && look(events) && !last) {
      end = End::kPatience;
      break;
    }
    if (last || state_.step % options_.checkpoint_every == 0) save();
  }
  if (!best_.empty()) restore(objective_.parameters(), best_, "", "the best weights");
  return end;
}

}  // namespace convoke::training
