#include "tests/support/fake_target.h"

#include <algorithm>

#include "kernels/backend.h"
#include "kernels/check.h"

namespace convoke::testing {

int32_t FakeTarget::next(const std::vector<int32_t>& prefix, uint64_t seed) const {
  uint64_t h = 1469598103934665603ULL ^ seed;
  for (int32_t t : prefix) h = (h ^ uint64_t(uint32_t(t))) * 1099511628211ULL;
  h ^= h >> 29;
  h *= 0xbf58476d1ce4e5b9ULL;
  h ^= h >> 32;
  return int32_t(h % uint64_t(vocabulary_));
}

std::vector<int32_t> FakeTarget::generate(std::vector<int32_t> prompt, int count, uint64_t seed,
                                          const std::vector<int32_t>& stops) const {
  std::vector<int32_t> out;
  while (int(out.size()) < count) {
    const int32_t token = next(prompt, seed);
    if (std::ranges::find(stops, token) != stops.end()) break;
    out.push_back(token);
    prompt.push_back(token);
  }
  return out;
}

int32_t& FakeTarget::cell(Place& place, int32_t slot) {
  const int64_t block = place.blocks.at(size_t(slot / kKvBlockSize));
  return memory_[block * kKvBlockSize + slot % kKvBlockSize];
}

void FakeTarget::execute(const StepPlan& plan, StepResult& result) {
  for (int32_t place : plan.closed) CONVOKE_CHECK_EQ(places_.erase(place), 1u);
  for (const OpenSequence& open : plan.opened) {
    CONVOKE_CHECK(!places_.contains(open.place));
    places_[open.place].sampling = open.sampling;
  }
  CONVOKE_CHECK_LE(plan.rows(), max_rows_);
  rows_run_ += plan.rows();
  max_rows_seen_ = std::max(max_rows_seen_, plan.rows());
  result = {};
  for (const SequenceRows& rows : plan.sequences) {
    Place& place = places_.at(rows.place);
    place.blocks.insert(place.blocks.end(), rows.new_blocks.begin(), rows.new_blocks.end());
    int32_t to = place.tree_slot;
    for (int32_t node : rows.commit) cell(place, to++) = cell(place, place.tree_slot + node);
    CONVOKE_CHECK(rows.commit.empty() || to == rows.context);

    const auto chain = int32_t(rows.chain.size());
    for (int32_t i = 0; i < chain; ++i) cell(place, rows.context + i) = rows.chain[size_t(i)];
    place.tree_slot = rows.context + chain;
    place.tree = rows.tree;
    for (int n = 0; n < rows.tree.size(); ++n) {
      cell(place, place.tree_slot + n) = rows.tree.nodes[size_t(n)].token;
    }
    SequencePicks& picks = result.sequences.emplace_back();
    if (!rows.pick) {
      CONVOKE_CHECK(rows.tree.empty());
      continue;
    }
    std::vector<int32_t> prefix;
    for (int32_t s = 0; s < place.tree_slot; ++s) prefix.push_back(cell(place, s));
    for (int n = -1; n < rows.tree.size(); ++n) {
      std::vector<int32_t> path;
      for (int a = n; a >= 0; a = rows.tree.nodes[size_t(a)].parent) {
        path.insert(path.begin(), cell(place, place.tree_slot + a));
      }
      std::vector<int32_t> whole = prefix;
      whole.insert(whole.end(), path.begin(), path.end());
      Pick pick;
      pick.token = next(whole, place.sampling.seed);
      pick.digest = whole.size();
      picks.picks.push_back(pick);
    }
  }
}

}  // namespace convoke::testing
