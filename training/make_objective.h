// From the options to what is trained.
#pragma once

#include <memory>

#include "training/data/corpus.h"
#include "training/objective.h"
#include "training/train_options.h"

namespace convoke::training {

/// Throws Error(kUsage) naming a flag that does not fit the method or the target.
void check_method_flags(const TrainOptions& options, const ModelConfig& target);

/// The objective that the options ask for, which have been checked; `train` decides which tokens a
/// reduced draft vocabulary has. The target must outlive it.
std::unique_ptr<Objective> make_objective(const TrainOptions& options, const TargetModel& target,
                                          const TokenCorpus& train);

}  // namespace convoke::training
