// Training of PaSS look-ahead embeddings through the frozen target. Source: arXiv 2311.13581, which
// leaves loss, steps and learning rate open; docs/training.md says what was found.
//
// After a prefix x_0 .. x_n come look-ahead rows LA_0 .. LA_(L-1) at positions n + 1, n + 2, ...;
// row LA_i sees the prefix and the rows before it, and guesses the token at n + 2 + i: what the
// target says at position n + 1 + i, where the true token stands. Several prefixes of one text
// share the pass over it.
#pragma once

#include <vector>

#include "training/objective.h"

namespace convoke::training {

struct PassObjectiveOptions {
  int lookahead = 8;
  int prefixes = 16;         ///< per text and step
  double depth_decay = 0.8;  ///< weight of LA_i: decay^i
  bool hard_labels = false;  ///< the text's own tokens instead of the target's distribution
};

class PassObjective final : public Objective {
 public:
  PassObjective(const TargetModel& target, const PassObjectiveOptions& options, uint64_t seed);

  std::vector<Parameter>& parameters() override { return parameters_; }
  torch::Tensor loss(const Batch& batch, uint64_t noise_seed) override;
  void score(const Batch& batch, uint64_t noise_seed, DraftScores& scores) override;
  std::vector<Parameter> exported() const override { return parameters_; }
  nlohmann::json config() const override;

  /// Logits [batch, prefixes, lookahead, vocabulary] of the look-ahead rows behind the prefixes
  /// that end at `ends` [batch, prefixes].
  torch::Tensor logits(const TargetModel::Pass& context, const torch::Tensor& ends) const;

 private:
  /// Where prefixes end, by chance: [batch, prefixes] int64, each before the text's last token.
  torch::Tensor choose_ends(const Batch& batch, uint64_t noise_seed) const;
  /// [batch, prefixes, lookahead] positions whose distributions are the labels, cut to the text;
  /// `valid` where they lie in it.
  struct Labels {
    torch::Tensor positions, valid;
  };
  Labels labels(const Batch& batch, const torch::Tensor& ends) const;

  const TargetModel& target_;
  const PassObjectiveOptions options_;
  torch::Tensor embeddings_;  ///< [lookahead, hidden]
  std::vector<Parameter> parameters_;
};

}  // namespace convoke::training
