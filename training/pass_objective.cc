#include "training/pass_objective.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "training/head_parameters.h"

namespace convoke::training {
namespace {

/// rows[b][index[b][...]] of [batch, rows, width] -> [batch, ..., width].
torch::Tensor gather_rows(const torch::Tensor& rows, const torch::Tensor& index) {
  const torch::Tensor flat = index.reshape({index.size(0), -1, 1});
  const torch::Tensor wide = flat.expand({flat.size(0), flat.size(1), rows.size(2)});
  std::vector<int64_t> shape = index.sizes().vec();
  shape.push_back(rows.size(2));
  return rows.gather(1, wide).view(shape);
}

}  // namespace

PassObjective::PassObjective(const TargetModel& target, const PassObjectiveOptions& options,
                             uint64_t seed)
    : target_(target), options_(options) {
  // They begin as the average token, each with a little of its own.
  const torch::Tensor table = target.embedding().to(torch::kFloat32).cpu();
  const torch::Tensor noise =
      torch::randn({options.lookahead, table.size(1)}, seeded_generator(seed, torch::kCPU));
  ParameterMaker maker(target.products().device, seed);
  embeddings_ = maker.copy("lookahead.weight",
                           table.mean(0, true) + noise * (0.1 * table.std().item<double>()));
  parameters_ = maker.take();
}

torch::Tensor PassObjective::choose_ends(const Batch& batch, uint64_t noise_seed) const {
  torch::Generator generator = seeded_generator(noise_seed, batch.tokens.device());
  const torch::Tensor place = torch::rand({batch.tokens.size(0), options_.prefixes}, generator,
                                          torch::TensorOptions(batch.tokens.device()));
  const torch::Tensor choices = (batch.lengths - 1).clamp_min(1).unsqueeze(1);
  return (place * choices).floor().to(torch::kInt64).minimum(choices - 1);
}

PassObjective::Labels PassObjective::labels(const Batch& batch, const torch::Tensor& ends) const {
  const torch::Tensor ahead = torch::arange(options_.lookahead, ends.options()) + 1;
  const torch::Tensor positions = ends.unsqueeze(-1) + ahead;
  const torch::Tensor lengths = batch.lengths.view({-1, 1, 1});
  return {positions.minimum((lengths - 1).clamp_min(0)), positions < lengths};
}

torch::Tensor PassObjective::logits(const TargetModel::Pass& context,
                                    const torch::Tensor& ends) const {
  const int64_t batch = ends.size(0), prefixes = ends.size(1), ahead = options_.lookahead;
  const int64_t rows = prefixes * ahead, seen = context.hidden.size(1);
  const torch::Tensor index = torch::arange(ahead, ends.options());
  const torch::Tensor positions = (ends.unsqueeze(-1) + 1 + index).view({batch, rows});
  const torch::Tensor row_ends =
      ends.unsqueeze(-1).expand({batch, prefixes, ahead}).reshape({batch, rows, 1});
  const torch::Tensor sees_context = torch::arange(seen, ends.options()) <= row_ends;
  const torch::Tensor group = torch::arange(rows, ends.options()).div(ahead, "floor");
  const torch::Tensor step = torch::arange(rows, ends.options()).remainder(ahead);
  const torch::Tensor sees_own = (group.unsqueeze(1) == group.unsqueeze(0))
                                     .logical_and(step.unsqueeze(1) >= step.unsqueeze(0));
  const torch::Tensor sees =
      torch::cat({sees_context, sees_own.unsqueeze(0).expand({batch, rows, rows})}, -1);
  const torch::Tensor x =
      embeddings_.unsqueeze(0).expand({batch * prefixes, ahead, -1}).reshape({batch, rows, -1});
  const torch::Tensor hidden = target_.run_behind(context, x, positions, sees);
  return target_.logits(hidden).view({batch, prefixes, ahead, -1});
}

torch::Tensor PassObjective::loss(const Batch& batch, uint64_t noise_seed) {
  const TargetModel::Pass context = target_.run(batch.tokens, {}, true);
  const torch::Tensor ends = choose_ends(batch, noise_seed);
  const Labels label = labels(batch, ends);
  const torch::Tensor guesses = logits(context, ends);
  torch::Tensor losses, valid = label.valid;
  if (options_.hard_labels) {
    // The token after each label's position; the text's last position has none.
    valid = valid.logical_and(label.positions + 1 < batch.lengths.view({-1, 1, 1}));
    const torch::Tensor next = (label.positions + 1).clamp_max(batch.tokens.size(1) - 1);
    const torch::Tensor token = gather_rows(batch.tokens.unsqueeze(-1), next);
    losses = -torch::log_softmax(guesses, -1).gather(-1, token).squeeze(-1);
  } else {
    // No gradient comes from here: the target's weights are frozen.
    const torch::Tensor p =
        target_.logits(gather_rows(context.hidden, label.positions)).softmax(-1);
    losses = cross_entropy_rows(guesses, p);
  }
  torch::Tensor total = torch::zeros({}, losses.options());
  for (int64_t i = 0; i < options_.lookahead; ++i) {
    const torch::Tensor at = valid.select(-1, i);
    const torch::Tensor sum = losses.select(-1, i).masked_select(at).sum();
    total = total + std::pow(options_.depth_decay, i) * sum / at.sum().clamp_min(1);
  }
  return total;
}

void PassObjective::score(const Batch& batch, uint64_t noise_seed, DraftScores& scores) {
  const torch::NoGradGuard no_gradients;
  const TargetModel::Pass context = target_.run(batch.tokens, {}, true);
  const torch::Tensor ends = choose_ends(batch, noise_seed);
  const Labels label = labels(batch, ends);
  const torch::Tensor draft = logits(context, ends);
  const torch::Tensor target = target_.logits(gather_rows(context.hidden, label.positions));
  for (int64_t i = 0; i < options_.lookahead; ++i) {
    const torch::Tensor at = label.valid.select(2, i);
    scores.add(int(i), draft.select(2, i).index({at}), target.select(2, i).index({at}), {},
               noise_seed + uint64_t(i));
  }
}

nlohmann::json PassObjective::config() const {
  return {{"drafter", "pass"},
          {"lookahead_tokens", options_.lookahead},
          {"hidden_size", target_.config().hidden}};
}

}  // namespace convoke::training
