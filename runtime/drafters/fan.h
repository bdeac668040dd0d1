// A fixed number of guesses for the next token, the same every time. It is for measuring what a
// pass over so many rows costs (`convoke bench` uses it for the floor), not for speed.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/drafter.h"

namespace convoke {

class FanDrafter : public Drafter {
 public:
  /// `nodes` children of the root: tokens 0 .. nodes - 1 (modulo the vocabulary).
  FanDrafter(int nodes, int vocabulary) : nodes_(nodes), vocabulary_(vocabulary) {}
  /// "7" -> 7. Throws Error(kUsage).
  static int parse_nodes(const std::string& argument);

  std::string name() const override { return "fan"; }
  void open(const DraftSequence&) override {}
  void advance(const DraftVerdict&) override {}
  void close(SequenceId) override {}
  std::vector<DraftTree> propose(std::span<const SequenceId> ids,
                                 const DraftLimits& limits) override;

 private:
  int nodes_;
  int vocabulary_;
};

}  // namespace convoke
