// Lookahead decoding (Fu et al., "Break the sequential dependency of LLM inference using lookahead
// decoding", ICML 2024): the target guesses for itself, without training. Besides the root, a pass
// computes a window of guesses by Jacobi iteration; the n-grams that appear along its columns go to
// a pool, and those that start with the last token are verified as drafts.
//
// The window has `ngram - 1` levels and `window` columns. Level l of column i is a guess for the
// position i + l behind the root's own; level 0 is a chain below the root, and every other row
// hangs below its column's row of the level before. What the target picks after the last level
// completes an n-gram, and is the last level of the next pass's window, which starts one level
// higher. That is one position further, as is a root after one token. After more tokens the window
// is not moved (as in the authors' program): its guesses are no better for a later place than for
// this one, and moving it throws columns away (measured on the demo model at T = 0: 2.1 accepted
// drafts a pass instead of 2.7).
#pragma once

#include <array>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/drafter.h"

namespace convoke {

struct LookaheadOptions {
  int window = 7;   ///< columns
  int ngram = 5;    ///< tokens of an n-gram
  int guesses = 7;  ///< n-grams verified in one pass, and kept per first token
  /// "window=W,ngram=N,guesses=G"; throws Error(kUsage)
  static LookaheadOptions parse(const std::string& argument);
};

/// N-grams by their first token, the most recent first. Bounded: per token, and in all, where the
/// tokens that were added to least recently are forgotten.
class NgramPool {
 public:
  NgramPool(int per_token, size_t most_tokens)
      : per_token_(size_t(per_token)), most_tokens_(most_tokens) {}

  /// `rest`: what follows `first`. One that is there already becomes the most recent.
  void add(int32_t first, std::vector<int32_t> rest);
  /// What has followed `token`, the most recent first.
  const std::vector<std::vector<int32_t>>& after(int32_t token) const;
  size_t tokens() const { return entries_.size(); }

 private:
  struct Entry {
    std::vector<std::vector<int32_t>> followers;
    std::list<int32_t>::iterator place;  ///< in order_
  };
  size_t per_token_;
  size_t most_tokens_;
  std::unordered_map<int32_t, Entry> entries_;
  std::list<int32_t> order_;  ///< tokens, the one added to last at the end
};

/// The guesses of one sequence: columns of levels.
class JacobiWindow {
 public:
  /// Filled with tokens of `context`, the same on every machine.
  JacobiWindow(const LookaheadOptions& options, const std::vector<int32_t>& context);

  int32_t token(int level, int column) const { return columns_[size_t(column)][size_t(level)]; }
  /// The column moves on by a level: `pick` is what the target took after its last one.
  void advance(int column, int32_t pick);
  /// The n-gram that a pick completes: first token and the rest.
  std::vector<int32_t> completed(int column, int32_t pick) const;

 private:
  using Column = std::vector<int32_t>;
  std::vector<Column> columns_;
};

class LookaheadDrafter final : public Drafter {
 public:
  explicit LookaheadDrafter(const LookaheadOptions& options)
      : options_(options), hits_(size_t(options.ngram - 1)) {}

  std::string name() const override { return "lookahead"; }
  void open(const DraftSequence& sequence) override;
  void advance(const DraftVerdict& verdict) override;
  void close(SequenceId id) override { sequences_.erase(id); }
  std::vector<DraftTree> propose(std::span<const SequenceId> ids,
                                 const DraftLimits& limits) override;

 private:
  struct Sequence {
    NgramPool pool;
    JacobiWindow window;
    int32_t last_token = 0;
    DraftTree tree;                       ///< as proposed last
    std::vector<int32_t> column_of_node;  ///< whose last level a node is; -1 of others
  };
  /// Decaying mean with a prior.
  struct Rate {
    double sum = 0, weight = 0;
    double value(double prior) const { return (sum + 4.0 * prior) / (weight + 4.0); }
    void add(double x);
  };

  void learn(const Sequence& sequence, const DraftVerdict& verdict);
  double hit_rate(size_t depth, size_t rank) const;
  DraftTree guess(const Sequence& sequence, int max_nodes, int max_depth) const;
  void append_window(Sequence& sequence, int columns, double gain) const;
  void propose_one(Sequence& sequence, const DraftLimits& limits) const;

  LookaheadOptions options_;
  std::unordered_map<SequenceId, Sequence> sequences_;
  static constexpr size_t kRanks = 4;  ///< further siblings count as the last
  std::vector<std::array<Rate, kRanks>>
      hits_;    ///< [depth]: a draft hits, its parent being accepted
  Rate yield_;  ///< accepted tokens per column computed
};

}  // namespace convoke
