// PaSS, parallel speculative sampling (arXiv 2311.13581): the target drafts for itself. Learned
// look-ahead embeddings LA_1, LA_2, ... stand in for tokens not known yet; the row of LA_i below a
// node ranks the tokens of the i-th position behind the node's own next token.
//
// two-pass, as published: a pass over the root with its look-ahead rows, then a pass that verifies
// what they ranked; by turns. one-pass: every pass does both, since each likely candidate carries
// look-ahead rows of its own: whichever is the last accepted, the next drafts are there already.
#pragma once

#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/drafter.h"
#include "runtime/drafters/calibration.h"
#include "runtime/drafters/pass_tree.h"

namespace convoke {

struct PassOptions {
  std::filesystem::path directory;  ///< empty: random embeddings, for measuring costs
  bool two_pass = false;
  int lookahead = 0;   ///< embeddings used at most; 0 = all there are
  int candidates = 8;  ///< ranked tokens per look-ahead row
  /// "DIR[,mode=one-pass|two-pass][,lookahead=L][,candidates=K]"; DIR may be "random".
  static PassOptions parse(const std::string& argument);  ///< throws Error(kUsage)
};

/// The embeddings a drafter with these options uses: those of its directory's config.json, at most
/// `options.lookahead`. Throws Error(kModel), as lookahead_count does, and if more are asked for
/// than there are.
int pass_lookahead(const PassOptions& options, const ModelConfig& target);

class PassDrafter final : public Drafter {
 public:
  /// `lookahead`: embeddings there are.
  PassDrafter(const PassOptions& options, int lookahead);

  std::string name() const override { return "pass"; }
  void open(const DraftSequence& sequence) override;
  void advance(const DraftVerdict& verdict) override;
  void close(SequenceId id) override { sequences_.erase(id); }
  std::vector<DraftTree> propose(std::span<const SequenceId> ids,
                                 const DraftLimits& limits) override;
  DraftCounts take_counts() override { return std::exchange(counts_, {}); }

  /// How often a look-ahead row's ranking led to an accepted draft, where the ones before it had.
  double hit_rate(int lookahead, bool sampled) const;

 private:
  using Ranking = std::vector<RankedToken>;

  /// What look-ahead rows said about the positions from `begin` on.
  struct Stock {
    int32_t begin = 0;
    std::vector<Ranking> rankings;  ///< [i] is LA_(i+1)'s
  };
  struct Sequence {
    int32_t length = 0;  ///< committed tokens
    float temperature = 0.0f;
    Stock stock;
    PassTree last;  ///< as proposed
    bool sampled() const { return temperature > 0.0f; }
    /// What is in stock for the next positions, and how far ahead of the rows' anchor it looks.
    std::span<const Ranking> rankings() const;
    int distance() const { return length - stock.begin; }
  };
  struct Hits {
    double hits = 0, trials = 0;
  };

  void learn(const Sequence& sequence, const DraftVerdict& verdict);
  bool restock(Sequence& sequence, const DraftVerdict& verdict);
  PassTree make_tree(const Sequence& sequence, const DraftLimits& limits);

  PassOptions options_;
  int lookahead_;
  std::unordered_map<SequenceId, Sequence> sequences_;
  Calibration calibration_;
  std::vector<Hits> hits_[2];  ///< [sampled][look-ahead index], decaying
  DraftCounts counts_;
  std::vector<float> raw_;
};

}  // namespace convoke
