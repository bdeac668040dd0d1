// A target model whose next token is a hash of all tokens before it, behind the same step plans as
// the real shards. It keeps tokens in paged slots exactly as a shard keeps keys and values, and
// reads every prefix back from there: a plan that names a wrong block, slot, commit or context
// gives wrong tokens.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "runtime/step_plan.h"

namespace convoke::testing {

class FakeTarget {
 public:
  explicit FakeTarget(int vocabulary, int max_rows = 1 << 20)
      : vocabulary_(vocabulary), max_rows_(max_rows) {}

  /// The token after `prefix`.
  int32_t next(const std::vector<int32_t>& prefix, uint64_t seed) const;
  /// What plain decoding gives: up to `count` tokens, ended early by a token in `stops`.
  std::vector<int32_t> generate(std::vector<int32_t> prompt, int count, uint64_t seed,
                                const std::vector<int32_t>& stops = {}) const;

  void execute(const StepPlan& plan, StepResult& result);
  int64_t rows_run() const { return rows_run_; }
  int max_rows_seen() const { return max_rows_seen_; }
  size_t open_places() const { return places_.size(); }

 private:
  struct Place {
    SamplingParams sampling;
    std::vector<int32_t> blocks;
    int32_t tree_slot = 0;
    DraftTree tree;
  };
  int32_t& cell(Place& place, int32_t slot);

  int vocabulary_;
  int max_rows_;
  std::map<int32_t, Place> places_;
  std::map<int64_t, int32_t> memory_;  ///< physical slot -> token
  int64_t rows_run_ = 0;
  int max_rows_seen_ = 0;
};

}  // namespace convoke::testing
