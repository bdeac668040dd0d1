// Branch models beyond what one head computes: many places at once, features that come late, early,
// twice or never, noise, penalties, room that runs out, and small models as drafters.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/noise.h"
#include "runtime/heads/draft_transformer.h"
#include "tests/support/heads_fixture.h"

namespace convoke {
namespace {

using testing::golden_context;
using testing::GoldenHead;
using testing::load_golden_head;
using testing::OpenHead;
using testing::RunOptions;
using testing::Trace;

using Ranked = std::vector<RankedToken>;

Ranked copy(std::span<const RankedToken> children) {
  return {children.begin(), children.end()};
}

SamplingParams greedy() {
  SamplingParams p;
  p.temperature = 0;
  return p;
}

/// A head and the features of its golden file as one matrix.
struct Bench {
  explicit Bench(const std::string& name, const testing::HeadShape& shape = {})
      : golden(load_golden_head(name)), head(golden, shape) {
    for (const auto& row : golden.features) flat.insert(flat.end(), row.begin(), row.end());
    features = TensorView::matrix(flat.data(), DType::kFloat32, int64_t(golden.features.size()),
                                  int64_t(golden.features.front().size()));
  }
  BranchModel& model() { return *head.model; }
  BranchModel::Committed committed(int place, int tokens, int begin, int end, bool rank = true) {
    return {place, std::span(golden.tokens).first(size_t(tokens)), begin,
            features.row_range(begin, end), rank};
  }
  Ranked absorb(const BranchModel::Committed& c, int count = 16) {
    model().absorb({&c, 1}, count);
    return copy(model().children(0));
  }
  Ranked expand(int place, int32_t token, std::vector<int32_t> path,
                std::vector<int32_t> path_tokens, int count = 16) {
    const BranchModel::Row row{place, token, path, path_tokens};
    model().expand({&row, 1}, count);
    return copy(model().children(0));
  }

  GoldenHead golden;
  OpenHead head;
  std::vector<float> flat;
  TensorView features;
};

TEST(BranchModels, ManyPlacesAtOnceAreTheSameBitsAsEachAlone) {
  for (const char* name : {"eagle-fp32", "eagle3-reduced-bf16"}) {
    for (const int max_rows : {64, 6}) {  // several passes, too
      Bench bench(name, {.max_rows = max_rows});
      // Three texts of different length; the rows of their trees interleave.
      const int lengths[] = {20, 9, 14};
      std::vector<Ranked> alone, together;
      for (int p = 0; p < 3; ++p) {
        bench.model().open(p, greedy(), lengths[p] - 1);
        alone.push_back(bench.absorb(bench.committed(p, lengths[p], 0, lengths[p] - 1)));
        alone.push_back(bench.expand(p, 5 + p, {p}, {5 + p}));
        alone.push_back(bench.expand(p, 30 + p, {p, 20}, {5 + p, 30 + p}));
        bench.model().close(p);
      }
      std::vector<BranchModel::Committed> all;
      for (int p = 0; p < 3; ++p) {
        bench.model().open(p, greedy(), lengths[p] - 1);
        all.push_back(bench.committed(p, lengths[p], 0, lengths[p] - 1));
      }
      bench.model().absorb(all, 16);
      std::vector<Ranked> roots, first, second;
      for (int p = 0; p < 3; ++p) roots.push_back(copy(bench.model().children(p)));
      std::vector<std::vector<int32_t>> paths, tokens;
      for (int p = 0; p < 3; ++p) {
        paths.push_back({p});
        tokens.push_back({5 + p});
      }
      std::vector<BranchModel::Row> rows;
      for (const int p : {2, 0, 1}) rows.push_back({p, 5 + p, paths[size_t(p)], tokens[size_t(p)]});
      bench.model().expand(rows, 16);
      first = {copy(bench.model().children(1)), copy(bench.model().children(2)),
               copy(bench.model().children(0))};
      for (int p = 0; p < 3; ++p) {
        paths[size_t(p)].push_back(20);
        tokens[size_t(p)].push_back(30 + p);
      }
      rows.clear();
      for (int p = 0; p < 3; ++p) {
        rows.push_back({p, 30 + p, paths[size_t(p)], tokens[size_t(p)]});
      }
      bench.model().expand(rows, 16);
      for (int p = 0; p < 3; ++p) second.push_back(copy(bench.model().children(p)));
      for (size_t p = 0; p < 3; ++p) {
        together.insert(together.end(), {roots[p], first[p], second[p]});
      }
      EXPECT_EQ(together, alone) << name << ", passes of " << max_rows;
    }
  }
}

TEST(BranchModels, PositionsThatComeAgainAreIgnored) {
  Bench bench("eagle-fp32");
  bench.model().open(0, greedy(), 19);
  const Ranked expected = bench.absorb(bench.committed(0, 20, 0, 19));
  bench.model().close(0);
  bench.model().open(0, greedy(), 19);
  bench.absorb(bench.committed(0, 20, 0, 10, false));
  bench.absorb(bench.committed(0, 20, 3, 12, false));  // as after a preemption
  EXPECT_EQ(bench.absorb(bench.committed(0, 20, 5, 19)), expected);
  // And asked again, with nothing new, the answer is the same.
  EXPECT_EQ(bench.absorb(bench.committed(0, 20, 19, 19)), expected);
  EXPECT_EQ(bench.absorb(bench.committed(0, 20, 0, 19)), expected);
}

TEST(BranchModels, AFeatureMayComeBeforeItsToken) {
  Bench bench("eagle3-fp32");
  bench.model().open(0, greedy(), 19);
  const Ranked expected = bench.absorb(bench.committed(0, 20, 0, 19));
  bench.model().close(0);
  bench.model().open(0, greedy(), 19);
  // 19 tokens: the feature of position 18 has no token to go with yet.
  bench.absorb(bench.committed(0, 19, 0, 19, false));
  EXPECT_EQ(bench.absorb(bench.committed(0, 20, 19, 19)), expected);
}

TEST(BranchModels, FeaturesThatNeverCameAreZeros) {
  for (const char* name : {"eagle-fp32", "eagle3-wide-fp32"}) {
    Bench bench(name);
    bench.model().open(0, greedy(), 19);
    const Ranked late = bench.absorb(bench.committed(0, 20, 8, 19));
    bench.model().close(0);
    std::fill_n(bench.flat.begin(), 8 * bench.features.cols, 0.0f);
    bench.model().open(0, greedy(), 19);
    const Ranked zeros = bench.absorb(bench.committed(0, 20, 0, 19));
    bench.model().close(0);
    EXPECT_EQ(late, zeros) << name;
    bench.model().open(0, greedy(), 19);
    const Ranked none = bench.absorb(bench.committed(0, 20, 0, 0));
    EXPECT_EQ(none.size(), 16u);
    Bench fresh(name);
    fresh.model().open(0, greedy(), 19);
    EXPECT_EQ(fresh.absorb(fresh.committed(0, 20, 0, 0)), none)
        << "nothing stays of the text that had the place before";
  }
}

TEST(BranchModels, ShortestTexts) {
  Bench bench("eagle-fp32");
  bench.model().open(0, greedy(), 1);
  // One token, nothing picked yet: there is no pair of feature and token.
  EXPECT_TRUE(bench.absorb(bench.committed(0, 1, 0, 1)).empty());
  EXPECT_EQ(bench.absorb(bench.committed(0, 2, 1, 1)).size(), 16u);
  EXPECT_EQ(bench.expand(0, 7, {30}, {7}).size(), 16u);
  EXPECT_TRUE(bench.expand(0, 7, {30}, {7}, 0).empty());
  bench.model().expand({}, 4);
  bench.model().absorb({}, 4);
}

TEST(BranchModels, ScoresAreThePickRulesWithTheNoiseOfTheChildsPosition) {
  // A reduced vocabulary, to see all of it.
  for (const bool shared : {true, false}) {
    Bench bench("eagle3-wide-fp32", {.shared_noise = shared});
    SamplingParams warm;
    warm.temperature = 0.7f;
    warm.seed = 99;
    warm.top_k = 2;  // filters are the target's business
    std::vector<Ranked> plain, noisy;
    for (const bool sampled : {false, true}) {
      auto& out = sampled ? noisy : plain;
      bench.model().open(1, sampled ? warm : greedy(), 19);
      out.push_back(bench.absorb(bench.committed(1, 20, 0, 19), 40));
      out.push_back(bench.expand(1, 50, {4}, {50}, 40));
      out.push_back(bench.expand(1, 51, {4, 9}, {50, 51}, 40));
      bench.model().close(1);
    }
    for (size_t row = 0; row < plain.size(); ++row) {
      Ranked expected = plain[row];
      ASSERT_EQ(expected.size(), 40u);
      for (RankedToken& token : expected) {
        token.score /= 0.7f;
        if (shared) token.score += gumbel(99, 20 + int64_t(row), token.token);
      }
      std::ranges::sort(expected, [](const RankedToken& a, const RankedToken& b) {
        return a.score > b.score || (a.score == b.score && a.token < b.token);
      });
      EXPECT_EQ(noisy[row], expected) << "row " << row << (shared ? " noise" : " no noise");
    }
  }
}

TEST(BranchModels, PenaltiesCountThePath) {
  Bench bench("eagle-reduced-fp32");
  bench.model().open(0, greedy(), 19);
  const Ranked before = bench.absorb(bench.committed(0, 20, 0, 19), 50);
  const Ranked plain = bench.expand(0, 40, {0}, {40}, 50);
  bench.model().close(0);
  SamplingParams penalties = greedy();
  penalties.presence_penalty = 0.75f;
  penalties.logit_bias = {{before[3].token, 2.5f}};
  const int32_t drafted = plain[0].token;  // as a draft: one that the vocabulary has
  const int32_t committed_token = bench.golden.tokens[19];
  penalties.stop_tokens = {before[1].token};
  penalties.min_tokens = 100;  // banned until then
  bench.model().open(0, penalties, 19);
  bench.absorb(bench.committed(0, 20, 0, 19), 50);
  const Ranked changed = bench.expand(0, 40, {0}, {drafted}, 50);
  EXPECT_EQ(changed.size(), plain.size() - 1);
  for (const RankedToken& token : plain) {
    const auto at = std::ranges::find(changed, token.token, &RankedToken::token);
    if (token.token == before[1].token) {
      EXPECT_EQ(at, changed.end());
      continue;
    }
    ASSERT_NE(at, changed.end());
    float expected = 0;
    if (token.token == before[3].token) expected += 2.5f;
    if (token.token == drafted || token.token == committed_token) expected -= 0.75f;
    EXPECT_FLOAT_EQ(at->score, token.score + expected) << token.token;
  }
}

TEST(BranchModels, APlaceWithoutRoomGivesNothingAndHarmsNobody) {
  Bench bench("eagle-fp32");
  const GoldenHead& golden = bench.golden;
  const TargetTensors target = open_target(golden_context(golden, {}));
  const HeadConfig config = load_head_config(HeadKind::kEagle, golden.directory, target.config);
  // Two blocks each for guesses, one for a text of up to 16 entries; nothing else.
  const BranchLimits limits{
      .places = 3, .scratch_slots = 31, .max_rows = 64, .max_positions = 18, .kv_blocks = 5};
  EagleHead head(*bench.head.backend, config, open_head(golden.directory), target,
                 {.limits = limits, .dtype = "float32"});
  const auto absorb = [&](int place, int tokens) {
    const auto c = bench.committed(place, tokens, 0, tokens - 1);
    head.absorb({&c, 1}, 8);
    return copy(head.children(0));
  };
  head.open(0, greedy(), 10);
  const Ranked first = absorb(0, 12);
  EXPECT_EQ(first.size(), 8u);
  head.open(1, greedy(), 10);
  EXPECT_TRUE(absorb(1, 12).empty()) << "room for guesses, none for the text";
  const std::vector<int32_t> path{3}, tokens{9};
  const BranchModel::Row rows[] = {{1, 9, path, tokens}, {0, 9, path, tokens}};
  head.expand(rows, 8);
  EXPECT_TRUE(head.children(0).empty());
  EXPECT_EQ(head.children(1).size(), 8u);
  head.open(2, greedy(), 10);
  EXPECT_TRUE(absorb(2, 12).empty()) << "no room at all";
  head.close(0);
  head.close(1);
  head.close(2);
  head.open(1, greedy(), 10);
  EXPECT_EQ(absorb(1, 12), first) << "room again";
  EXPECT_EQ(absorb(1, 19).size(), 8u) << "18 entries are the most";
  EXPECT_TRUE(absorb(1, 20).empty());
  EXPECT_TRUE(absorb(1, 21).empty()) << "until it is closed";
}

// --- small models as drafters -------------------------------------------------------------------

const std::filesystem::path kModels = CONVOKE_SOURCE_DIR "/tests/golden/models";

DraftContext model_context(const std::string& name) {
  DraftContext context;
  context.model = kModels / name;
  context.dtype = "float32";
  context.max_sequences = 2;
  return context;
}

TEST(DraftModel, RanksWhatTransformersComputes) {
  for (const char* name : {"llama-gqa-bf16", "qwen2-tied-bf16", "mistral-window-bf16"}) {
    std::ifstream file(kModels / name / "golden.json");
    const nlohmann::json golden = nlohmann::json::parse(file);
    const auto prompt = golden.at("prompt").get<std::vector<int32_t>>();
    const auto logits = golden.at("logits").back().get<std::vector<float>>();
    const auto backend = cpu::make_cpu_backend({});
    // Passes of 10 rows: the prompt takes several.
    const auto model = open_branch_model("draft-model", (kModels / name).string(),
                                         model_context(name), {.max_rows = 10}, *backend);
    model->open(0, greedy(), int32_t(prompt.size()));
    const BranchModel::Committed committed{.place = 0, .tokens = prompt};
    model->absorb({&committed, 1}, 8);
    std::vector<int32_t> order(logits.size());
    for (size_t v = 0; v < order.size(); ++v) order[v] = int32_t(v);
    std::ranges::sort(order, [&](int a, int b) { return logits[size_t(a)] > logits[size_t(b)]; });
    ASSERT_EQ(model->children(0).size(), 8u);
    for (size_t i = 0; i < 8; ++i) {
      EXPECT_NEAR(model->children(0)[i].score, logits[size_t(order[i])], 1e-4) << name << i;
    }
    EXPECT_EQ(model->children(0)[0].token, golden.at("greedy")[0].get<int32_t>());
  }
}

TEST(DraftModel, GuessingAPathIsTheSameBitsAsCommittingIt) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    DraftContext context = model_context("llama-gqa-bf16");
    context.dtype = dtype;
    const auto backend = cpu::make_cpu_backend({.threads = 2});
    const auto model = open_branch_model("draft-model", (kModels / "llama-gqa-bf16").string(),
                                         context, {.scratch_slots = 40}, *backend);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 21; ++i) tokens.push_back((i * 37 + 5) % 131);
    const auto prompt = std::span(tokens).first(17);
    model->open(0, greedy(), 17);
    model->open(1, greedy(), 17);
    for (const int place : {0, 1}) {
      const BranchModel::Committed committed{.place = place, .tokens = prompt};
      model->absorb({&committed, 1}, 8);
    }
    const std::vector<int32_t> slots{39, 0, 17, 5};
    for (size_t depth = 1; depth <= 4; ++depth) {
      const auto path = std::span(slots).first(depth);
      const auto path_tokens = std::span(tokens).subspan(17, depth);
      const BranchModel::Row row{0, path_tokens.back(), path, path_tokens};
      model->expand({&row, 1}, 8);
      const Ranked guessed = copy(model->children(0));
      const BranchModel::Committed committed{.place = 1,
                                             .tokens = std::span(tokens).first(17 + depth)};
      model->absorb({&committed, 1}, 8);
      EXPECT_EQ(copy(model->children(0)), guessed) << dtype << " depth " << depth;
    }
  }
}

TEST(DraftModel, NeedsTheTargetsVocabulary) {
  const auto backend = cpu::make_cpu_backend({});
  try {
    open_branch_model("draft-model", (kModels / "llama-mha-fp32").string(),
                      model_context("llama-gqa-bf16"), {}, *backend);
    FAIL();
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("vocab_size"), std::string::npos) << what;
    EXPECT_NE(what.find(" 60 "), std::string::npos) << what;
    EXPECT_NE(what.find("131"), std::string::npos) << what;
  }
}

/// A directory with nothing but a tokenizer whose i-th token is `names[i]`.
std::filesystem::path tokenizer_directory(const std::string& name,
                                          const std::vector<std::string>& names,
                                          bool spaced = false) {
  const std::filesystem::path directory = std::filesystem::path(::testing::TempDir()) / name;
  std::filesystem::create_directories(directory);
  nlohmann::json vocabulary = nlohmann::json::object();
  for (size_t i = 0; i < names.size(); ++i) vocabulary[names[i]] = i;
  const nlohmann::json tokenizer = {
      {"version", "1.0"},
      {"added_tokens", nlohmann::json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"decoder", nullptr},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::json::array()}}}};
  std::ofstream(directory / "tokenizer.json") << tokenizer.dump(spaced ? 2 : -1);
  return directory;
}

TEST(DraftModel, NamesTheFirstTokenThatDiffers) {
  ModelConfig config;
  config.vocabulary = 3;
  const auto target = tokenizer_directory("heads_target", {"a", "b", "c"});
  const auto same = tokenizer_directory("heads_same", {"a", "b", "c"}, true);  // other bytes
  const auto other = tokenizer_directory("heads_other", {"a", "x", "c"});
  check_same_vocabulary(target, config, target, config);
  check_same_vocabulary(same, config, target, config);
  try {
    check_same_vocabulary(other, config, target, config);
    FAIL();
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("token 1 is 'x'"), std::string::npos) << what;
    EXPECT_NE(what.find("it is 'b'"), std::string::npos) << what;
  }
}

// --- heads without weights ----------------------------------------------------------------------

TEST(RandomHeads, DraftSomethingForCostsSake) {
  for (const char* method : {"eagle", "eagle3"}) {
    const auto backend = cpu::make_cpu_backend({});
    const DraftContext context = model_context("llama-gqa-bf16");
    const auto model = open_branch_model(method, "random", context, {}, *backend);
    const DraftNeeds needs =
        head_needs(method, "random", ModelConfig::load(kModels / "llama-gqa-bf16"));
    std::vector<float> feature(size_t(needs.features.width(ModelConfig::load(context.model))),
                               0.5f);
    const std::vector<int32_t> tokens{1, 2};
    model->open(0, greedy(), 1);
    const BranchModel::Committed committed{
        .place = 0,
        .tokens = tokens,
        .features =
            TensorView::matrix(feature.data(), DType::kFloat32, 1, int64_t(feature.size()))};
    model->absorb({&committed, 1}, 4);
    ASSERT_EQ(model->children(0).size(), 4u) << method;
    EXPECT_TRUE(std::isfinite(model->children(0)[0].score));
  }
}

}  // namespace
}  // namespace convoke
