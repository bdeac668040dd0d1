// Drafting by growing a tree of tokens with a model that extends paths: EAGLE heads and small
// draft models differ in the BranchModel only.
//
// Synchronous: every propose() takes in what was committed and grows a new tree level by level, one
// pass of the model per level for all sequences together. Ahead: one living tree per sequence goes
// on growing while the target works, is re-rooted by every verdict, and propose() answers at once
// when the outcome was in it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/branch_model.h"
#include "runtime/drafter.h"
#include "runtime/drafters/calibration.h"
#include "runtime/drafters/living_tree.h"

namespace convoke {

enum class TreeShape : uint8_t {
  kDynamic,  ///< EAGLE-2: per level the best `top_k` nodes are expanded, and the best of all stay
  kStatic    ///< EAGLE-1: a fixed tree of 25 candidates
};

struct TreeDrafterOptions {
  TreeShape shape = TreeShape::kDynamic;
  int depth = 7;             ///< levels at most; DraftLimits::max_depth may ask for fewer
  int top_k = 10;            ///< children per node and nodes expanded per level
  bool ahead = false;        ///< grow while the target works
  int catch_up = 3;          ///< ahead: levels grown at once when the outcome was not in the tree
  int ahead_depth = 16;      ///< ahead: levels below the root, at most
  int ahead_rows = 16;       ///< ahead: rows of one pass
  float ahead_gain = 2e-3f;  ///< ahead: nodes less probable than this are not expanded
  bool calibrate = true;     ///< off: raw probabilities of the draft, for comparison only
};

class TreeDrafter final : public Drafter {
 public:
  /// Throws Error(kUsage) for options out of range.
  TreeDrafter(std::string name, std::unique_ptr<BranchModel> model,
              const TreeDrafterOptions& options);
  ~TreeDrafter() override;

  std::string name() const override { return name_; }
  void open(const DraftSequence& sequence) override;
  void advance(const DraftVerdict& verdict) override;
  void close(SequenceId id) override;
  std::vector<DraftTree> propose(std::span<const SequenceId> ids,
                                 const DraftLimits& limits) override;
  bool work_ahead() override;
  DraftCounts take_counts() override;

 private:
  struct Sequence;
  using Batch = std::vector<Sequence*>;
  /// A node of a sequence's tree that is to be expanded.
  struct Branch {
    Sequence* sequence = nullptr;
    int32_t node = 0;
  };

  void give_places();
  void lose(Sequence& s);
  void learn(const Sequence& s, const DraftVerdict& verdict);
  void commit(Sequence& s, std::span<const int32_t> tokens);
  void make_room(Sequence& s, const DraftVerdict& verdict);
  void take_in_names();
  void take_features(Sequence& s, const DraftVerdict& verdict);
  void absorb_pending(const Batch& batch);
  void absorb(const Batch& batch, bool rank);
  std::span<const LivingTree::Child> judge(const Sequence& s, std::span<const RankedToken> ranked,
                                           int guesses);
  void grow(const Batch& batch, int levels);
  void add_beam(Sequence& s, int level, int levels, std::vector<Branch>& beam) const;
  std::vector<Branch> ahead_branches() const;
  void expand(std::span<const Branch> branches);
  void expand_rows(std::span<const Branch> branches);
  DraftTree send_best(Sequence& s);
  int width() const;  ///< children per node, and nodes expanded per level

  std::string name_;
  std::unique_ptr<BranchModel> model_;
  TreeDrafterOptions options_;
  Calibration calibration_;
  std::unordered_map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> order_;  ///< by opening, so that batches do not depend on hashes
  std::vector<int> free_places_;
  DraftLimits limits_;  ///< of the last propose()
  DraftCounts counts_;
  std::vector<float> raw_, estimates_;
  std::vector<LivingTree::Child> children_;
};

}  // namespace convoke
