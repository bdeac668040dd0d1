#include "runtime/penalties.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <new>
#include <random>

#include "runtime/draft_tree.h"

namespace {
int64_t allocations = 0;
}  // namespace

// Not inlined: GCC 12 would take the malloc of one and the free of the other for a mismatch.
__attribute__((noinline)) void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept {
  std::free(memory);
}
__attribute__((noinline)) void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}

namespace convoke {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Logits of a row after everything a request asks for, token by token, from the whole history.
std::vector<float> processed(const std::vector<float>& logits, const SamplingParams& params,
                             const std::vector<int32_t>& tokens, size_t prompt_tokens,
                             const std::vector<int32_t>& path) {
  std::vector<int32_t> outputs;
  if (tokens.size() > prompt_tokens) outputs.assign(tokens.begin() + prompt_tokens, tokens.end());
  outputs.insert(outputs.end(), path.begin(), path.end());
  std::vector<float> result = logits;
  for (int32_t v = 0; v < int32_t(logits.size()); ++v) {
    const auto count = std::count(outputs.begin(), outputs.end(), v);
    const bool prompted = std::count(tokens.begin(), tokens.end(), v) > 0;
    float& l = result[size_t(v)];
    if (count > 0 || prompted) {
      l = l > 0 ? l / params.repetition_penalty : l * params.repetition_penalty;
    }
    float add = 0;
    if (count > 0) {
      add -= params.presence_penalty;
      add -= params.frequency_penalty * float(count);
    }
    for (const auto& [token, bias] : params.logit_bias) add += token == v ? bias : 0;
    l += add;
    if (int64_t(outputs.size()) < params.min_tokens &&
        std::count(params.stop_tokens.begin(), params.stop_tokens.end(), v) > 0) {
      l = -kInfinity;
    }
  }
  return result;
}

std::vector<float> apply(std::vector<float> logits, std::span<const LogitEdit> edits) {
  int32_t last = -1;
  for (const LogitEdit& edit : edits) {
    EXPECT_LT(last, edit.token) << "sorted, no duplicates, no look-ahead rows";
    last = edit.token;
    float& l = logits[size_t(edit.token)];
    l = (l > 0 ? l / edit.repetition : l * edit.repetition) + edit.add;
  }
  return logits;
}

struct History {
  std::mt19937 random;
  int32_t vocabulary;
  explicit History(uint32_t seed) : random(seed), vocabulary(int32_t(5 + seed % 60)) {}

  int32_t token() { return int32_t(random() % uint32_t(vocabulary)); }
  bool coin() { return random() % 2; }
  std::vector<int32_t> tokens(size_t count) {
    std::vector<int32_t> list(count);
    for (int32_t& t : list) t = token();
    return list;
  }
  std::vector<float> logits() {
    std::vector<float> list(static_cast<size_t>(vocabulary));
    for (float& l : list) l = float(int(random() % 65) - 32) / 8;
    return list;
  }
  SamplingParams params() {
    SamplingParams p;
    p.max_tokens = 64;
    if (coin()) p.repetition_penalty = coin() ? 1.3f : 0.7f;
    if (coin()) p.presence_penalty = coin() ? 0.6f : -0.25f;
    if (coin()) p.frequency_penalty = coin() ? 0.35f : -0.5f;
    for (int32_t v = 0; coin() && v < vocabulary; v += 1 + int32_t(random() % 9)) {
      p.logit_bias.push_back({v, float(int(random() % 9) - 4)});
    }
    if (coin()) p.min_tokens = int32_t(random() % 12);
    if (coin()) p.stop_tokens = tokens(1 + random() % 3);
    return p;
  }
  DraftTree tree() {
    DraftTree tree;
    const auto size = int32_t(random() % 12);
    for (int32_t i = 0; i < size; ++i)
      tree.nodes.push_back({int32_t(random() % (i + 1)) - 1, token(), false});
    return tree;
  }
};

std::vector<int32_t> path_to(const DraftTree& tree, int32_t node) {
  std::vector<int32_t> path;
  for (; node >= 0; node = tree.nodes[size_t(node)].parent) {
    path.insert(path.begin(), tree.nodes[size_t(node)].token);
  }
  return path;
}

// Random sequences decoded with random trees, in random prompt chunks, every row of every tree
// against the whole history recounted.
TEST(TokenCounts, EveryRowOfEveryTreeMatchesARecount) {
  std::vector<LogitEdit> storage;
  for (uint32_t seed = 0; seed < 300; ++seed) {
    History h(seed);
    const SamplingParams params = h.params();
    const size_t prompt = 1 + h.random() % 30;
    std::vector<int32_t> tokens = h.tokens(prompt);
    TokenCounts counts;
    counts.reset(params, int(prompt));
    for (size_t done = 0; done < prompt;) {
      const size_t chunk = std::min(prompt - done, 1 + h.random() % 10);
      counts.append(std::span(tokens).subspan(done, chunk));
      done += chunk;
    }
    for (int step = 0; step < 12; ++step) {
      const DraftTree tree = h.tree();
      const std::vector<float> logits = h.logits();
      for (int32_t node = -1; node < tree.size(); ++node) {
        const std::vector<int32_t> path = path_to(tree, node);
        EXPECT_EQ(apply(logits, counts.edits(path, storage)),
                  processed(logits, params, tokens, prompt, path))
            << "seed " << seed << " step " << step << " node " << node;
      }
      // Some path is accepted, and one token more.
      std::vector<int32_t> accepted =
          path_to(tree, int32_t(h.random() % uint32_t(tree.size() + 1)) - 1);
      accepted.push_back(h.token());
      counts.append(accepted);
      tokens.insert(tokens.end(), accepted.begin(), accepted.end());
    }
  }
}

TEST(TokenCounts, APreemptedSequenceIsCountedAsBefore) {
  std::vector<LogitEdit> a, b;
  for (uint32_t seed = 0; seed < 100; ++seed) {
    History h(seed);
    const SamplingParams params = h.params();
    const std::vector<int32_t> tokens = h.tokens(40);
    const int prompt = int(1 + h.random() % 39);
    TokenCounts steady, restarted;
    steady.reset(params, prompt);
    for (int32_t token : tokens) steady.append({&token, 1});
    restarted.reset(h.params(), 7);  // another sequence had the place before
    restarted.append(h.tokens(20));
    restarted.reset(params, prompt);
    restarted.append(tokens);  // recomputed in one chunk across the end of the prompt
    const std::vector<int32_t> path = h.tokens(seed % 4);
    const std::vector<float> logits = h.logits();
    EXPECT_EQ(apply(logits, steady.edits(path, a)), apply(logits, restarted.edits(path, b)));
  }
}

TEST(TokenCounts, StopTokensAreBannedUntilEnoughOutputsPrecedeTheRow) {
  SamplingParams params;
  params.min_tokens = 4;
  params.stop_tokens = {9, 2};
  params.logit_bias = {{2, 50.0f}};  // no bias lifts a ban
  for (int outputs = 0; outputs < 6; ++outputs) {
    TokenCounts counts;
    counts.reset(params, 3);
    counts.append(std::vector<int32_t>(size_t(3 + outputs), 1));
    for (int depth = 0; depth < 6; ++depth) {
      std::vector<LogitEdit> storage;
      const std::vector<int32_t> path(size_t(depth), 5);
      const auto edits = counts.edits(path, storage);
      const bool banned = outputs + depth < 4;
      ASSERT_EQ(edits.size(), banned ? 2u : 1u);
      EXPECT_EQ(edits[0].token, 2);
      EXPECT_EQ(edits[0].add, banned ? -kInfinity : 50.0f);
      if (banned) {
        EXPECT_EQ(edits[1].token, 9);
        EXPECT_EQ(edits[1].add, -kInfinity);
      }
    }
  }
}

TEST(TokenCounts, LookaheadRowsTakeAPlaceButAreNoToken) {
  SamplingParams params;
  params.presence_penalty = 1;
  params.min_tokens = 3;
  params.stop_tokens = {8};
  TokenCounts counts;
  counts.reset(params, 1);
  counts.append(std::vector<int32_t>{4, 5});
  std::vector<LogitEdit> storage;
  auto edits = counts.edits(std::vector<int32_t>{-1}, storage);
  ASSERT_EQ(edits.size(), 2u);
  EXPECT_EQ(edits[0].token, 5);
  EXPECT_EQ(edits[1].token, 8);
  edits = counts.edits(std::vector<int32_t>{-1, -2}, storage);
  ASSERT_EQ(edits.size(), 1u);
  EXPECT_EQ(edits[0].token, 5);
}

TEST(TokenCounts, NothingAskedCostsNothing) {
  SamplingParams params;
  params.stop_tokens = {1};
  TokenCounts counts;
  counts.reset(params, 2);
  counts.append(std::vector<int32_t>{1, 2, 3, 1});
  std::vector<LogitEdit> storage;
  EXPECT_TRUE(counts.edits(std::vector<int32_t>{1, 2}, storage).empty());
  // The prompt is no business of presence and frequency.
  params.frequency_penalty = 0.5f;
  counts.reset(params, 4);
  counts.append(std::vector<int32_t>{1, 2, 3, 1});
  EXPECT_TRUE(counts.edits({}, storage).empty());
}

TEST(TokenCounts, ARunningSequenceAllocatesNothing) {
  History h(1);
  h.vocabulary = 5000;
  SamplingParams params;
  params.repetition_penalty = 1.1f;
  params.frequency_penalty = 0.1f;
  params.logit_bias = {{17, 1.0f}};
  params.stop_tokens = {3, 4};
  params.min_tokens = 50;
  params.max_tokens = 400;
  TokenCounts counts;
  counts.reset(params, 100);
  counts.append(h.tokens(100));
  std::vector<LogitEdit> storage;
  counts.edits({}, storage);
  const std::vector<int32_t> outputs = h.tokens(400), path = h.tokens(40);
  const int64_t before = allocations;
  for (const int32_t& token : outputs) {
    counts.append({&token, 1});
    for (size_t depth = 0; depth <= path.size(); depth += 8) {
      counts.edits(std::span(path).first(depth), storage);
    }
  }
  EXPECT_EQ(allocations, before);
}

}  // namespace
}  // namespace convoke
