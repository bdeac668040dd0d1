// Drafting with Medusa heads: every head guesses one of the next places without knowing the ones
// between, so a tree is made of the products of their candidates' probabilities.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/drafter.h"
#include "runtime/drafters/calibration.h"
#include "runtime/heads/medusa_heads.h"
#include "runtime/penalties.h"

namespace convoke {

class MedusaDrafter final : public Drafter {
 public:
  MedusaDrafter(std::unique_ptr<Backend> backend, std::unique_ptr<MedusaHeads> heads);

  std::string name() const override { return "medusa"; }
  void open(const DraftSequence& sequence) override;
  void advance(const DraftVerdict& verdict) override;
  void close(SequenceId id) override { sequences_.erase(id); }
  std::vector<DraftTree> propose(std::span<const SequenceId> ids,
                                 const DraftLimits& limits) override;
  DraftCounts take_counts() override;

 private:
  /// One head's candidates for one place of a sequence.
  struct Guess {
    std::vector<int32_t> tokens;
    std::vector<float> raw;       ///< what the head's ranking says
    std::vector<float> estimate;  ///< what came of such figures
  };
  struct Sequence {
    int32_t tokens = 0;
    SamplingParams sampling;
    TokenCounts counts;
    std::vector<float> feature;  ///< the last that came
    int32_t feature_position = -1;
    std::vector<Guess> guesses;  ///< per head, made at `guessed_at` tokens
    int32_t guessed_at = -1;
    std::vector<LogitEdit> edits;
  };

  void learn(const Sequence& sequence, std::span<const int32_t> tokens);
  void rank(std::span<Sequence* const> batch, int count);
  DraftTree best_tree(const Sequence& sequence, const DraftLimits& limits) const;

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<MedusaHeads> heads_;
  Calibration calibration_;
  std::unordered_map<SequenceId, Sequence> sequences_;
  DraftCounts counts_;
};

/// Opens `spec`'s heads: a directory, a file, or "random". Throws Error(kModel).
std::unique_ptr<Drafter> make_medusa_drafter(const DrafterSpec& spec, const DraftContext& context);

}  // namespace convoke
