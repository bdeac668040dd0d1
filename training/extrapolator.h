// Training of EAGLE-1/2 and EAGLE-3 heads: one decoder layer that carries the target's features on,
// unrolled over its own outputs as it is when it drafts (EAGLE-3's training-time test).
// Sources: arXiv 2401.15077, 2406.16858, 2503.01840.
//
// Entry i of a text pairs the features of position i with the token at i + 1. Step s of the
// unrolled pass stands for the guess s tokens further on: it has the output of step s - 1 for
// features, the token at i + 1 + s, position i + s, and sees the true entries up to i and the
// guesses that led to it. Its label is the target's distribution at position i + 1 + s.
#pragma once

#include <vector>

#include "runtime/heads/head_config.h"
#include "training/head_parameters.h"
#include "training/objective.h"

namespace convoke::training {

struct ExtrapolatorOptions {
  int unroll = 1;               ///< steps of a pass; 1: true features only, as EAGLE-1 was trained
  double depth_decay = 1.0;     ///< weight of step s: decay^s
  double token_weight = 0.1;    ///< of the soft cross-entropy
  double feature_weight = 1.0;  ///< of SmoothL1 to the target's feature; EAGLE-1 only
  /// Uniform noise on true features: (U[0,1] - 0.5) * noise * 512 / rows; EAGLE-1 only.
  double feature_noise = 0.2;
};

/// The part that both heads share.
class Extrapolator : public Objective {
 public:
  std::vector<Parameter>& parameters() override { return parameters_; }
  torch::Tensor loss(const Batch& batch, uint64_t noise_seed) override;
  void score(const Batch& batch, uint64_t noise_seed, DraftScores& scores) override;
  std::vector<Parameter> exported() const override;
  nlohmann::json config() const override { return json_; }

  /// For comparison with the runtime: logits [batch, entries, columns] and outputs of every step.
  struct Step {
    torch::Tensor x;       ///< [batch, entries - step, hidden]
    torch::Tensor logits;  ///< [batch, entries - step, columns]
  };
  std::vector<Step> unroll(const torch::Tensor& tokens, const torch::Tensor& features, int steps);
  const torch::Tensor& columns() const { return columns_; }  ///< undefined: the whole vocabulary

 protected:
  /// `columns`: token ids of a reduced draft vocabulary, ascending; empty = all.
  Extrapolator(const TargetModel& target, const nlohmann::json& json, HeadKind kind,
               const std::vector<int64_t>& columns, const ExtrapolatorOptions& options);

  /// What the first step's features come from: a pass's final hidden states or those entering
  /// layers, concatenated: [batch, rows, width].
  virtual torch::Tensor features_of(const TargetModel::Pass& pass) const = 0;
  /// True features -> what the recursion carries, [batch, rows, hidden].
  virtual torch::Tensor fuse(const torch::Tensor& features) = 0;
  /// Token embeddings and carried state -> residual stream and the input of attention.
  struct Entry {
    torch::Tensor residual, attention_input;
  };
  virtual Entry enter(const torch::Tensor& embedded, const torch::Tensor& carried) = 0;
  virtual torch::Tensor logits_of(const torch::Tensor& x) = 0;
  /// Weights of one pass in the precision of products.
  virtual void narrow() = 0;

  const TargetModel& target_;
  const Products products_;
  const nlohmann::json json_;
  const HeadConfig config_;
  const ExtrapolatorOptions options_;
  torch::Tensor columns_;
  std::vector<Parameter> parameters_;
  LayerTensors layer_, narrow_layer_;

 private:
  /// Calls `use(step, x, logits)` for each step in turn.
  template <typename Use>
  void run_steps(const torch::Tensor& tokens, const torch::Tensor& features, int steps, Use&& use);
  torch::Tensor label_logits(const TargetModel::Pass& pass, int step, int64_t rows) const;

  Rotary rotary_;
};

class EagleObjective final : public Extrapolator {
 public:
  EagleObjective(const TargetModel& target, const nlohmann::json& json,
                 const std::vector<int64_t>& columns, const ExtrapolatorOptions& options,
                 uint64_t seed);
  /// config.json of a head for this target. `intermediate` 0: as the target's.
  static nlohmann::json make_config(const ModelConfig& target, int intermediate,
                                    int draft_vocabulary);

 protected:
  torch::Tensor features_of(const TargetModel::Pass& pass) const override { return pass.hidden; }
  torch::Tensor fuse(const torch::Tensor& features) override { return features; }
  Entry enter(const torch::Tensor& embedded, const torch::Tensor& carried) override;
  torch::Tensor logits_of(const torch::Tensor& x) override;
  void narrow() override;

 private:
  torch::Tensor fc_, narrow_fc_;
  torch::Tensor lm_head_;  ///< the target's, of the draft vocabulary
};

class Eagle3Objective final : public Extrapolator {
 public:
  /// `sample` [batch, rows] int64: text that tells how large the target's states are, or undefined.
  Eagle3Objective(const TargetModel& target, const nlohmann::json& json,
                  const std::vector<int64_t>& columns, const ExtrapolatorOptions& options,
                  uint64_t seed, const torch::Tensor& sample = {});
  /// `feature_layers` empty: 2, L/2, L-3.
  static nlohmann::json make_config(const ModelConfig& target, int intermediate,
                                    int draft_vocabulary, const std::vector<int>& feature_layers);

 protected:
  torch::Tensor features_of(const TargetModel::Pass& pass) const override;
  torch::Tensor fuse(const torch::Tensor& features) override;
  Entry enter(const torch::Tensor& embedded, const torch::Tensor& carried) override;
  torch::Tensor logits_of(const torch::Tensor& x) override;
  void narrow() override;

 private:
  torch::Tensor fc_, input_norm_, hidden_norm_, final_norm_, lm_head_;
  torch::Tensor narrow_fc_, narrow_lm_head_;
};

}  // namespace convoke::training
