#include "training/optimizer.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>
#include <numbers>

#include "runtime/lookahead_table.h"

namespace convoke::training {
namespace {

constexpr double kMuonMomentum = 0.95;
// The root mean square of a typical AdamW step, relative to its learning rate.
constexpr double kUsualStep = 0.2;
// Beside Muon, vocabularies, norms and biases move at this share of its learning rate: steps that
// are right for orthogonalised matrices are several times too long for AdamW.
constexpr double kBesideMuon = 0.2;

/// A matrix between hidden states: no table of embeddings, no output over a vocabulary.
bool is_hidden_matrix(const torch::Tensor& value) {
  return value.dim() == 2 && value.size(0) > kMaxLookahead && value.size(0) <= 4 * value.size(1);
}

}  // namespace

torch::Tensor orthogonalize(const torch::Tensor& matrix, torch::Dtype products) {
  // Coefficients for quick growth of small singular values; the result's lie near 1.
  constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
  const bool tall = matrix.size(0) > matrix.size(1);
  torch::Tensor x = tall ? matrix.t() : matrix;
  x = (x / (x.norm() + 1e-7)).to(products);
  for (int i = 0; i < 5; ++i) {
    const torch::Tensor square = torch::matmul(x, x.t());
    const torch::Tensor polynomial = b * square + c * torch::matmul(square, square);
    x = a * x + torch::matmul(polynomial, x);
  }
  x = x.to(torch::kFloat32);
  return tall ? x.t() : x;
}

Optimizer::Optimizer(std::vector<Parameter> parameters, const OptimizerOptions& options)
    : options_(options) {
  for (Parameter& parameter : parameters) {
    const torch::Tensor& value = parameter.value;
    const bool muon = options.method == OptimizerOptions::Method::kMuon && is_hidden_matrix(value);
    slots_.push_back(
        {parameter, torch::zeros_like(value), muon ? torch::Tensor{} : torch::zeros_like(value)});
  }
}

double Optimizer::learning_rate(const OptimizerOptions& options, int64_t step) {
  if (step < options.warmup) {
    return options.learning_rate * double(step + 1) / double(options.warmup);
  }
  const double span = double(std::max<int64_t>(1, options.steps - options.warmup));
  const double done = std::min(1.0, double(step - options.warmup) / span);
  const double share = 0.5 * (1.0 + std::cos(std::numbers::pi * done));
  return options.learning_rate * (options.least_share + (1.0 - options.least_share) * share);
}

double Optimizer::step(int64_t step) {
  const torch::NoGradGuard no_gradients;
  torch::Tensor squares;
  for (const Slot& slot : slots_) {
    const torch::Tensor& gradient = slot.parameter.value.grad();
    if (!gradient.defined()) continue;
    const torch::Tensor square = gradient.pow(2).sum();
    squares = squares.defined() ? squares + square : square;
  }
  const double norm = squares.defined() ? std::sqrt(squares.item<double>()) : 0.0;
  const double scale = options_.clip > 0 && norm > options_.clip ? options_.clip / norm : 1.0;
  const double rate = learning_rate(options_, step);
  for (Slot& slot : slots_) {
    torch::Tensor& gradient = slot.parameter.value.mutable_grad();
    if (!gradient.defined()) continue;
    gradient.mul_(scale);
    if (slot.square.defined()) {
      const bool beside = options_.method == OptimizerOptions::Method::kMuon;
      adamw(slot, (beside ? kBesideMuon * rate : rate) * slot.parameter.rate, step);
    } else {
      muon(slot, rate * slot.parameter.rate);
    }
    gradient = torch::Tensor();
  }
  return norm;
}

void Optimizer::adamw(Slot& slot, double rate, int64_t step) {
  torch::Tensor& value = slot.parameter.value;
  const torch::Tensor& gradient = value.grad();
  slot.momentum.mul_(options_.beta1).add_(gradient, 1.0 - options_.beta1);
  slot.square.mul_(options_.beta2).addcmul_(gradient, gradient, 1.0 - options_.beta2);
  const double bias1 = 1.0 - std::pow(options_.beta1, double(step + 1));
  const double bias2 = 1.0 - std::pow(options_.beta2, double(step + 1));
  const torch::Tensor deviation = (slot.square / bias2).sqrt_().add_(options_.epsilon);
  if (value.dim() == 2) value.mul_(1.0 - rate * options_.weight_decay);
  value.addcdiv_(slot.momentum, deviation, -rate / bias1);
}

void Optimizer::muon(Slot& slot, double rate) {
  torch::Tensor& value = slot.parameter.value;
  const torch::Tensor& gradient = value.grad();
  slot.momentum.mul_(kMuonMomentum).add_(gradient);
  const torch::Tensor ahead = gradient + slot.momentum * kMuonMomentum;
  const double extent = std::sqrt(double(std::max(value.size(0), value.size(1))));
  value.mul_(1.0 - rate * options_.weight_decay);
  value.add_(orthogonalize(ahead, options_.products), -rate * kUsualStep * extent);
}

std::vector<Parameter> Optimizer::state() const {
  std::vector<Parameter> state;
  for (const Slot& slot : slots_) {
    state.push_back({"momentum." + slot.parameter.name, slot.momentum});
    if (slot.square.defined()) state.push_back({"square." + slot.parameter.name, slot.square});
  }
  return state;
}

}  // namespace convoke::training
