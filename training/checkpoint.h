// A training run's state in one file, written whole or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "training/objective.h"

namespace convoke::training {

/// What is not a tensor.
struct TrainState {
  int64_t step = 0;  ///< optimizer steps done
  int64_t best_step = -1;
  double best_score = 0;           ///< expected tokens per pass on held-out text
  int64_t looks_without_gain = 0;  ///< evaluations since the best one
};

class Checkpoint {
 public:
  explicit Checkpoint(std::filesystem::path file) : file_(std::move(file)) {}

  bool exists() const { return std::filesystem::exists(file_); }
  /// `best`: the parameters' values at the best evaluation; empty if there was none.
  void save(const TrainState& state, const std::vector<Parameter>& parameters,
            const std::vector<Parameter>& optimizer, const std::vector<Parameter>& best) const;
  /// Fills the tensors in place; `best` becomes what was saved. Throws Error(kModel) naming file
  /// and tensor for a checkpoint of another training.
  TrainState load(const std::vector<Parameter>& parameters, const std::vector<Parameter>& optimizer,
                  std::vector<Parameter>& best) const;
  void remove() const;

 private:
  std::filesystem::path file_;
};

}  // namespace convoke::training
