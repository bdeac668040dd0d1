// What is trained, and how well it drafts: one objective per drafting method.
#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "training/draft_scores.h"
#include "training/target_model.h"

namespace convoke::training {

/// Texts of one step, padded at the end.
struct Batch {
  torch::Tensor tokens;   ///< [batch, rows] int64
  torch::Tensor lengths;  ///< [batch] int64
};

/// Something that is trained: a leaf in float32, under the name it has in the file.
struct Parameter {
  std::string name;
  torch::Tensor value;
  double rate = 1.0;  ///< share of the learning rate at which it moves
};

class Objective {
 public:
  virtual ~Objective() = default;

  virtual std::vector<Parameter>& parameters() = 0;
  /// The mean loss over the batch's valid rows, with gradients. `noise_seed` is all that its
  /// randomness depends on.
  virtual torch::Tensor loss(const Batch& batch, uint64_t noise_seed) = 0;
  /// Adds what the drafts of this batch would be worth. `noise_seed` as above.
  virtual void score(const Batch& batch, uint64_t noise_seed, DraftScores& scores) = 0;

  /// What the runtime reads: tensors (in float32 or an integer type) and config.json without
  /// "torch_dtype".
  virtual std::vector<Parameter> exported() const = 0;
  virtual nlohmann::json config() const = 0;
};

/// [batch, rows - shift] bool: entries i whose position i + shift lies in the text.
torch::Tensor valid_entries(const Batch& batch, int64_t shift);

/// -sum_v p_v log softmax(logits)_v of each row: [..., columns] twice -> [...]. Gradients flow to
/// the logits.
torch::Tensor cross_entropy_rows(const torch::Tensor& logits, const torch::Tensor& p);
/// Mean over the valid rows of -sum_v p_v log softmax(logits)_v. logits, p [batch, rows, columns],
/// valid [batch, rows].
torch::Tensor soft_cross_entropy(const torch::Tensor& logits, const torch::Tensor& p,
                                 const torch::Tensor& valid);
/// Mean over the valid rows of the mean over their elements of SmoothL1 (Huber, beta 1).
torch::Tensor feature_distance(const torch::Tensor& x, const torch::Tensor& target,
                               const torch::Tensor& valid);

/// The generator behind a seed, on a device.
torch::Generator seeded_generator(uint64_t seed, torch::Device device);

}  // namespace convoke::training
