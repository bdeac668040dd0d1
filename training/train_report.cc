#include "training/train_report.h"

#include <fmt/format.h>

#include "launcher/status_line.h"
#include "launcher/table.h"

namespace convoke::training {
namespace {

std::string rates_text(const DraftScores& scores, bool sampled) {
  std::string text;
  for (int d = 0; d < scores.depths(); ++d) {
    text += fmt::format(" {:.2f}", scores.rates(d, sampled).first);
  }
  return text + fmt::format(" -> {:.2f} chain, {:.2f} tree", scores.chain_length(sampled),
                            scores.tree_length(sampled));
}

}  // namespace

std::string render_train_progress(const TrainProgress& progress, bool bar, int columns) {
  const StepReport& last = progress.last;
  const std::string head = fmt::format("step {}/{}", last.step, last.steps);
  std::string tail = fmt::format("  loss {:.4f}  lr {:.2g}", last.loss, last.learning_rate);
  if (progress.seconds > 0) {
    tail += fmt::format("  {} tok/s", format_count(double(progress.tokens) / progress.seconds));
  }
  tail += time_text(last.step, progress.before, last.steps, progress.seconds);
  if (bar) return bar_line(double(last.step) / double(last.steps), head, tail, columns);
  return "train: " + head + tail;
}

std::string evaluation_text(const Evaluation& evaluation, bool best) {
  return fmt::format("step {:>6}  held-out  T=0{}   T=1{}{}", evaluation.step,
                     rates_text(evaluation.scores, false), rates_text(evaluation.scores, true),
                     best ? "  best" : "");
}

nlohmann::ordered_json evaluation_json(const Evaluation& evaluation) {
  nlohmann::ordered_json json = {{"step", evaluation.step}};
  for (const bool sampled : {false, true}) {
    nlohmann::ordered_json first = nlohmann::ordered_json::array(), wide = first;
    for (int d = 0; d < evaluation.scores.depths(); ++d) {
      const auto rates = evaluation.scores.rates(d, sampled);
      first.push_back(rates.first);
      wide.push_back(rates.wide);
    }
    json[sampled ? "sampled" : "greedy"] = {
        {"acceptance_by_depth", first},
        {"acceptance_by_depth_of_4", wide},
        {"mean_acceptance_length", evaluation.scores.chain_length(sampled)},
        {"mean_acceptance_length_of_4", evaluation.scores.tree_length(sampled)}};
  }
  return json;
}

}  // namespace convoke::training
