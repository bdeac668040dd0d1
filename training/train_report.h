// What training tells people, as text. Pure.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "training/trainer.h"

namespace convoke::training {

/// How far training is, for StatusLine.
struct TrainProgress {
  StepReport last;
  int64_t before = 0;  ///< steps of an earlier run
  int64_t tokens = 0;  ///< of this run
  double seconds = 0;  ///< since the start of this run, looks at held-out text included
};
std::string render_train_progress(const TrainProgress& progress, bool bar, int columns);

/// "step 400  held-out: T=0 .61 .52 .47 -> 2.9 chain, 4.1 tree   T=1 ...": the share of picks that
/// were the first choice at each depth, and the tokens per pass to expect.
std::string evaluation_text(const Evaluation& evaluation, bool best);
nlohmann::ordered_json evaluation_json(const Evaluation& evaluation);

}  // namespace convoke::training
