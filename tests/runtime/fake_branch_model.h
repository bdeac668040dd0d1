// A BranchModel whose "network" is a hash of the text, and which checks that its caller keeps
// the contract: every entry it is told to attend to is the one that stands there in the text.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "runtime/branch_model.h"

namespace convoke {

using Text = std::vector<int32_t>;

inline uint64_t mix(uint64_t h, uint64_t value) {
  h = (h ^ (value + 1)) * 0xff51afd7ed558ccdu;
  return h ^ (h >> 29);
}

/// Of the text's length and its end.
inline uint64_t hash_text(const Text& text) {
  uint64_t h = mix(0x9e3779b97f4a7c15u, text.size());
  for (size_t i = text.size() > 32 ? text.size() - 32 : 0; i < text.size(); ++i) {
    h = mix(h, uint64_t(uint32_t(text[i])));
  }
  return h;
}

/// The best tokens to follow a text, of a vocabulary of 40, as this model ranks them.
inline std::vector<RankedToken> rank_after(const Text& text, int count, float temperature) {
  constexpr int kVocabulary = 40;
  std::vector<RankedToken> all;
  const uint64_t seed = hash_text(text);
  for (int v = 0; v < kVocabulary; ++v) {
    const double u = (double(mix(seed, uint64_t(v)) >> 11) + 0.5) / double(uint64_t(1) << 53);
    const double logit = -2.0 * std::log(-std::log(u));
    all.push_back({float(temperature > 0 ? logit / temperature : logit), v});
  }
  std::ranges::sort(all, [](const RankedToken& a, const RankedToken& b) {
    return a.score != b.score ? a.score > b.score : a.token < b.token;
  });
  all.resize(size_t(std::min(count, kVocabulary)));
  return all;
}

struct FakeModelShape {
  int places = 4;
  int slots = 200;
  int max_rows = 24;
  bool features = true;  ///< committed rows come with features, which hold their position
};

class FakeBranchModel final : public BranchModel {
 public:
  explicit FakeBranchModel(const FakeModelShape& shape)
      : shape_(shape), states_(size_t(shape.places)) {}

  int places() const override { return shape_.places; }
  int scratch_slots() const override { return shape_.slots; }
  int max_rows() const override { return shape_.max_rows; }

  void open(int place, const SamplingParams& sampling, int32_t) override {
    State& s = at(place);
    EXPECT_FALSE(s.open);
    s = State{};
    s.open = true;
    s.temperature = sampling.temperature;
  }
  void close(int place) override {
    EXPECT_TRUE(at(place).open);
    at(place).open = false;
  }

  void absorb(std::span<const Committed> committed, int count) override {
    EXPECT_FALSE(committed.empty());
    results_.clear();
    ++passes;
    for (size_t i = 0; i < committed.size(); ++i) {
      for (size_t j = 0; j < i; ++j) EXPECT_NE(committed[i].place, committed[j].place);
      absorb_one(committed[i], count);
    }
  }

  void expand(std::span<const Row> rows, int count) override {
    EXPECT_FALSE(rows.empty());
    EXPECT_LE(int(rows.size()), shape_.max_rows);
    results_.clear();
    ++passes;
    expanded += int(rows.size());
    for (const Row& row : rows) expand_one(row, count);
  }

  std::span<const RankedToken> children(int i) const override { return results_[size_t(i)]; }

  int passes = 0;
  int expanded = 0;

 private:
  struct State {
    bool open = false;
    float temperature = 0;
    Text text;                        ///< all absorbed
    int32_t next_feature = -1;        ///< -1: none came yet
    std::map<int32_t, Text> guessed;  ///< by slot: the whole text up to and with that token
  };
  State& at(int place) {
    EXPECT_TRUE(place >= 0 && place < shape_.places);
    return states_[size_t(place)];
  }

  void absorb_one(const Committed& c, int count) {
    State& s = at(c.place);
    EXPECT_TRUE(s.open);
    ASSERT_GE(c.tokens.size(), s.text.size());
    EXPECT_TRUE(std::equal(s.text.begin(), s.text.end(), c.tokens.begin())) << "another text";
    EXPECT_TRUE(!c.rank || c.tokens.size() > s.text.size() || c.features.rows > 0);
    if (c.features.rows > 0) {
      EXPECT_TRUE(shape_.features);
      EXPECT_TRUE(s.next_feature < 0 || c.feature_begin == s.next_feature);
      for (int64_t r = 0; r < c.features.rows; ++r) {
        EXPECT_EQ(*c.features.row<float>(r), float(c.feature_begin + r));
      }
      s.next_feature = c.feature_begin + int32_t(c.features.rows);
      EXPECT_LT(s.next_feature, int32_t(c.tokens.size())) << "features of unknown tokens";
    }
    s.text.assign(c.tokens.begin(), c.tokens.end());
    results_.push_back(c.rank ? rank_after(s.text, count, s.temperature)
                              : std::vector<RankedToken>{});
  }

  void expand_one(const Row& row, int count) {
    State& s = at(row.place);
    EXPECT_TRUE(s.open);
    ASSERT_FALSE(row.path.empty());
    ASSERT_EQ(row.path.size(), row.path_tokens.size());
    EXPECT_EQ(row.token, row.path_tokens.back());
    Text text = s.text;
    for (size_t i = 0; i < row.path.size(); ++i) {
      EXPECT_TRUE(row.path[i] >= 0 && row.path[i] < shape_.slots);
      for (size_t j = 0; j < i; ++j) EXPECT_NE(row.path[i], row.path[j]);
      text.push_back(row.path_tokens[i]);
      if (i + 1 < row.path.size()) {
        EXPECT_EQ(s.guessed[row.path[i]], text) << "slot of another token";
      }
    }
    s.guessed[row.path.back()] = text;
    results_.push_back(rank_after(text, count, s.temperature));
  }

  FakeModelShape shape_;
  std::vector<State> states_;
  std::vector<std::vector<RankedToken>> results_;
};

}  // namespace convoke
