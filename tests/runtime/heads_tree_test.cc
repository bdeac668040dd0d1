// The methods as they are named on the command line, from opening a head to a tree.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/drafters/tree_methods.h"
#include "tests/support/heads_fixture.h"

namespace convoke {
namespace {

using testing::golden_context;
using testing::GoldenHead;
using testing::load_golden_head;

/// The path of first children, the best ones.
std::vector<int32_t> best_path(const DraftTree& tree) {
  std::vector<int32_t> path;
  int32_t parent = -1;
  for (int32_t n = 0; n < tree.size(); ++n) {
    if (tree.nodes[size_t(n)].parent != parent) continue;
    path.push_back(tree.nodes[size_t(n)].token);
    parent = n;
  }
  return path;
}

TEST(TreeMethods, HeadsProposeWhatTheyRank) {
  for (const char* name : {"eagle-fp32", "eagle-qkv-bias-fp16", "eagle3-reduced-bf16"}) {
    const GoldenHead golden = load_golden_head(name);
    const ModelConfig target = ModelConfig::load(golden.target);
    for (const std::string& shape : {std::string(), std::string(",tree=static")}) {
      const DrafterSpec spec =
          DrafterSpec::parse(golden.method + ":" + golden.directory.string() + shape);
      EXPECT_EQ(draft_needs(spec, target).features.width(target),
                int64_t(golden.features[0].size()));
      const auto drafter = make_drafter(spec, golden_context(golden, {}));
      EXPECT_EQ(drafter->name(), golden.method);
      // The whole prompt in one verdict, as the target's first pass gives it.
      const int32_t length = golden.steps[0].tokens - 1;
      DraftSequence sequence{.id = 4, .prompt_tokens = length};
      sequence.tokens.assign(golden.tokens.begin(), golden.tokens.begin() + length);
      sequence.sampling.temperature = 0;
      sequence.sampling.max_tokens = 40;
      drafter->open(sequence);
      std::vector<float> flat;
      for (int i = 0; i < length; ++i) {
        flat.insert(flat.end(), golden.features[size_t(i)].begin(),
                    golden.features[size_t(i)].end());
      }
      DraftVerdict verdict{.id = 4, .base_length = length};
      verdict.tokens = {golden.tokens[size_t(length)]};
      verdict.features = TensorView::matrix(flat.data(), DType::kFloat32, length,
                                            int64_t(golden.features[0].size()));
      drafter->advance(verdict);
      const DraftTree tree =
          drafter->propose(std::vector<SequenceId>{4}, {.max_nodes = 20, .max_depth = 4})[0];
      EXPECT_EQ(tree.size(), 20) << name << shape;
      EXPECT_EQ(find_defect(tree, target.vocabulary, 0), "");
      ASSERT_FALSE(tree.empty());
      EXPECT_EQ(tree.nodes[0].token, golden.steps[0].root.ids[0]) << name << shape;
    }
  }
}

TEST(TreeMethods, ATargetDraftsItsOwnContinuation) {
  const std::filesystem::path model = CONVOKE_SOURCE_DIR "/tests/golden/models/llama-gqa-bf16";
  std::ifstream file(model / "golden.json");
  const nlohmann::json golden = nlohmann::json::parse(file);
  const auto greedy = golden.at("greedy").get<std::vector<int32_t>>();
  DraftSequence sequence{.id = 1, .tokens = golden.at("prompt").get<std::vector<int32_t>>()};
  sequence.prompt_tokens = int32_t(sequence.tokens.size());
  sequence.sampling.temperature = 0;
  sequence.sampling.max_tokens = 30;
  DraftContext context;
  context.model = model;
  context.dtype = "float32";
  context.max_sequences = 1;
  context.threads = 1;
  const DrafterSpec spec = DrafterSpec::parse("draft-model:" + model.string());
  EXPECT_EQ(draft_needs(spec, ModelConfig::load(model)).features.kind, FeatureSpec::Kind::kNone);
  const auto drafter = make_drafter(spec, context);
  drafter->open(sequence);
  DraftVerdict verdict{.id = 1, .base_length = sequence.prompt_tokens, .tokens = {greedy[0]}};
  for (const size_t accepted : {0, 3, 1}) {
    drafter->advance(verdict);
    verdict.base_length += int32_t(verdict.tokens.size());
    const auto done = size_t(verdict.base_length - sequence.prompt_tokens);
    const DraftTree tree = drafter->propose(std::vector<SequenceId>{1},
                                            {.max_nodes = 30, .max_depth = 4, .top_k = 2})[0];
    const std::vector<int32_t> path = best_path(tree);
    ASSERT_EQ(path.size(), 4u) << "30 nodes are all there can be";
    for (size_t i = 0; i < path.size(); ++i) EXPECT_EQ(path[i], greedy[done + i]) << done << i;
    verdict.tokens.assign(greedy.begin() + int64_t(done),
                          greedy.begin() + int64_t(done + accepted + 1));
  }
}

TEST(TreeMethods, ArgumentsAreChecked) {
  EXPECT_THROW(DrafterSpec::parse("eagle"), Error);
  EXPECT_THROW(DrafterSpec::parse("draft-model:"), Error);
  EXPECT_THROW(DrafterSpec::parse("eagle3:x,tree=round"), Error);
  EXPECT_THROW(DrafterSpec::parse("eagle3:x,bush=static"), Error);
  const GoldenHead golden = load_golden_head("eagle-fp32");
  // An EAGLE-1 head is no EAGLE-3 head.
  EXPECT_THROW(make_drafter(DrafterSpec::parse("eagle3:" + golden.directory.string()),
                            golden_context(golden, {})),
               Error);
  EXPECT_THROW(make_drafter(DrafterSpec::parse("eagle:/nowhere"), golden_context(golden, {})),
               Error);
}

}  // namespace
}  // namespace convoke
