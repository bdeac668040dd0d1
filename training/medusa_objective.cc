#include "training/medusa_objective.h"

#include <fmt/format.h>
#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

namespace convoke::training {

MedusaObjective::MedusaObjective(const TargetModel& target, const MedusaOptions& options)
    : target_(target), options_(options) {
  const int64_t hidden = target.config().hidden;
  ParameterMaker maker(target.products().device, 0);
  for (int h = 0; h < options.heads; ++h) {
    Head head;
    for (int l = 0; l < options.layers; ++l) {
      const std::string name = fmt::format("{}.{}.linear", h, l);
      head.weights.push_back(maker.constant(name + ".weight", {hidden, hidden}, 0.0));
      head.biases.push_back(maker.constant(name + ".bias", {hidden}, 0.0));
    }
    head.output = maker.copy(fmt::format("{}.{}.weight", h, options.layers), target.lm_head());
    heads_.push_back(std::move(head));
  }
  parameters_ = maker.take();
}

torch::Tensor MedusaObjective::logits(const torch::Tensor& features, int index) const {
  const Products& products = target_.products();
  const Head& head = heads_.at(size_t(index));
  torch::Tensor x = features;
  for (size_t l = 0; l < head.weights.size(); ++l) {
    x = x + torch::silu(products(x, head.weights[l], head.biases[l]));
  }
  return products(x, head.output);
}

torch::Tensor MedusaObjective::loss(const Batch& batch, uint64_t) {
  const TargetModel::Pass pass = target_.run(batch.tokens);
  torch::Tensor labels;  // [batch, rows, vocabulary]
  if (!options_.hard_labels) {
    const torch::NoGradGuard no_gradients;
    labels = target_.logits(pass.hidden).softmax(-1);
  }
  const int64_t rows = batch.tokens.size(1);
  torch::Tensor total = torch::zeros({}, torch::TensorOptions(target_.products().device));
  for (int h = 0; h < options_.heads; ++h) {
    const int64_t ahead = h + 1;  // of the feature's position
    if (rows <= ahead + 1) break;
    const double weight = std::pow(options_.depth_decay, h);
    if (options_.hard_labels) {
      const torch::Tensor valid = valid_entries(batch, ahead + 1);
      const torch::Tensor y = logits(pass.hidden.slice(1, 0, rows - ahead - 1), h);
      total = total + weight * torch::nll_loss(torch::log_softmax(y.index({valid}), -1),
                                               batch.tokens.slice(1, ahead + 1).index({valid}));
    } else {
      const torch::Tensor y = logits(pass.hidden.slice(1, 0, rows - ahead), h);
      total = total +
              weight * soft_cross_entropy(y, labels.slice(1, ahead), valid_entries(batch, ahead));
    }
  }
  return total;
}

void MedusaObjective::score(const Batch& batch, uint64_t noise_seed, DraftScores& scores) {
  const torch::NoGradGuard no_gradients;
  const TargetModel::Pass pass = target_.run(batch.tokens);
  for (int h = 0; h < options_.heads; ++h) {
    const int64_t ahead = h + 1;
    if (batch.tokens.size(1) <= ahead) break;
    const torch::Tensor valid = valid_entries(batch, ahead);
    const torch::Tensor features = pass.hidden.slice(1, 0, batch.tokens.size(1) - ahead);
    const torch::Tensor target = target_.logits(pass.hidden.slice(1, ahead).index({valid}));
    scores.add(h, logits(features.index({valid}), h), target, {}, noise_seed + uint64_t(h));
  }
}

nlohmann::json MedusaObjective::config() const {
  return {{"drafter", "medusa"},
          {"medusa_num_heads", options_.heads},
          {"medusa_num_layers", options_.layers},
          {"hidden_size", target_.config().hidden},
          {"vocab_size", target_.config().vocabulary}};
}

}  // namespace convoke::training
