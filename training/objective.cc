#include "training/objective.h"

#include <ATen/Context.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

namespace convoke::training {
namespace {

/// -sum_v p_v log softmax(logits)_v of each row, with a gradient to the logits only. As one
/// function it goes over the vocabulary a few times; composed of the library's, a dozen.
class RowCrossEntropy : public torch::autograd::Function<RowCrossEntropy> {
 public:
  static torch::Tensor forward(torch::autograd::AutogradContext* context,
                               const torch::Tensor& logits, const torch::Tensor& p) {
    const torch::Tensor q = logits.softmax(-1);
    context->save_for_backward({q, p});
    // log sum exp from one column; of the largest, so that its probability is no zero.
    const auto [largest, column] = logits.max(-1, true);
    const torch::Tensor log_sum = (largest - q.gather(-1, column).log()).squeeze(-1);
    return log_sum * p.sum(-1) - (p * logits).sum(-1);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const torch::Tensor total = saved[1].sum(-1, true);
    const torch::Tensor gradient = (saved[0] * total).sub_(saved[1]);
    return {gradient.mul_(gradients[0].unsqueeze(-1)), {}};
  }
};

torch::Tensor mean_of_valid(const torch::Tensor& rows, const torch::Tensor& valid) {
  return rows.masked_select(valid).sum() / valid.sum().clamp_min(1);
}

}  // namespace

torch::Tensor valid_entries(const Batch& batch, int64_t shift) {
  const int64_t entries = std::max<int64_t>(0, batch.tokens.size(1) - shift);
  const torch::Tensor place = torch::arange(entries, batch.lengths.options()) + shift;
  return place.unsqueeze(0) < batch.lengths.unsqueeze(1);
}

torch::Tensor cross_entropy_rows(const torch::Tensor& logits, const torch::Tensor& p) {
  return RowCrossEntropy::apply(logits, p);
}

torch::Tensor soft_cross_entropy(const torch::Tensor& logits, const torch::Tensor& p,
                                 const torch::Tensor& valid) {
  return mean_of_valid(cross_entropy_rows(logits, p), valid);
}

torch::Tensor feature_distance(const torch::Tensor& x, const torch::Tensor& target,
                               const torch::Tensor& valid) {
  const torch::Tensor distance =
      torch::smooth_l1_loss(x, target, at::Reduction::None, 1.0).mean(-1);
  return mean_of_valid(distance, valid);
}

torch::Generator seeded_generator(uint64_t seed, torch::Device device) {
  torch::Generator generator = at::globalContext().defaultGenerator(device).clone();
  generator.set_current_seed(seed);
  return generator;
}

}  // namespace convoke::training
