// What head configurations mean, and what is refused: heads that do not fit their target, tensors
// that are missing, surplus or of another shape, draft vocabularies that make no sense.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/heads/eagle3_head.h"
#include "runtime/heads/medusa_heads.h"
#include "tests/support/heads_fixture.h"
#include "tests/support/model_directory.h"

namespace convoke {
namespace {

using nlohmann::json;

ModelConfig target_of(int layers = 32) {
  ModelConfig target;
  target.hidden = 64;
  target.layers = layers;
  target.heads = target.kv_heads = 4;
  target.head_dim = 16;
  target.intermediate = 96;
  target.vocabulary = 200;
  target.rope_theta = 500000;
  return target;
}

json eagle_json() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 1},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", 200},
          {"torch_dtype", "float16"}};
}

HeadConfig parse(HeadKind kind, const json& config, int layers = 32) {
  return parse_head_config(kind, config.dump(), "head/config.json", target_of(layers));
}

/// The message of the Error that `config` gives.
std::string refused(HeadKind kind, const json& config) {
  try {
    parse(kind, config);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel);
    return error.what();
  }
  return "";
}

void expect_says(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' in: " << message;
  }
}

TEST(HeadConfigs, TheRotaryBaseIsTheHeadsOwn) {
  EXPECT_EQ(parse(HeadKind::kEagle, eagle_json()).layer.rope_theta, 10000.0);
  json config = eagle_json();
  config["rope_theta"] = 250000.0;
  EXPECT_EQ(parse(HeadKind::kEagle, config).layer.rope_theta, 250000.0);
}

TEST(HeadConfigs, BiasesOfEagle) {
  json config = eagle_json();
  EXPECT_TRUE(parse(HeadKind::kEagle, config).fc_bias);
  EXPECT_FALSE(parse(HeadKind::kEagle, config).qkv_bias.has_value());
  config["bias"] = false;
  config["qkv_bias"] = true;
  EXPECT_FALSE(parse(HeadKind::kEagle, config).fc_bias);
  EXPECT_EQ(parse(HeadKind::kEagle, config).qkv_bias, true);
}

TEST(HeadConfigs, LayersOfEagle3) {
  json config = eagle_json();
  config["architectures"] = {"LlamaForCausalLMEagle3"};
  config["draft_vocab_size"] = 50;
  HeadConfig head = parse(HeadKind::kEagle3, config);
  EXPECT_EQ(head.feature_layers, (std::vector<int>{2, 16, 29}));
  EXPECT_EQ(head.feature_width(), 3 * 64);
  EXPECT_EQ(head.draft_vocabulary, 50);
  EXPECT_FALSE(head.norm_before_residual);
  // Named at the top: the states that enter them.
  config["eagle_aux_hidden_state_layer_ids"] = {1, 7, 32};
  EXPECT_EQ(parse(HeadKind::kEagle3, config).feature_layers, (std::vector<int>{1, 7, 32}));
  config.erase("eagle_aux_hidden_state_layer_ids");
  // Named inside eagle_config: the states that leave them.
  config["eagle_config"] = {{"eagle_aux_hidden_state_layer_ids", {1, 15, 28}}};
  EXPECT_EQ(parse(HeadKind::kEagle3, config).feature_layers, (std::vector<int>{2, 16, 29}));
  config["norm_before_residual"] = true;
  EXPECT_TRUE(parse(HeadKind::kEagle3, config).norm_before_residual);
  config["eagle_config"] = {{"eagle_aux_hidden_state_layer_ids", {1, 32}}};
  expect_says(refused(HeadKind::kEagle3, config), {"eagle_aux_hidden_state_layer_ids", "32"});
  // Of a target with next to no layers: whatever they are, in order and inside.
  for (int layers = 1; layers < 8; ++layers) {
    const auto chosen = parse(HeadKind::kEagle3, eagle_json(), layers).feature_layers;
    ASSERT_EQ(chosen.size(), 3u);
    EXPECT_TRUE(std::ranges::is_sorted(chosen));
    EXPECT_GE(chosen.front(), 0);
    EXPECT_LE(chosen.back(), layers);
  }
}

TEST(HeadConfigs, AHeadMadeForAnotherModelIsRefusedWithBothNumbers) {
  json config = eagle_json();
  config["hidden_size"] = 80;
  config["vocab_size"] = 201;
  config["num_hidden_layers"] = 2;
  const std::string message = refused(HeadKind::kEagle, config);
  expect_says(message, {"head/config.json", "'hidden_size': is 80", "64 hidden",
                        "'vocab_size': is 201", "200 tokens", "num_hidden_layers"});
  // An EAGLE-3 head may be wider than its target, if it says so.
  expect_says(refused(HeadKind::kEagle3, config), {"'hidden_size': is 80"});
  config = eagle_json();
  config["hidden_size"] = 80;
  config["target_hidden_size"] = 64;
  EXPECT_EQ(parse(HeadKind::kEagle3, config).layer.hidden, 80);
  config["target_hidden_size"] = 48;
  expect_says(refused(HeadKind::kEagle3, config), {"'target_hidden_size': is 48", "64"});
  config = eagle_json();
  config["draft_vocab_size"] = 300;
  expect_says(refused(HeadKind::kEagle3, config), {"draft_vocab_size", "300", "200"});
  config = eagle_json();
  config["hidden_act"] = "gelu";
  expect_says(refused(HeadKind::kEagle, config), {"hidden_act", "gelu"});
  config = {{"hidden_size", 65}, {"vocab_size", 2}};
  expect_says(refused(HeadKind::kMedusa, config), {"65", "64", "'vocab_size': is 2"});
}

TEST(HeadConfigs, TheDrafterFieldDecides) {
  json config = eagle_json();
  config["drafter"] = "eagle3";
  expect_says(refused(HeadKind::kEagle, config), {"'drafter'", "eagle3"});
  EXPECT_EQ(parse(HeadKind::kEagle3, config).kind, HeadKind::kEagle3);
  EXPECT_THROW(parse_head_config(HeadKind::kEagle, "[]", "x", target_of()), Error);
  EXPECT_THROW(parse_head_config(HeadKind::kEagle, "{", "x", target_of()), Error);
  EXPECT_THROW(parse_head_kind("pass"), Error);
}

TEST(HeadConfigs, Needs) {
  TemporaryDirectory directory;
  directory.write("config.json", eagle_json().dump());
  const std::string path = directory.path().string();
  const ModelConfig target = target_of();
  EXPECT_EQ(head_needs("eagle", path, target).features.kind, FeatureSpec::Kind::kFinal);
  EXPECT_EQ(head_needs("eagle", path, target).features.width(target), 64);
  const DraftNeeds eagle3 = head_needs("eagle3", path, target);
  EXPECT_EQ(eagle3.features.kind, FeatureSpec::Kind::kLayers);
  EXPECT_EQ(eagle3.features.layers, (std::vector<int>{2, 16, 29}));
  EXPECT_EQ(head_needs("eagle3", "random", target).features.layers, eagle3.features.layers);
  EXPECT_THROW(head_needs("eagle", path + "/none", target), Error);
  EXPECT_THROW(head_needs("eagle", directory.write("empty/x", "").parent_path(), target), Error);
  // Medusa files come without a config.json.
  EXPECT_EQ(head_needs("medusa", path + "/empty", target).features.kind, FeatureSpec::Kind::kFinal);
}

// --- tensors ------------------------------------------------------------------------------------

/// The golden head's config with these tensors beside it, opened.
class Tensors : public ::testing::Test {
 protected:
  void use(const std::string& name) {
    golden = testing::load_golden_head(name);
    config = load_head_config(parse_head_kind(golden.method), golden.directory,
                              ModelConfig::load(golden.target));
    infos.clear();
    const auto expected = golden.method == "eagle3" ? Eagle3Head::tensors(config, nullptr)
                          : golden.method == "eagle"
                              ? EagleHead::tensors(config, nullptr)
                              : MedusaHeads::tensors(config, {.heads = 2, .layers = 1});
    for (const HeadTensor& tensor : expected) {
      if (tensor.optional) continue;
      const DType dtype =
          tensor.type == HeadTensor::Type::kInt64 ? DType::kInt64 : DType::kBFloat16;
      infos.push_back({tensor.name, dtype, tensor.shape, ""});
    }
  }
  std::string open() {
    directory.write("model.safetensors", safetensors_bytes(infos));
    try {
      check_head_tensors(
          golden.method == "eagle3" ? Eagle3Head::tensors(config, source().get())
          : golden.method == "eagle"
              ? EagleHead::tensors(config, source().get())
              : MedusaHeads::tensors(config, MedusaHeads::extents(config, source().get())),
          *source(), config);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kModel);
      return error.what();
    }
    return "";
  }
  std::shared_ptr<const TensorSource> source() { return open_head(directory.path()); }
  TensorInfo& info(const std::string& name) {
    return *std::ranges::find(infos, name, &TensorInfo::name);
  }
  void drop(const std::string& name) {
    std::erase_if(infos, [&](const TensorInfo& t) { return t.name == name; });
  }

  TemporaryDirectory directory;
  testing::GoldenHead golden;
  HeadConfig config;
  std::vector<TensorInfo> infos;
};

TEST_F(Tensors, EveryMissingOneIsNamed) {
  for (const char* name : {"eagle-fp32", "eagle3-reduced-bf16", "medusa-fp32"}) {
    use(name);
    EXPECT_EQ(open(), "") << name;
    const std::vector<TensorInfo> whole = infos;
    for (const TensorInfo& tensor : whole) {
      infos = whole;
      drop(tensor.name);
      // Of Medusa's numbered tensors the file is what says how many there are: without the last
      // head's first one, the rest of that head is surplus.
      expect_says(open(),
                  {"model.safetensors", golden.method == "medusa" ? "tensor '" : tensor.name});
    }
  }
}

TEST_F(Tensors, SurplusOnesAreNamedUnlessTheyAreKnown) {
  use("eagle-fp32");
  infos.push_back({"layers.0.input_layernorm.weight", DType::kFloat32, {32}, ""});
  infos.push_back({"layers.0.self_attn.rotary_emb.inv_freq", DType::kFloat32, {4}, ""});
  expect_says(open(), {"'layers.0.input_layernorm.weight' is surplus"});
  EXPECT_EQ(open().find("inv_freq"), std::string::npos);
  drop("layers.0.input_layernorm.weight");
  infos.push_back({"embed_tokens.weight", DType::kFloat16, {131, 32}, ""});
  EXPECT_EQ(open(), "");
  // One bias of three: the others are missing.
  infos.push_back({"layers.0.self_attn.k_proj.bias", DType::kFloat32, {16}, ""});
  expect_says(open(), {"q_proj.bias' of shape [32] is missing", "v_proj.bias"});
  config.qkv_bias = false;
  expect_says(open(), {"k_proj.bias' is surplus"});
}

TEST_F(Tensors, ShapesAndDtypesAreCompared) {
  use("eagle-fp32");
  info("fc.weight").shape = {32, 96};
  info("fc.bias").dtype = DType::kInt64;
  expect_says(open(), {"'fc.weight' has shape [32, 96]", "[32, 64]", "'fc.bias' has dtype int64"});
  use("eagle3-reduced-bf16");
  info("d2t").dtype = DType::kFloat32;
  expect_says(open(), {"'d2t' has dtype float32", "int64"});
}

TEST_F(Tensors, ADraftVocabularyMustMakeSense) {
  use("eagle3-reduced-bf16");
  open();  // d2t is full of bytes that are no offsets
  try {
    read_draft_vocabulary(config, *source());
    FAIL();
  } catch (const Error& error) {
    expect_says(error.what(), {"'d2t'", "entry 0", "of 131"});
  }
  // As it is published, by its mask, but in no order.
  use("eagle3-wide-fp32");
  const DraftVocabulary vocabulary = read_draft_vocabulary(config, *open_head(golden.directory));
  EXPECT_TRUE(std::ranges::is_sorted(vocabulary.tokens));
  EXPECT_FALSE(std::ranges::is_sorted(vocabulary.rows));
  EXPECT_EQ(vocabulary.tokens.size(), 40u);
}

TEST_F(Tensors, MedusaTellsItsExtentsByItself) {
  use("medusa-two-layers-bf16");
  const auto published = open_head(golden.directory);
  const auto found = MedusaHeads::extents(config, published.get());
  EXPECT_EQ(found.prefix, "medusa_head.");
  EXPECT_EQ(found.heads, 2);
  EXPECT_EQ(found.layers, 2);
  // A config that names fewer heads than there are is a known mistake of published files.
  config.medusa_heads = 1;
  config.medusa_layers = 0;
  EXPECT_EQ(MedusaHeads::extents(config, published.get()).heads, 2);
  EXPECT_EQ(MedusaHeads::extents(config, published.get()).layers, 2);
  use("medusa-fp32");
  config.medusa_heads = 3;
  expect_says(open(), {"'2.0.linear.weight'", "'2.1.weight'", "missing"});
}

}  // namespace
}  // namespace convoke
