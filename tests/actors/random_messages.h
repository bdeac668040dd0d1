// Random messages of every kind, valid for the codec; shared by the codec's tests.
#pragma once

#include <cstdint>
#include <random>

#include "actors/messages.h"

namespace convoke {

class RandomMessages {
 public:
  explicit RandomMessages(uint64_t seed) : random_(seed) {}

  /// A message of the given alternative of Message.
  Message make(size_t kind);
  StepPlan step_plan(int sequences, int chain, int nodes);

 private:
  int32_t in(int32_t low, int32_t high);  ///< inclusive
  bool coin() { return in(0, 1) == 1; }
  float number();  ///< any finite float, zeros of both signs included
  std::string text();
  std::vector<int32_t> tokens(int most);
  DraftTree tree(int nodes);
  SamplingParams sampling();
  RequestOutput request_output();
  VerdictBatch verdict_batch();
  DraftTrees draft_trees();

  std::mt19937_64 random_;
};

/// Whether two messages are the same to the bit.
bool same(const Message& a, const Message& b);

}  // namespace convoke
