#include "runtime/acceptance.h"

#include <algorithm>
#include <cmath>

namespace convoke {
namespace {

// Outcomes remembered, and outcomes that an expectation is worth.
constexpr double kPlaceMemory = 200, kPlaceDoubt = 4;
constexpr double kRoundMemory = 48, kRoundDoubt = 3;
constexpr double kGainMemory = 150, kGainDoubt = 3;  // in tokens of reported gain
// Before anything is known: hopeful, so that drafting is tried.
constexpr std::array<double, Acceptance::kRanks> kFirstGuess{.6, .15, .07, .04, .02, .01, .01, .01};
constexpr double kFirstReach = 0.7;
// A probe of a drafter that does not say what it is worth.
constexpr float kProbeGain = 0.05f;
constexpr float kMostProbeGain = 8.0f;

int capped(int value, int count) {
  return std::min(value, count - 1);
}

}  // namespace

void Acceptance::Mean::add(double value, double weight_of_value, double memory) {
  const double kept = std::max(0.0, 1.0 - weight_of_value / memory);
  sum = sum * kept + value;
  weight = weight * kept + weight_of_value;
  seen += weight_of_value;
}

double Acceptance::Mean::value(double expected, double doubt) const {
  return weight + doubt > 0.0 ? (sum + doubt * expected) / (weight + doubt) : expected;
}

void Acceptance::Mean::keep(double most_weight) {
  if (weight <= most_weight) return;
  sum *= most_weight / weight;
  weight = most_weight;
}

Acceptance::Acceptance() {
  refresh();
}

void Acceptance::refresh() {
  for (size_t depth = 0; depth < kDepths; ++depth) {
    double most = 1.0;
    for (size_t rank = 0; rank < kRanks; ++rank) {
      const double expected = depth == 0 ? kFirstGuess[rank] : conditional_[depth - 1][rank];
      most = std::min(most, places_[depth][rank].value(expected, kPlaceDoubt));
      conditional_[depth][rank] = most;
    }
  }
}

double Acceptance::conditional(int depth, int rank) const {
  return conditional_[size_t(capped(depth, kDepths))][size_t(capped(rank, kRanks))];
}

void Acceptance::observe_children(const DraftTree& tree, std::span<const int> ranks, int32_t parent,
                                  int depth, int32_t hit) {
  auto& places = places_[size_t(capped(depth, kDepths))];
  for (int32_t i = parent + 1; i < tree.size(); ++i) {
    const DraftNode& node = tree.nodes[size_t(i)];
    if (node.parent != parent || node.probe) continue;
    places[size_t(capped(ranks[size_t(i)], kRanks))].add(i == hit ? 1.0 : 0.0, 1.0, kPlaceMemory);
  }
}

void Acceptance::observe(const DraftTree& tree, std::span<const int32_t> accepted) {
  if (tree.empty()) return;
  const std::vector<int> ranks = sibling_ranks(tree);
  int32_t parent = -1;
  for (size_t depth = 0; depth <= accepted.size(); ++depth) {
    const int32_t hit = depth < accepted.size() ? accepted[depth] : -1;
    observe_children(tree, ranks, parent, int(depth), hit);
    parent = hit;
  }
  refresh();
  if (tree.gains.size() != tree.nodes.size()) return;
  for (int32_t i = 0; i < tree.size(); ++i) {
    const float gain = tree.gains[size_t(i)];
    if (tree.nodes[size_t(i)].probe || !(gain > 0.0f)) continue;
    const bool right = std::ranges::find(accepted, i) != accepted.end();
    classes_[size_t(gain_class(gain))].add(right ? 1.0 : 0.0, std::min(1.0, double(gain)),
                                           kGainMemory);
  }
}

void Acceptance::observe_round(int asked_depth, std::span<const double> reached) {
  for (size_t k = 0; k < size_t(std::clamp(asked_depth, 0, kDepths)); ++k) {
    reached_[k].add(k < reached.size() ? reached[k] : 0.0, 1.0, kRoundMemory);
  }
}

void Acceptance::doubt_rounds() {
  for (Mean& mean : reached_) mean.keep(1.0);
}

double Acceptance::drafts_gained(int depth) const {
  double sum = 0.0, reach = 1.0, ratio = kFirstReach;
  for (int k = 0; k < depth; ++k) {
    const double before = reach;
    reach *= ratio;  // as at the level above, where nothing is known
    if (k < kDepths) {
      const Mean& mean = reached_[size_t(k)];
      const double doubt = std::max(0.0, kRoundDoubt - mean.seen);
      reach = std::min(before, mean.value(reach, doubt));
    }
    ratio = before > 0.0 ? reach / before : 0.0;
    sum += reach;
  }
  return sum;
}

/// Half octaves: 0 for gains close to 1.
int Acceptance::gain_class(float gain) {
  return int(std::clamp(-2.0f * std::log2(gain), 0.0f, float(kGainClasses - 1)));
}

float Acceptance::corrected(float gain) const {
  if (!(gain > 0.0f)) return 0.0f;  // NaN, too
  const float reported = std::min(gain, 1.0f);
  const double factor = classes_[size_t(gain_class(reported))].value(1.0, kGainDoubt);
  return float(std::min(1.0, double(reported) * factor));
}

std::vector<float> Acceptance::gains(const DraftTree& tree) const {
  std::vector<float> gains(tree.nodes.size());
  const bool reported = tree.gains.size() == tree.nodes.size();
  const std::vector<int> depths = tree.depths(), ranks = sibling_ranks(tree);
  for (size_t i = 0; i < gains.size(); ++i) {
    const DraftNode& node = tree.nodes[i];
    if (node.probe) {
      const float own = reported && tree.gains[i] > 0.0f ? tree.gains[i] : 0.0f;
      gains[i] = reported ? std::min(own, kMostProbeGain) : kProbeGain;
      continue;
    }
    const float parent = node.parent < 0 ? 1.0f : gains[size_t(node.parent)];
    gains[i] = reported ? std::min(parent, corrected(tree.gains[i]))
                        : parent * float(conditional(depths[i], ranks[i]));
  }
  return gains;
}

std::vector<int> sibling_ranks(const DraftTree& tree) {
  std::vector<int> children(tree.nodes.size() + 1), ranks(tree.nodes.size());
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    if (!tree.nodes[i].probe) ranks[i] = children[size_t(tree.nodes[i].parent + 1)]++;
  }
  return ranks;
}

}  // namespace convoke
