#include "runtime/drafters/random.h"

#include <algorithm>

#include "runtime/drafters/registry.h"

namespace convoke {
namespace {

/// Distributions of the standard library differ between libraries; plain remainders do not.
class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}
  int below(int limit) { return int(random_() % uint64_t(limit)); }
  bool one_in(int n) { return below(n) == 0; }

 private:
  std::mt19937_64 random_;
};

/// What followed the last place where `token` stood; or a random token.
int32_t follower(const std::vector<int32_t>& context, int32_t token, int vocabulary, Dice& dice) {
  constexpr size_t kFar = 4096;
  const size_t stop = context.size() > kFar ? context.size() - kFar : 0;
  for (size_t i = context.size(); i > stop + 1; --i) {
    if (context[i - 2] == token) return context[i - 1];
  }
  return int32_t(dice.below(vocabulary));
}

/// Grows one tree node by node; every shape is a rule for the parent of the next node.
class TreeGrower {
 public:
  TreeGrower(const std::vector<int32_t>& context, const DraftLimits& limits, int vocabulary,
             Dice& dice)
      : context_(context), limits_(limits), vocabulary_(vocabulary), dice_(dice) {}

  DraftTree grow() {
    const int shape = dice_.below(6);
    const int nodes = shape == 0 ? 0 : 1 + dice_.below(limits_.max_nodes);
    for (int i = 0; i < nodes; ++i) add(choose_parent(shape));
    return std::move(tree_);
  }

 private:
  int32_t choose_parent(int shape) {
    const auto last = int32_t(tree_.size()) - 1;
    if (last < 0) return -1;
    switch (shape) {
      case 1:
        return last;  // a chain
      case 2:
        return -1;  // a fan
      case 3:
        return dice_.one_in(4) ? last / 2 : last;  // a few branches
      case 4:
        return last - dice_.below(std::min(last, 2) + 1);
      default:
        return int32_t(dice_.below(last + 2)) - 1;  // anywhere
    }
  }

  void add(int32_t parent) {
    if (parent >= 0 && depths_[size_t(parent)] + 1 >= limits_.max_depth) parent = -1;
    const int depth = parent < 0 ? 0 : depths_[size_t(parent)] + 1;
    const bool below_probe = parent >= 0 && tree_.nodes[size_t(parent)].probe;
    tree_.nodes.push_back({parent, choose_token(parent), below_probe || dice_.one_in(6)});
    depths_.push_back(depth);
  }

  int32_t choose_token(int32_t parent) {
    const int kind = dice_.below(8);
    if (kind == 0) return int32_t(dice_.below(vocabulary_));
    if (kind == 1 && !tree_.empty()) return tree_.nodes.back().token;  // often an equal sibling
    if (kind == 2 && !context_.empty()) {
      return context_[size_t(dice_.below(int(context_.size())))];
    }
    if (parent < 0 && context_.empty()) return int32_t(dice_.below(vocabulary_));
    const int32_t before = parent < 0 ? context_.back() : tree_.nodes[size_t(parent)].token;
    return follower(context_, before, vocabulary_, dice_);
  }

  const std::vector<int32_t>& context_;
  const DraftLimits& limits_;
  int vocabulary_;
  Dice& dice_;
  DraftTree tree_;
  std::vector<int> depths_;
};

}  // namespace

uint64_t RandomDrafter::parse_seed(const std::string& argument) {
  return argument.empty() ? 0 : parse_number("random", "seed", argument, 0, UINT64_MAX);
}

void RandomDrafter::advance(const DraftVerdict& verdict) {
  const auto sequence = tokens_.find(verdict.id);
  if (sequence == tokens_.end()) return;
  auto& tokens = sequence->second;
  tokens.insert(tokens.end(), verdict.tokens.begin(), verdict.tokens.end());
}

DraftTree RandomDrafter::propose_one(SequenceId id, const std::vector<int32_t>& context,
                                     const DraftLimits& limits) const {
  Dice dice(seed_ ^ (id * 0x9e3779b97f4a7c15u) ^ (uint64_t(context.size()) << 40));
  return TreeGrower(context, limits, vocabulary_, dice).grow();
}

std::vector<DraftTree> RandomDrafter::propose(std::span<const SequenceId> ids,
                                              const DraftLimits& limits) {
  std::vector<DraftTree> trees(ids.size());
  if (limits.max_nodes <= 0 || limits.max_depth <= 0 || vocabulary_ <= 0) return trees;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto sequence = tokens_.find(ids[i]);
    if (sequence != tokens_.end()) trees[i] = propose_one(ids[i], sequence->second, limits);
  }
  return trees;
}

}  // namespace convoke
