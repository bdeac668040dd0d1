// What config.json says of weights of 8 bits, and whether a checkpoint keeps to it.
#include "runtime/quantization.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "kernels/dtype_convert.h"
#include "runtime/model_config.h"
#include "runtime/model_files/tensor_source.h"
#include "tests/support/model_directory.h"

namespace convoke {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

json compressed_tensors() {
  const json arguments = {{"num_bits", 8},
                          {"type", "float"},
                          {"symmetric", true},
                          {"strategy", "channel"},
                          {"dynamic", false},
                          {"observer", "minmax"},
                          {"block_structure", nullptr}};
  return {
      {"quant_method", "compressed-tensors"},
      {"format", "float-quantized"},
      {"ignore", {"lm_head"}},
      {"kv_cache_scheme", nullptr},
      {"config_groups",
       {{"group_0",
         {{"targets", {"Linear"}}, {"weights", arguments}, {"input_activations", arguments}}}}}};
}

json fp8(const json& more = json::object()) {
  json block = {{"quant_method", "fp8"}, {"activation_scheme", "static"}};
  block.update(more);
  return block;
}

ModelConfig config_with(const json& block, const char* key = "quantization_config") {
  json config = small_llama_config();
  config[key] = block;
  return ModelConfig::parse(config.dump(), "", "dir");
}

std::string error_of(const std::function<void()>& run) {
  try {
    run();
    return "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel);
    return error.what();
  }
}

std::string error_with(const json& block) {
  return error_of([&] { config_with(block); });
}

TEST(Quantization, EveryPublishedForm) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    const ModelConfig model = config_with(compressed_tensors(), key);
    ASSERT_TRUE(model.quantization) << key;
    EXPECT_EQ(model.auto_dtype(), DType::kBFloat16);
    EXPECT_TRUE(model.is_quantized("model.layers.1.mlp.down_proj"));
    EXPECT_FALSE(model.is_quantized("lm_head"));
  }
  json block = compressed_tensors();
  block["format"] = "naive-quantized";
  block["ignore"] = json::array();
  block["config_groups"]["group_0"]["weights"]["strategy"] = "tensor";
  EXPECT_TRUE(config_with(block).is_quantized("lm_head"));

  for (const char* scheme : {"static", "dynamic"}) {
    const ModelConfig model = config_with(fp8({{"activation_scheme", scheme}}));
    EXPECT_TRUE(model.is_quantized("model.layers.0.self_attn.q_proj"));
    EXPECT_FALSE(model.is_quantized("lm_head")) << "never, in this form";
  }
  const ModelConfig fbgemm = config_with(
      {{"quant_method", "fbgemm_fp8"},
       {"activation_scale_ub", 1200.0},
       {"modules_to_not_convert", {"lm_head", "model.layers.0.self_attn.q_proj", "layers.1"}}});
  EXPECT_FALSE(fbgemm.is_quantized("model.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(fbgemm.is_quantized("model.layers.0.self_attn.k_proj"));
  EXPECT_FALSE(fbgemm.is_quantized("model.layers.1.mlp.up_proj"));
  EXPECT_TRUE(fbgemm.is_quantized("model.layers.11.mlp.up_proj"));
}

TEST(Quantization, AHeadThatIsTheEmbeddingKeepsItsBits) {
  json config = small_llama_config();
  config["quantization_config"] = compressed_tensors();
  config["quantization_config"]["ignore"] = json::array();
  config["tie_word_embeddings"] = true;
  EXPECT_FALSE(ModelConfig::parse(config.dump(), "", "dir").is_quantized("lm_head"));
}

TEST(Quantization, Float16CheckpointsRunInBfloat16) {
  json config = small_llama_config();
  config["torch_dtype"] = "float16";
  config["quantization_config"] = fp8();
  EXPECT_EQ(ModelConfig::parse(config.dump(), "", "dir").auto_dtype(), DType::kBFloat16);
}

TEST(Quantization, NamesAndPatternsOfLayersLeftAlone) {
  struct Case {
    const char* entry;
    const char* module;
    bool covered;
  };
  const char* const up = "model.layers.12.mlp.up_proj";
  for (const Case& c :
       {Case{"model.layers.12.mlp.up_proj", up, false}, Case{"up_proj", up, true},  // whole names
        Case{"re:.*up_proj", up, false}, Case{"re:.*up_pro$", up, true},
        Case{"re:up_proj", up, true},  // matches from the beginning
        Case{"re:^model\\.layers\\.\\d+\\.mlp.*", up, false},
        Case{"re:model.layers.\\d.mlp", up, true}, Case{"re:model.layers.\\d?\\d.mlp", up, false},
        Case{"re:model.layers.3*12.mlp", up, false}, Case{"re:model.layers.1+12.mlp", up, true},
        Case{"re:.*", up, false}, Case{"re:", up, false}, Case{"re:.+x", up, true},
        Case{"re:m.*o.*d.*l.*p.*_proj$", up, false}}) {
    json block = compressed_tensors();
    block["ignore"] = {c.entry};
    EXPECT_EQ(config_with(block).is_quantized(c.module), c.covered) << c.entry;
  }
}

TEST(Quantization, WhatIsNotSupportedIsNamed) {
  const auto change = [](const std::function<void(json&)>& how) {
    json block = compressed_tensors();
    how(block);
    return error_with(block);
  };
  const auto weights = [&](const char* key, const json& value) {
    return change([&](json& b) { b["config_groups"]["group_0"]["weights"][key] = value; });
  };
  const std::string place =
      "dir/config.json: key 'quantization_config.config_groups.group_0.weights.";
  EXPECT_THAT(weights("type", "int"), AllOf(HasSubstr(place + "type'"), HasSubstr("'int'")));
  EXPECT_THAT(weights("num_bits", 4), HasSubstr(place + "num_bits': 4 is not supported"));
  EXPECT_THAT(weights("strategy", "block"), HasSubstr(place + "strategy': 'block'"));
  EXPECT_THAT(weights("strategy", "group"), HasSubstr("a scale per channel or per tensor"));
  EXPECT_THAT(weights("symmetric", false), HasSubstr("zero points"));
  EXPECT_THAT(change([](json& b) { b["format"] = "pack-quantized"; }), HasSubstr("pack-quantized"));
  EXPECT_THAT(change([](json& b) { b.erase("config_groups"); }), HasSubstr("must hold one group"));
  EXPECT_THAT(change([](json& b) { b["config_groups"]["b"] = json::object(); }),
              HasSubstr("must hold one group"));
  EXPECT_THAT(change([](json& b) { b["config_groups"]["group_0"] = 3; }), HasSubstr("group_0"));
  EXPECT_THAT(change([](json& b) { b["config_groups"]["group_0"].erase("weights"); }),
              HasSubstr("weights': is missing"));
  EXPECT_THAT(change([](json& b) { b["config_groups"]["group_0"]["targets"] = {"re:.*mlp.*"}; }),
              HasSubstr("targets"));
  EXPECT_THAT(change([](json& b) {
                b["sparsity_config"] = {{"format", "sparse-24-bitmask"}};
              }),
              HasSubstr("sparsity_config"));
  EXPECT_EQ(change([](json& b) { b["sparsity_config"] = {{"format", "dense"}}; }), "no error");
  for (const char* pattern :
       {"re:(a|b)", "re:[ab]", "re:a**", "re:*", "re:\\w", "re:a\\", "re:a$b", "re:a{2}", ""}) {
    EXPECT_THAT(change([&](json& b) { b["ignore"] = {pattern}; }), HasSubstr("ignore")) << pattern;
  }
  EXPECT_THAT(error_with(fp8({{"weight_block_size", {128, 128}}})),
              HasSubstr("weight_block_size': scales for blocks of a matrix are not supported"));
  EXPECT_THAT(error_with(fp8({{"activation_scheme", "none"}})), HasSubstr("'none'"));
  EXPECT_THAT(error_with(fp8({{"fmt", "e5m2"}})), HasSubstr("'e5m2'"));
  EXPECT_THAT(error_with(fp8({{"ignored_layers", "lm_head"}})), HasSubstr("list of strings"));
  EXPECT_THAT(error_with({{"quant_method", "gptq"}}), HasSubstr("'gptq' is not supported"));
  EXPECT_THAT(error_with("fp8"), HasSubstr("must be an object"));
  json both = small_llama_config();
  both["quantization_config"] = both["compression_config"] = fp8();
  EXPECT_THAT(error_of([&] { ModelConfig::parse(both.dump(), "", "dir"); }),
              HasSubstr("compression_config"));
}

/// Tensors in memory; scales are ones unless a test says otherwise.
class MemorySource : public TensorSource {
 public:
  explicit MemorySource(std::vector<TensorInfo> infos) : infos_(std::move(infos)) {
    for (TensorInfo& info : infos_) info.file = "a file";
  }
  std::vector<TensorInfo> list() const override { return infos_; }
  bool contains(const std::string&) const override { return false; }
  TensorView tensor(const std::string& name) const override {
    std::vector<float>& values = values_[name];
    for (const TensorInfo& info : infos_) {
      if (info.name != name || !values.empty()) continue;
      values.assign(info.shape.empty() ? 1 : size_t(info.shape[0]), 1.0f);
    }
    return TensorView::matrix(values.data(), DType::kFloat32, int64_t(values.size()), 1);
  }
  void set(const std::string& name, std::vector<float> values) {
    values_[name] = std::move(values);
  }

 private:
  std::vector<TensorInfo> infos_;
  mutable std::map<std::string, std::vector<float>> values_;
};

constexpr const char* kScale = "model.layers.1.mlp.up_proj.weight_scale";

TensorInfo& find(std::vector<TensorInfo>& infos, const std::string& name) {
  for (TensorInfo& info : infos) {
    if (info.name == name) return info;
  }
  throw std::runtime_error(name);
}

TEST(QuantizedTensors, ScalesComeWithTheWeightsThatNeedThem) {
  const ModelConfig config = config_with(compressed_tensors());
  std::vector<TensorInfo> infos = expected_tensors(config);
  const TensorInfo& scale = find(infos, kScale);
  EXPECT_EQ(scale.shape, (std::vector<int64_t>{48, 1}));
  EXPECT_EQ(find(infos, "model.layers.1.mlp.up_proj.weight").dtype, DType::kFloat8E4M3);
  EXPECT_EQ(find(infos, "lm_head.weight").dtype, DType::kBFloat16);
  EXPECT_THROW(find(infos, "lm_head.weight_scale"), std::runtime_error);
  EXPECT_EQ(error_of([&] { check_tensors(config, MemorySource(infos)); }), "no error");
}

TEST(QuantizedTensors, WhatIsWrongIsNamed) {
  const ModelConfig config = config_with(compressed_tensors());
  const auto error = [&](const std::function<void(std::vector<TensorInfo>&)>& change,
                         const std::vector<float>& values = {}) {
    std::vector<TensorInfo> infos = expected_tensors(config);
    change(infos);
    MemorySource source(infos);
    if (!values.empty()) source.set(kScale, values);
    return error_of([&] { check_tensors(config, source); });
  };
  const auto shape = [&](const std::vector<int64_t>& extents) {
    return error([&](auto& infos) { find(infos, kScale).shape = extents; });
  };
  for (const std::vector<int64_t>& good :
       std::vector<std::vector<int64_t>>{{}, {1}, {1, 1}, {48}, {48, 1}}) {
    EXPECT_EQ(shape(good), "no error") << json(good);
  }
  for (const std::vector<int64_t>& bad :
       std::vector<std::vector<int64_t>>{{47, 1}, {1, 48}, {48, 32}, {0}, {48, 1, 1}, {6, 4}}) {
    EXPECT_THAT(shape(bad), AllOf(HasSubstr("a file: tensor '" + std::string(kScale)),
                                  HasSubstr("48 outputs need [48, 1] or one scale for all")))
        << json(bad);
  }
  EXPECT_THAT(error([](auto& infos) {
                std::erase_if(infos, [](const auto& info) { return info.name == kScale; });
              }),
              HasSubstr("tensor '" + std::string(kScale) + "' is missing"));
  for (const float bad : {0.0f, -1.0f, NAN, INFINITY}) {
    std::vector<float> values(48, 0.5f);
    values[7] = bad;
    EXPECT_THAT(error([](auto&) {}, values),
                AllOf(HasSubstr("a file: tensor '" + std::string(kScale) + "' holds"),
                      HasSubstr("at 7; scales must be positive numbers")));
  }
  const auto dtype = [&](const char* name, DType type) {
    return error([&](auto& infos) { find(infos, name).dtype = type; });
  };
  EXPECT_THAT(
      dtype("model.layers.0.mlp.up_proj.weight", DType::kBFloat16),
      HasSubstr("has dtype bfloat16; config.json's quantization (compressed-tensors) does"));
  EXPECT_THAT(dtype("lm_head.weight", DType::kFloat8E4M3), HasSubstr("leaves it alone"));
  EXPECT_THAT(dtype("model.norm.weight", DType::kFloat8E4M3), HasSubstr("leaves it alone"));
  EXPECT_THAT(dtype(kScale, DType::kFloat8E4M3), HasSubstr(kScale));
  EXPECT_EQ(dtype(kScale, DType::kBFloat16), "no error");
  const auto add = [&](const char* name) {
    return error([&](auto& infos) { infos.push_back({name, DType::kFloat32, {1}, ""}); });
  };
  EXPECT_THAT(add("lm_head.weight_scale"), HasSubstr("tensor 'lm_head.weight_scale' is surplus"));
  EXPECT_THAT(add("model.layers.0.mlp.up_proj.weight_scale_inv"),
              HasSubstr("scales for blocks of a matrix are not supported"));
  EXPECT_EQ(add("model.layers.0.mlp.up_proj.input_scale"), "no error");
  EXPECT_EQ(add("model.layers.0.self_attn.k_scale"), "no error");
}

TEST(QuantizedTensors, Float8WithoutAConfigurationIsRefused) {
  json plain = small_llama_config();
  plain["num_hidden_layers"] = 1;
  json quantized = plain;
  quantized["quantization_config"] = fp8();
  const ModelConfig config = ModelConfig::parse(plain.dump(), "", "dir");
  const MemorySource source(expected_tensors(ModelConfig::parse(quantized.dump(), "", "dir")));
  EXPECT_THAT(error_of([&] { check_tensors(config, source); }),
              AllOf(HasSubstr("has dtype float8_e4m3, but config.json has no quantization_config"),
                    HasSubstr("weight_scale' is surplus")));
}

TEST(QuantizedTensors, PartsOfOneProductGoTogether) {
  const ModelConfig config =
      config_with(fp8({{"ignored_layers", {"model.layers.1.self_attn.k_proj", "up_proj"}}}));
  EXPECT_THAT(error_of([&] { check_tensors(config, MemorySource(expected_tensors(config))); }),
              AllOf(HasSubstr("covers only one of 'model.layers.1.self_attn.q_proj' and "
                              "'model.layers.1.self_attn.k_proj'"),
                    HasSubstr("'model.layers.0.mlp.gate_proj' and 'model.layers.0.mlp.up_proj'")));
}

TEST(QuantizedTensors, RandomOnesHaveTheSizeOfOthers) {
  json json_config = small_llama_config();
  json_config["hidden_size"] = 1024;
  json_config["quantization_config"] = compressed_tensors();
  const ModelConfig config = ModelConfig::parse(json_config.dump(), "", "dir");
  const DummySource source(config);
  EXPECT_EQ(error_of([&] { check_tensors(config, source); }), "no error");
  const TensorView weight = source.tensor("model.layers.0.mlp.up_proj.weight");
  const TensorView scale = source.tensor("model.layers.0.mlp.up_proj.weight_scale");
  ASSERT_EQ(weight.dtype, DType::kFloat8E4M3);
  ASSERT_EQ(scale.rows, weight.rows);
  double sum = 0, squares = 0;
  for (int64_t r = 0; r < weight.rows; ++r) {
    for (int64_t c = 0; c < weight.cols; ++c) {
      const double value =
          double(e4m3_to_float(weight.row<uint8_t>(r)[c])) * scale.row<float>(r)[0];
      sum += value;
      squares += value * value;
    }
  }
  const double count = double(weight.rows * weight.cols);
  EXPECT_NEAR(sum / count * 32, 0.0, 0.02);
  EXPECT_NEAR(std::sqrt(squares / count) * 32, 1.0, 0.02);
}

}  // namespace
}  // namespace convoke
