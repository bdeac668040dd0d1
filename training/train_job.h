// `convoke train`: from a model's directory and texts to a drafter's directory.
#pragma once

#include "launcher/command_context.h"
#include "training/train_options.h"

namespace convoke::training {

/// Runs the whole job. What --out holds:
///   config.json, model.safetensors   the drafter, once training has ended
///   training.json                    command, recipe, data and results: the record of the run
///   regenerated*.jsonl               with --regenerate
///   held-out.jsonl                   prompts that were not learnt from, for `convoke bench`
///   checkpoint/                      until training has ended
/// Returns an exit code. Throws Error.
int run_training(TrainOptions options, CommandContext& context);

}  // namespace convoke::training
