// `convoke inspect` on drafters.
#include "launcher/inspect_head.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/check.h"
#include "tests/support/model_directory.h"

namespace convoke {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const fs::path kGolden = fs::path(CONVOKE_SOURCE_DIR) / "tests/golden";
const fs::path kHeads = kGolden / "heads";
const fs::path kTarget = kGolden / "models/llama-gqa-bf16";  // 32 hidden units, 131 tokens

struct Output {
  int status = 0;
  std::string out, err;
};

Output run(const InspectOptions& options) {
  std::ostringstream out, err;
  const int status = run_inspect(options, out, err);
  return {status, out.str(), err.str()};
}

json run_json(const fs::path& directory, const fs::path& model = {}) {
  const Output output = run({directory, 1, true, model});
  EXPECT_EQ(output.err, "");
  const json parsed = json::parse(output.out);
  EXPECT_EQ(parsed.at("loads").get<bool>(), output.status == 0);
  return parsed;
}

TEST(InspectHead, KnowsEveryKind) {
  const std::pair<const char*, const char*> kinds[] = {{"eagle-fp32", "eagle"},
                                                       {"eagle-embedding-bf16", "eagle"},
                                                       {"eagle-qkv-bias-fp16", "eagle"},
                                                       {"eagle-reduced-fp32", "eagle"},
                                                       {"eagle3-fp32", "eagle3"},
                                                       {"eagle3-reduced-bf16", "eagle3"},
                                                       {"eagle3-wide-fp32", "eagle3"},
                                                       {"medusa-fp32", "medusa"},
                                                       {"medusa-two-layers-bf16", "medusa"}};
  for (const auto& [name, method] : kinds) {
    const json found = run_json(kHeads / name);
    EXPECT_EQ(found.at("drafter"), method) << name;
    EXPECT_THAT(found.at("problems"), IsEmpty()) << name << found;
    EXPECT_EQ(found.at("target_hidden_size"), 32) << name;
    EXPECT_GT(found.at("parameters"), 0);
    EXPECT_GT(found.at("bytes"), found.at("parameters")) << "two bytes at least for each";
    EXPECT_FALSE(found.at("tensors").empty());
    EXPECT_TRUE(found.at("checked_against").is_null());
  }
  EXPECT_EQ(run_json(kHeads / "medusa-fp32" / "medusa_lm_head.pt").at("drafter"), "medusa");
}

TEST(InspectHead, ForPeople) {
  const Output output = run({kHeads / "eagle3-wide-fp32", 1, false, {}});
  EXPECT_EQ(output.status, 0) << output.err;
  EXPECT_THAT(output.out,
              AllOf(HasSubstr("drafter       eagle3, use it with --drafter eagle3:"),
                    HasSubstr("hidden        48, MLP 48\n"),
                    HasSubstr("vocabulary    40 of the target's 131 tokens\n"),
                    HasSubstr("features      what enters layers 0, 2\n"),
                    HasSubstr("fits          targets with 32 hidden units and 131 tokens\n"),
                    HasSubstr("float32 [40, 48]")));
}

TEST(InspectHead, ChecksAgainstATarget) {
  const json fits = run_json(kHeads / "eagle-fp32", kTarget);
  EXPECT_THAT(fits.at("problems"), IsEmpty());
  EXPECT_EQ(fits.at("checked_against"), kTarget.string());
  const fs::path demo = fs::path(CONVOKE_SOURCE_DIR) / "demo/model";
  for (const char* name : {"eagle-fp32", "eagle3-wide-fp32", "medusa-fp32"}) {
    const json found = run_json(kHeads / name, demo);
    ASSERT_FALSE(found.at("problems").empty()) << name;
    EXPECT_THAT(found.at("problems")[0].get<std::string>(),
                AllOf(HasSubstr("32"), HasSubstr("512")))
        << "both numbers";
  }
  const Output output = run({kHeads / "eagle-fp32", 1, false, demo});
  EXPECT_EQ(output.status, 1);
  EXPECT_THAT(output.out, HasSubstr("does not fit"));
  EXPECT_THAT(output.err, HasSubstr("error: "));
  EXPECT_THAT(run_json(kHeads / "eagle-fp32", "/no/such").at("problems")[0].get<std::string>(),
              HasSubstr("/no/such"));
}

TEST(InspectHead, SaysWhatIsWrong) {
  TemporaryDirectory directory;
  fs::copy(kHeads / "eagle-fp32", directory.path(), fs::copy_options::recursive);
  json config = json::parse(std::ifstream(directory.path() / "config.json"));
  config["intermediate_size"] = config["intermediate_size"].get<int>() + 8;
  directory.write("config.json", config.dump());
  const json found = run_json(directory.path());
  ASSERT_FALSE(found.at("problems").empty());
  EXPECT_THAT(found.at("problems")[0].get<std::string>(), HasSubstr("mlp.gate_proj.weight"));

  directory.write("model.safetensors", "not one");
  EXPECT_EQ(run({directory.path(), 1, true, {}}).status, 1) << "no longer known for a drafter";
  config["drafter"] = "eagle";
  directory.write("config.json", config.dump());
  const json torn = run_json(directory.path());
  EXPECT_EQ(torn.at("drafter"), "eagle");
  EXPECT_THAT(torn.at("problems")[0].get<std::string>(), HasSubstr("model.safetensors"));
}

TEST(InspectHead, Pass) {
  TemporaryDirectory directory;
  const std::string config =
      R"({"drafter": "pass", "lookahead_tokens": 4, "hidden_size": 512, "dtype": "float32"})";
  directory.write("config.json", config);
  directory.write("model.safetensors",
                  safetensors_bytes({{"lookahead.weight", DType::kBFloat16, {4, 512}, ""}}));
  const fs::path demo = fs::path(CONVOKE_SOURCE_DIR) / "demo/model";
  const json found = run_json(directory.path(), demo);
  EXPECT_EQ(found.at("drafter"), "pass");
  EXPECT_THAT(found.at("problems"), IsEmpty());
  EXPECT_EQ(found.at("facts").at("look-ahead"), "4 tokens");
  EXPECT_EQ(found.at("target_hidden_size"), 512);
  EXPECT_TRUE(found.at("target_vocab_size").is_null()) << "any";
  EXPECT_EQ(found.at("parameters"), 4 * 512);
  EXPECT_EQ(run_json(directory.path()).at("loads"), true);
  EXPECT_EQ(run_json(directory.path(), kTarget).at("loads"), false);
}

TEST(InspectHead, AModelIsNoDrafter) {
  const fs::path demo = fs::path(CONVOKE_SOURCE_DIR) / "demo/model";
  EXPECT_FALSE(inspect_head({demo}));
  EXPECT_FALSE(inspect_head({"/no/such/place"}));
  EXPECT_THROW(run({demo, 1, false, demo}), Error);
}

}  // namespace
}  // namespace convoke
