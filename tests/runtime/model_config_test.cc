#include "runtime/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "tests/support/golden_model.h"
#include "tests/support/model_directory.h"

namespace convoke {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

json config_of(const char* architecture, const char* model_type) {
  json config = small_llama_config();
  config["architectures"] = {architecture};
  config["model_type"] = model_type;
  return config;
}

ModelConfig parse(const json& config, const json& generation = nullptr) {
  return ModelConfig::parse(config.dump(), generation.is_null() ? "" : generation.dump(), "dir");
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel);
    return error.what();
  }
  return "no error";
}

std::string parse_error(const json& config) {
  return error_of([&] { parse(config); });
}

TEST(ModelConfig, SmallLlama) {
  const ModelConfig model = parse(small_llama_config());
  EXPECT_EQ(model.architecture, Architecture::kLlama);
  EXPECT_EQ(model.architecture_name, "LlamaForCausalLM");
  EXPECT_EQ(model.hidden, 32);
  EXPECT_EQ(model.intermediate, 48);
  EXPECT_EQ(model.layers, 2);
  EXPECT_EQ(model.heads, 4);
  EXPECT_EQ(model.kv_heads, 2);
  EXPECT_EQ(model.head_dim, 8);
  EXPECT_EQ(model.vocabulary, 100);
  EXPECT_EQ(model.max_positions, 256);
  EXPECT_EQ(model.checkpoint_dtype, DType::kBFloat16);
  EXPECT_THAT(model.window, ElementsAre(0, 0));
  EXPECT_FALSE(model.rope_scaling.has_value());
  EXPECT_FALSE(model.qkv_bias || model.output_bias || model.mlp_bias || model.qk_norm);
}

TEST(ModelConfig, AbsentKeysOfLlama) {
  json config = small_llama_config();
  config.erase("num_key_value_heads");
  config.erase("max_position_embeddings");
  config.erase("torch_dtype");
  const ModelConfig model = parse(config);
  EXPECT_EQ(model.kv_heads, model.heads);
  EXPECT_EQ(model.max_positions, 2048);
  EXPECT_EQ(model.checkpoint_dtype, DType::kFloat32);
  EXPECT_EQ(model.rms_epsilon, 1e-6f);
  EXPECT_EQ(model.rope_theta, 10000.0);
  EXPECT_FALSE(model.tied_embeddings);
  EXPECT_EQ(model.bos_token, 1);
  EXPECT_THAT(model.eos_tokens, ElementsAre(2));
}

TEST(ModelConfig, NullCountsAsAbsent) {
  json config = small_llama_config();
  for (const char* key : {"head_dim", "rope_scaling", "num_key_value_heads", "attention_bias",
                          "quantization_config", "rope_parameters"}) {
    config[key] = nullptr;
  }
  const ModelConfig model = parse(config);
  EXPECT_EQ(model.head_dim, 8);
  EXPECT_EQ(model.kv_heads, 4);
}

TEST(ModelConfig, AbsentKeysOfMistral) {
  json config = config_of("MistralForCausalLM", "mistral");
  config["num_attention_heads"] = 16;
  config.erase("num_key_value_heads");
  config.erase("max_position_embeddings");
  ModelConfig model = parse(config);
  EXPECT_EQ(model.kv_heads, 8);
  EXPECT_EQ(model.max_positions, 131072);
  EXPECT_THAT(model.window, ElementsAre(4096, 4096));
  config["sliding_window"] = nullptr;
  EXPECT_THAT(parse(config).window, ElementsAre(0, 0));
  config["sliding_window"] = 7;
  EXPECT_THAT(parse(config).window, ElementsAre(7, 7));
}

TEST(ModelConfig, Qwen2HasBiasesAndWindowsFromALayerOn) {
  json config = config_of("Qwen2ForCausalLM", "qwen2");
  config["sliding_window"] = 9;
  config["max_window_layers"] = 1;
  ModelConfig model = parse(config);
  EXPECT_TRUE(model.qkv_bias);
  EXPECT_FALSE(model.output_bias || model.mlp_bias || model.qk_norm);
  EXPECT_THAT(model.window, ElementsAre(0, 0)) << "use_sliding_window is false";
  EXPECT_EQ(model.bos_token, -1);
  EXPECT_THAT(model.eos_tokens, IsEmpty());
  config["use_sliding_window"] = true;
  EXPECT_THAT(parse(config).window, ElementsAre(0, 9));
  config["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_THAT(parse(config).window, ElementsAre(9, 0));
  config["max_window_layers"] = 100;
  config.erase("layer_types");
  EXPECT_THAT(parse(config).window, ElementsAre(0, 0));
}

TEST(ModelConfig, Qwen3HasNormsAndAHeadDimension) {
  json config = config_of("Qwen3ForCausalLM", "qwen3");
  ModelConfig model = parse(config);
  EXPECT_TRUE(model.qk_norm);
  EXPECT_EQ(model.head_dim, 128);
  EXPECT_FALSE(model.qkv_bias || model.output_bias);
  config["attention_bias"] = true;
  config["head_dim"] = 16;
  model = parse(config);
  EXPECT_EQ(model.head_dim, 16);
  EXPECT_TRUE(model.qkv_bias && model.output_bias);
}

TEST(ModelConfig, LlamaBiases) {
  json config = small_llama_config();
  config["attention_bias"] = true;
  config["mlp_bias"] = true;
  const ModelConfig model = parse(config);
  EXPECT_TRUE(model.qkv_bias && model.output_bias && model.mlp_bias);
}

TEST(ModelConfig, ArchitectureFromModelTypeAlone) {
  json config = small_llama_config();
  config.erase("architectures");
  EXPECT_EQ(parse(config).architecture_name, "LlamaForCausalLM");
}

TEST(ModelConfig, RopeInEveryForm) {
  const json llama3 = {{"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 64}};
  for (const char* key : {"type", "rope_type"}) {
    json config = small_llama_config();
    config["rope_theta"] = 5e5;
    config["rope_scaling"] = llama3;
    config["rope_scaling"][key] = "llama3";
    const ModelConfig model = parse(config);
    ASSERT_TRUE(model.rope_scaling.has_value());
    EXPECT_EQ(model.rope_scaling->kind, RopeScaling::Kind::kLlama3);
    EXPECT_EQ(model.rope_scaling->factor, 8.0);
    EXPECT_EQ(model.rope_scaling->original_max_position, 64);
    EXPECT_EQ(model.rope_theta, 5e5);
  }
  json config = small_llama_config();
  config["rope_parameters"] = llama3;
  config["rope_parameters"].update({{"rope_type", "llama3"}, {"rope_theta", 1e6}});
  EXPECT_EQ(parse(config).rope_theta, 1e6);
  EXPECT_TRUE(parse(config).rope_scaling.has_value());
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 777.0}};
  EXPECT_EQ(parse(config).rope_theta, 777.0);
  EXPECT_FALSE(parse(config).rope_scaling.has_value());
  config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4}};
  EXPECT_EQ(parse(config).rope_scaling->kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(parse(config).rope_scaling->factor, 4.0);
}

TEST(ModelConfig, OriginalContextFallsBackAsInTransformers) {
  json config = small_llama_config();
  config["rope_scaling"] = {
      {"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1}, {"high_freq_factor", 4}};
  EXPECT_EQ(parse(config).rope_scaling->original_max_position, 256);
  config["original_max_position_embeddings"] = 32;
  EXPECT_EQ(parse(config).rope_scaling->original_max_position, 32);
}

TEST(ModelConfig, RefusesOtherRopeTypes) {
  for (const char* type : {"yarn", "dynamic", "longrope", "su", "mrope", ""}) {
    json config = small_llama_config();
    config["rope_scaling"] = {{"rope_type", type}, {"factor", 2.0}};
    EXPECT_THAT(parse_error(config),
                AllOf(HasSubstr("dir/config.json: key 'rope_scaling.rope_type'"),
                      HasSubstr(fmt::format("'{}' is not supported", type)),
                      HasSubstr("supported: default, linear, llama3")));
  }
}

TEST(ModelConfig, Dtypes) {
  json config = small_llama_config();
  config.erase("torch_dtype");
  config["dtype"] = "float16";
  EXPECT_EQ(parse(config).checkpoint_dtype, DType::kFloat16);
  config["torch_dtype"] = "bfloat16";
  EXPECT_THAT(parse_error(config), HasSubstr("'float16', but 'torch_dtype' is 'bfloat16'"));
  config["torch_dtype"] = "float16";
  EXPECT_EQ(parse(config).checkpoint_dtype, DType::kFloat16);
}

TEST(ModelConfig, EndTokens) {
  json config = small_llama_config();
  config["eos_token_id"] = {5, 6, 5};
  config["bos_token_id"] = 4;
  EXPECT_THAT(parse(config).eos_tokens, ElementsAre(5, 6));
  EXPECT_EQ(parse(config).bos_token, 4);
  EXPECT_THAT(parse(config, {{"eos_token_id", 9}}).eos_tokens, ElementsAre(9));
  EXPECT_THAT(parse(config, {{"eos_token_id", nullptr}}).eos_tokens, ElementsAre(5, 6));
  config["eos_token_id"] = nullptr;
  EXPECT_THAT(parse(config).eos_tokens, IsEmpty());
  config["bos_token_id"] = nullptr;
  EXPECT_EQ(parse(config).bos_token, -1);
  EXPECT_EQ(parse(config, {{"bos_token_id", 3}}).bos_token, 3);
}

struct BadValue {
  const char* key;
  json value;
  const char* message;
};

TEST(ModelConfig, EveryBadValueIsNamed) {
  const std::vector<BadValue> cases = {
      {"architectures",
       {"GPT2LMHeadModel"},
       "'GPT2LMHeadModel' is not supported (supported: Llama"},
      {"architectures", {"LlamaForCausalLM", "Other"}, "must name one architecture"},
      {"architectures", "LlamaForCausalLM", "must be a list of strings"},
      {"model_type", "qwen2", "architecture LlamaForCausalLM needs 'llama'"},
      {"hidden_size", 0, "must be an integer from 1"},
      {"hidden_size", -32, "must be an integer from 1"},
      {"hidden_size", 32.5, "is 32.5"},
      {"hidden_size", "32", "must be an integer"},
      {"hidden_size", 18446744073709551615u, "must be an integer"},
      {"hidden_size", 33, "is not divisible by num_attention_heads"},
      {"intermediate_size", nullptr, "is missing"},
      {"num_hidden_layers", 1000000, "must be an integer from 1 to"},
      {"num_key_value_heads", 3, "3 does not divide num_attention_heads, 4"},
      {"num_key_value_heads", 8, "8 does not divide num_attention_heads, 4"},
      {"head_dim", 7, "rotary embeddings need an even one"},
      {"vocab_size", true, "must be an integer"},
      {"max_position_embeddings", 0, "must be an integer from 1"},
      {"rms_norm_eps", -1e-5, "must be a number from 0"},
      {"rms_norm_eps", "small", "must be a number"},
      {"tie_word_embeddings", 1, "must be true or false"},
      {"attention_bias", "yes", "must be true or false"},
      {"hidden_act", "gelu", "'gelu' is not supported (supported: silu)"},
      {"quantization_config", {{"quant_method", "awq"}}, "'awq' is not supported (supported: comp"},
      {"compression_config", {{"format", "x"}}, "'' is not supported"},
      {"torch_dtype", "float8_e4m3fn", "supported: float32, bfloat16, float16"},
      {"rope_theta", 0, "must be a number from 1"},
      {"rope_scaling", "linear", "must be an object"},
      {"rope_scaling", {{"type", "linear"}}, "key 'rope_scaling.factor': is missing"},
      {"rope_scaling", {{"type", "linear"}, {"factor", 0}}, "rope_scaling.factor"},
      {"rope_scaling", {{"type", "linear"}, {"rope_type", "llama3"}}, "but 'type' is 'linear'"},
      {"rope_scaling", {{"type", "default"}, {"mrope_section", {8, 8}}}, "mrope_section"},
      {"rope_parameters", {{"full_attention", {{"rope_theta", 1e4}}}}, "by layer type"},
      {"partial_rotary_factor", 0.5, "only 1 is supported"},
      {"layer_types", {"full_attention"}, "has 1 entries for 2 layers"},
      {"layer_types", {"full_attention", "sliding_attention"}, "layer 1 is 'sliding_attention'"},
      {"layer_types", {"full_attention", "mamba"}, "layer 1 is 'mamba'"},
      {"eos_token_id", 100, "must be an integer from 0 to 99"},
      {"eos_token_id", {1, -1}, "must be an integer from 0 to 99"},
      {"bos_token_id", 1000, "must be an integer from 0 to 99"},
  };
  for (const BadValue& bad : cases) {
    json config = small_llama_config();
    config[bad.key] = bad.value;
    const std::string error = parse_error(config);
    EXPECT_THAT(error,
                AllOf(HasSubstr("dir/config.json"), HasSubstr(bad.key), HasSubstr(bad.message)))
        << bad.key << " = " << bad.value;
  }
}

TEST(ModelConfig, RopeBlocksThatDisagreeAreRefused) {
  json config = small_llama_config();
  config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2}};
  config["rope_parameters"] = {{"rope_type", "default"}};
  EXPECT_THAT(parse_error(config), HasSubstr("differs from 'rope_scaling'"));
  config.erase("rope_scaling");
  config["rope_theta"] = 1e4;
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1e6}};
  EXPECT_THAT(parse_error(config), HasSubstr("the outer 'rope_theta' is 10000"));
}

TEST(ModelConfig, AllProblemsAtOnce) {
  json config = small_llama_config();
  config["hidden_act"] = "relu";
  config["torch_dtype"] = "int8";
  config["vocab_size"] = 0;
  EXPECT_THAT(parse_error(config), AllOf(HasSubstr("3 problems"), HasSubstr("hidden_act"),
                                         HasSubstr("torch_dtype"), HasSubstr("vocab_size")));
}

TEST(ModelConfig, TextThatIsNoObject) {
  for (const char* text : {"", " ", "{", "[1]", "null", "{\"a\": }", "{} x", "{\"a\": 1e999}"}) {
    EXPECT_THAT(error_of([&] { ModelConfig::parse(text, "", "dir"); }),
                HasSubstr("dir/config.json: "))
        << text;
  }
  EXPECT_THAT(error_of([] { ModelConfig::parse("{\"a\": 1, \"a\": 2}", "", "dir"); }),
              HasSubstr("key 'a' is there twice"));
  const std::string deep = "{\"a\": " + std::string(100000, '[');
  EXPECT_THAT(error_of([&] { ModelConfig::parse(deep, "", "dir"); }), HasSubstr("deep"));
  EXPECT_THAT(error_of([] { ModelConfig::parse(small_llama_config().dump(), "[]", "dir"); }),
              HasSubstr("dir/generation_config.json: must be a JSON object"));
}

TEST(ModelConfig, FilesThatAreNotThere) {
  TemporaryDirectory directory;
  const auto load = [&] { ModelConfig::load(directory.path()); };
  EXPECT_THAT(error_of(load), HasSubstr("config.json: cannot open: No such file"));
  EXPECT_THAT(error_of([] { ModelConfig::load("/no/such/model"); }),
              HasSubstr("/no/such/model/config.json"));
  directory.write("config.json", small_llama_config().dump());
  EXPECT_NO_THROW(load());
  directory.write("generation_config.json", "");
  EXPECT_THAT(error_of(load), HasSubstr("generation_config.json: not valid JSON"));
  directory.write("generation_config.json", R"({"eos_token_id": 7})");
  EXPECT_THAT(ModelConfig::load(directory.path()).eos_tokens, ElementsAre(7));
  std::filesystem::remove(directory.path() / "config.json");
  std::filesystem::create_directory(directory.path() / "config.json");
  EXPECT_THAT(error_of(load), HasSubstr("config.json"));
}

TEST(GenerationDefaults, Values) {
  const auto parse_text = [](const char* text) { return GenerationDefaults::parse(text, "dir"); };
  const GenerationDefaults none = parse_text("{}");
  EXPECT_FALSE(none.temperature || none.top_p || none.min_p || none.repetition_penalty);
  EXPECT_FALSE(none.top_k.has_value());
  const GenerationDefaults all = parse_text(
      R"({"do_sample": true, "temperature": 0.6, "top_p": 0.9, "min_p": 0.05, "top_k": 50,
          "repetition_penalty": 1.1, "transformers_version": "4.40.0"})");
  EXPECT_EQ(all.temperature, 0.6f);
  EXPECT_EQ(all.top_p, 0.9f);
  EXPECT_EQ(all.min_p, 0.05f);
  EXPECT_EQ(all.top_k, 50);
  EXPECT_EQ(all.repetition_penalty, 1.1f);
  EXPECT_EQ(parse_text(R"({"do_sample": false, "temperature": 0.6})").temperature, 0.0f);
  EXPECT_EQ(parse_text(R"({"top_k": -1})").top_k, 0);
  for (const char* text : {R"({"temperature": -1})", R"({"top_p": 1.5})", R"({"top_k": 0.5})",
                           R"({"min_p": "x"})", R"({"repetition_penalty": 0})"}) {
    EXPECT_THAT(error_of([&] { GenerationDefaults::parse(text, "dir"); }),
                HasSubstr("dir/generation_config.json: key '"))
        << text;
  }
  TemporaryDirectory directory;
  EXPECT_FALSE(GenerationDefaults::load(directory.path()).temperature.has_value());
}

class GoldenConfig : public testing::TestWithParam<std::string> {
 protected:
  GoldenModel golden_ = load_golden_model(std::filesystem::path(CONVOKE_SOURCE_DIR) /
                                          "tests/golden/models" / GetParam());
};

TEST_P(GoldenConfig, CountsAndFrequenciesAreThoseOfTransformers) {
  const ModelConfig model = ModelConfig::load(golden_.directory);
  EXPECT_EQ(model.parameter_count(), golden_.parameters);
  const std::vector<double> frequencies = rope_inverse_frequencies(model);
  ASSERT_EQ(frequencies.size(), golden_.inverse_frequencies.size());
  for (size_t i = 0; i < frequencies.size(); ++i) {
    // The reference takes a power and a few products in float32.
    EXPECT_NEAR(frequencies[i] / golden_.inverse_frequencies[i], 1.0, 1e-5) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenConfig,
                         testing::ValuesIn(golden_model_names(CONVOKE_SOURCE_DIR
                                                              "/tests/golden/models")),
                         [](const auto& parameter) {
                           std::string name = parameter.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace convoke
