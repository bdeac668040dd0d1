// Training of Medusa heads: head k guesses, from the target's last feature alone, the token k
// places after the one that the target itself picks from it. Source: arXiv 2401.10774.
//
//   x_0 = feature;  x_(j+1) = x_j + silu(W_j x_j + b_j);  logits = O x_last
//
// W and b begin at zero and O as the target's lm_head, so every head begins as the target's own.
#pragma once

#include <vector>

#include "training/head_parameters.h"
#include "training/objective.h"

namespace convoke::training {

struct MedusaOptions {
  int heads = 5;
  int layers = 1;            ///< residual blocks of a head
  double depth_decay = 0.8;  ///< weight of head k: decay^k
  bool hard_labels = false;  ///< the text's own tokens instead of the target's distribution
};

class MedusaObjective final : public Objective {
 public:
  MedusaObjective(const TargetModel& target, const MedusaOptions& options);

  std::vector<Parameter>& parameters() override { return parameters_; }
  torch::Tensor loss(const Batch& batch, uint64_t noise_seed) override;
  void score(const Batch& batch, uint64_t noise_seed, DraftScores& scores) override;
  std::vector<Parameter> exported() const override { return parameters_; }
  nlohmann::json config() const override;

  /// features [..., hidden] -> logits [..., vocabulary] of one head.
  torch::Tensor logits(const torch::Tensor& features, int head) const;

 private:
  struct Head {
    std::vector<torch::Tensor> weights, biases;  ///< [layers]
    torch::Tensor output;
  };

  const TargetModel& target_;
  const MedusaOptions options_;
  std::vector<Head> heads_;
  std::vector<Parameter> parameters_;
};

}  // namespace convoke::training
