#include "launcher/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/support/golden_model.h"
#include "tests/support/model_directory.h"

namespace convoke {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

const fs::path kSource = CONVOKE_SOURCE_DIR;
const fs::path kDemo = kSource / "demo/model";

struct Output {
  int status = 0;
  std::string out, err;
};

Output run(const fs::path& directory, int tp = 1, bool as_json = false) {
  std::ostringstream out, err;
  const int status = run_inspect({directory, tp, as_json}, out, err);
  return {status, out.str(), err.str()};
}

json run_json(const fs::path& directory, int tp = 1) {
  const Output output = run(directory, tp, true);
  EXPECT_EQ(output.err, "");
  const json parsed = json::parse(output.out);
  EXPECT_EQ(parsed.at("loads").get<bool>(), output.status == 0);
  return parsed;
}

/// A directory that loads: a golden model with the demo's tokenizer.
void copy_model(const fs::path& to, const std::string& name = "llama-sharded-mixed") {
  fs::copy(kSource / "tests/golden/models" / name, to, fs::copy_options::recursive);
  fs::copy(kDemo / "tokenizer.json", to / "tokenizer.json", fs::copy_options::overwrite_existing);
}

void edit_json(const fs::path& path, const std::function<void(json&)>& change) {
  json value = json::parse(std::ifstream(path));
  change(value);
  std::ofstream(path) << value.dump();
}

TEST(Inspect, DemoModelForPeople) {
  const Output output = run(kDemo, 2);
  EXPECT_EQ(output.status, 0);
  EXPECT_EQ(output.err, "");
  EXPECT_THAT(
      output.out,
      AllOf(HasSubstr("architecture  LlamaForCausalLM\n"), HasSubstr("parameters    25.7 M"),
            HasSubstr("layers        10\n"), HasSubstr("hidden        512, MLP 1024\n"),
            HasSubstr("heads         8 query, 4 key/value, of 64\n"),
            HasSubstr("features      tied embeddings\n"), HasSubstr("context       512 tokens\n"),
            HasSubstr("rope          theta 10000\n"),
            HasSubstr("dtype         bfloat16 in the checkpoint, bfloat16 in")));
  EXPECT_THAT(output.out, AllOf(HasSubstr("tokenizer     byte-level BPE, 4096 tokens\n"),
                                HasSubstr("model.safetensors"), HasSubstr("    2*  ")));
}

TEST(Inspect, DemoModelForPrograms) {
  const json found = run_json(kDemo, 2);
  const json& model = found.at("model");
  EXPECT_EQ(model.at("parameters"), ModelConfig::load(kDemo).parameter_count());
  EXPECT_EQ(model.at("eos_tokens"), json({4090}));
  EXPECT_EQ(found.at("files").size(), 1u);
  EXPECT_THAT(found.at("problems"), IsEmpty());
  EXPECT_THAT(found.at("notes"), IsEmpty());
  std::vector<int> sizes;
  for (const json& size : found.at("rank_memory")) sizes.push_back(size.at("tp"));
  EXPECT_THAT(sizes, ElementsAre(1, 2, 4, 8));
  // 10 layers of keys and values: 4 heads of 64 in 2 bytes; a rank of 8 holds one head.
  EXPECT_EQ(found.at("rank_memory")[0].at("kv_bytes_per_token"), 2 * 10 * 4 * 64 * 2);
  EXPECT_EQ(found.at("rank_memory")[3].at("kv_bytes_per_token"), 2 * 10 * 1 * 64 * 2);
}

TEST(Inspect, EveryGoldenModelIsShownAndLacksOnlyATokenizer) {
  for (const std::string& name : golden_model_names(kSource / "tests/golden/models")) {
    const fs::path directory = kSource / "tests/golden/models" / name;
    const json found = run_json(directory);
    EXPECT_THAT(found.at("problems"),
                ElementsAre(json((directory / "tokenizer.json").string() +
                                 ": cannot open: No such file or directory")));
    EXPECT_EQ(found.at("model").at("parameters"), load_golden_model(directory).parameters);
    EXPECT_EQ(run(directory).status, 1);
  }
}

TEST(Inspect, RanksTogetherHoldTheModel) {
  const ModelConfig config = ModelConfig::load(kDemo);
  const RankMemory one = rank_memory(config, 1, DType::kBFloat16);
  // Tied: the head is packed, the embedding stays mapped. Norms take 4 bytes.
  const int64_t norms = (2 * 10 + 1) * 512;
  EXPECT_EQ(one.packed_bytes, (config.parameter_count() - norms) * 2 + norms * 4);
  EXPECT_EQ(one.mapped_bytes, 4096 * 512 * 2);
  for (const int tp : {2, 4}) {
    const RankMemory part = rank_memory(config, tp, DType::kBFloat16);
    EXPECT_EQ(part.packed_bytes, (one.packed_bytes - norms * 4) / tp + norms * 4);
    EXPECT_EQ(part.mapped_bytes * tp, one.mapped_bytes);
    EXPECT_EQ(part.kv_bytes_per_token * tp, one.kv_bytes_per_token);
  }
}

TEST(Inspect, WeightsOf8BitsAreCountedAsThat) {
  const fs::path directory = kSource / "tests/golden/float8_models/compressed-channel";
  const json found = run_json(directory);
  EXPECT_EQ(found.at("model").at("quantization"), "compressed-tensors");
  EXPECT_EQ(found.at("model").at("run_dtype"), "bfloat16");
  EXPECT_THAT(run(directory).out,
              HasSubstr("float8_e4m3 weights with scales (compressed-tensors), held as they are"));
  const ModelConfig config = ModelConfig::load(directory);
  // Two layers of hidden width 32, 8 and 2 heads of 8, an MLP of 48; a scale of 4 bytes per output.
  const int64_t q = 64, kv = 16, mlp = 48, width = 32, norms = 5 * 32 * 4;
  const auto bytes = [&](int64_t tp) {
    const int64_t rows = q / tp + 2 * (kv / std::min<int64_t>(tp, 2)) + 2 * mlp / tp;
    return 2 * (rows * (width + 4) + width * (q / tp + 4) + width * (mlp / tp + 4)) + norms;
  };
  for (const int tp : {1, 2, 4}) {
    const RankMemory size = rank_memory(config, tp, DType::kBFloat16);
    int64_t words = 0;
    for (int rank = 0; rank < tp; ++rank) {
      words = std::max(words, make_shard_plan(config.extents(), tp, rank).vocabulary.size());
    }
    EXPECT_EQ(size.packed_bytes, bytes(tp) + words * width * 2) << tp;
    EXPECT_EQ(size.kv_bytes_per_token, 2 * 2 * (kv / std::min(tp, 2)) * 2) << tp;
  }
}

TEST(Inspect, HalfPrecisionRunsInFloat32) {
  const json found = run_json(kSource / "tests/golden/models/llama-linear-fp16");
  EXPECT_EQ(found.at("model").at("checkpoint_dtype"), "float16");
  EXPECT_EQ(found.at("model").at("run_dtype"), "float32");
  EXPECT_EQ(found.at("rank_memory")[0].at("kv_bytes_per_token"), 2 * 2 * 4 * 8 * 4);
}

TEST(Inspect, TokensThatFit) {
  const RankMemory one = rank_memory(ModelConfig::load(kDemo), 1, DType::kBFloat16);
  const int64_t weights = one.packed_bytes + one.mapped_bytes;
  const auto fit = [](int64_t free, int tp) {
    return inspect_model({kDemo, tp, false}, free).tokens_that_fit();
  };
  EXPECT_EQ(fit(weights + 10 * one.kv_bytes_per_token, 1), 10);
  EXPECT_EQ(fit(weights + 10 * one.kv_bytes_per_token - 1, 1), 9);
  EXPECT_EQ(fit(weights, 1), 0);
  EXPECT_EQ(fit(0, 1), 0);
  EXPECT_EQ(fit(int64_t{1} << 40, 3), 0) << "no such size";
}

TEST(Inspect, WindowsAndScalingAreShown) {
  const auto out = [](const char* name) { return run(kSource / "tests/golden/models" / name).out; };
  EXPECT_THAT(out("mistral-window-bf16"), HasSubstr("128 tokens, sliding window 7\n"));
  EXPECT_THAT(out("qwen2-window-fp32"), HasSubstr("sliding window 9 in 2 of 3 layers\n"));
  EXPECT_THAT(out("llama3-scaled-bf16"),
              HasSubstr("llama3 scaling by 8 (factors 1 to 4 of 16 positions)"));
  EXPECT_THAT(out("llama-linear-fp16"), HasSubstr("linear scaling by 2.5"));
  EXPECT_THAT(out("qwen3-bf16"), HasSubstr("tied embeddings, query/key norms\n"));
  EXPECT_THAT(out("llama-bias-bf16"),
              HasSubstr("untied embeddings, query/key/value biases, output bias, MLP biases\n"));
}

TEST(Inspect, SizeThatDoesNotDivide) {
  const Output output = run(kDemo, 3);
  EXPECT_EQ(output.status, 1);
  EXPECT_THAT(output.err, HasSubstr("error: tensor-parallel size 3 does not divide this model"));
  EXPECT_THAT(output.out, HasSubstr("LlamaForCausalLM")) << "the rest is shown all the same";
}

TEST(Inspect, NoDirectory) {
  const Output output = run("/no/such/model");
  EXPECT_EQ(output.status, 1);
  EXPECT_THAT(output.err, HasSubstr("error: /no/such/model: not a directory"));
  EXPECT_THAT(run_json("/no/such/model").at("model"), json());
}

TEST(Inspect, EveryProblemAtOnce) {
  TemporaryDirectory directory;
  copy_model(directory.path());
  EXPECT_EQ(run(directory.path()).status, 0);
  edit_json(directory.path() / "config.json", [](json& config) {
    config["hidden_act"] = "gelu";
    config["rope_scaling"] = {{"rope_type", "yarn"}};
  });
  fs::resize_file(directory.path() / "model-00002-of-00003.safetensors", 100);
  directory.write("generation_config.json", R"({"top_p": 7})");
  directory.write("tokenizer.json", "{}");
  const json problems = run_json(directory.path()).at("problems");
  const std::string all = problems.dump();
  EXPECT_THAT(problems, SizeIs(5));
  EXPECT_THAT(all, AllOf(HasSubstr("hidden_act"), HasSubstr("rope_scaling.rope_type"),
                         HasSubstr("model-00002-of-00003.safetensors: is cut short"),
                         HasSubstr("top_p"), HasSubstr("tokenizer.json: key 'model'")));
}

TEST(Inspect, TensorsThatDoNotFitTheConfig) {
  TemporaryDirectory directory;
  copy_model(directory.path());
  edit_json(directory.path() / "config.json", [](json& config) {
    config["intermediate_size"] = 64;
    config["num_hidden_layers"] = 3;
  });
  const json problems = run_json(directory.path()).at("problems");
  EXPECT_THAT(problems, SizeIs(2 * 3 + 9)) << problems.dump(1);
  EXPECT_THAT(problems.dump(), AllOf(HasSubstr("has shape [48, 32]; config.json asks for [64, 32]"),
                                     HasSubstr("'model.layers.2.mlp.up_proj.weight' is missing")));
}

TEST(Inspect, BrokenGenerationConfigIsSaidOnce) {
  TemporaryDirectory directory;
  copy_model(directory.path());
  directory.write("generation_config.json", "{");
  EXPECT_THAT(run_json(directory.path()).at("problems"), SizeIs(1));
}

TEST(Inspect, TokenizersOfOtherFamilies) {
  TemporaryDirectory directory;
  copy_model(directory.path());
  const auto with = [&](const json& tokenizer) {
    directory.write("tokenizer.json", tokenizer.dump());
    return run_json(directory.path());
  };
  json tokenizer = {{"model", {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", {{"a", 6}}}}},
                    {"added_tokens", {{{"id", 9}, {"content", "<s>"}}}}};
  EXPECT_EQ(with(tokenizer).at("tokenizer"), "SentencePiece BPE with byte fallback, 10 tokens");
  tokenizer["pre_tokenizer"] = {{"type", "Sequence"},
                                {"pretokenizers", {{{"type", "Split"}}, {{"type", "ByteLevel"}}}}};
  EXPECT_EQ(with(tokenizer).at("tokenizer"), "byte-level BPE, 10 tokens");
  tokenizer["added_tokens"][0]["id"] = 100000;
  EXPECT_THAT(with(tokenizer).at("notes").dump(), HasSubstr("has 100001 tokens, but config.json"));
  tokenizer["model"] = {{"type", "Unigram"}, {"vocab", {{"a", 0.5}}}};
  EXPECT_THAT(with(tokenizer).at("problems").dump(), HasSubstr("'Unigram' is not supported"));
  tokenizer["pre_tokenizer"]["type"] = 5;
  EXPECT_EQ(run(directory.path()).status, 1);
  EXPECT_THAT(with(json::array()).at("problems").dump(), HasSubstr("tokenizer.json: key 'model'"));
}

}  // namespace
}  // namespace convoke
