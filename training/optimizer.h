// AdamW and Muon with a warm-up and a cosine, all of their state in named tensors, so that a
// checkpoint can hold it.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "training/objective.h"

namespace convoke::training {

struct OptimizerOptions {
  enum class Method {
    kAdamW,  ///< arXiv 1711.05101
    /// Matrices move along their orthogonalised momentum
    /// (https://kellerjordan.github.io/posts/muon), at a learning rate scaled so that it is
    /// AdamW's; everything else by AdamW. Matrices wider or higher than kMuonExtent are left to
    /// AdamW too: they are vocabularies.
    kMuon,
  } method = Method::kAdamW;
  double learning_rate = 1e-3;
  double least_share = 0.05;  ///< of the learning rate that is left at the last step
  int64_t warmup = 100;       ///< steps
  int64_t steps = 1000;
  double beta1 = 0.9, beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.0;                ///< of matrices
  double clip = 0.5;                        ///< largest norm of all gradients together; 0 = none
  torch::Dtype products = torch::kFloat32;  ///< of Muon's matrix products
};

class Optimizer {
 public:
  Optimizer(std::vector<Parameter> parameters, const OptimizerOptions& options);

  /// Linear warm-up, then half a cosine down to least_share.
  static double learning_rate(const OptimizerOptions& options, int64_t step);
  /// Applies the gradients of step number `step` (from 0) and clears them. Returns their norm
  /// before clipping.
  double step(int64_t step);

  /// Moments, under the parameters' names behind "momentum." and "square.". The tensors are the
  /// optimizer's own: what is copied into them is its state.
  std::vector<Parameter> state() const;

 private:
  struct Slot {
    Parameter parameter;
    torch::Tensor momentum, square;  ///< square undefined: Muon
  };
  void adamw(Slot& slot, double rate, int64_t step);
  void muon(Slot& slot, double rate);

  const OptimizerOptions options_;
  std::vector<Slot> slots_;
};

/// The orthogonal factor of a matrix, nearly: five steps of a quintic Newton-Schulz iteration.
/// Its matrix products are in the given precision; bfloat16 is enough for Muon.
torch::Tensor orthogonalize(const torch::Tensor& matrix, torch::Dtype products = torch::kFloat32);

}  // namespace convoke::training
