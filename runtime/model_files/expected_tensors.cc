// Names and shapes as the Hugging Face classes of the four architectures save them.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <unordered_map>

#include "runtime/model_files/json_file.h"
#include "runtime/model_files/tensor_source.h"
#include "runtime/weights.h"

namespace convoke {
namespace {

constexpr const char* kHead = "lm_head.weight";
constexpr std::string_view kScaleSuffix = ".weight_scale";

class ExpectedList {
 public:
  explicit ExpectedList(const ModelConfig& config)
      : config_(config), dtype_(config.checkpoint_dtype) {}

  /// The weights of a linear layer, with their scales where they have 8 bits.
  void linear(const std::string& name, int64_t outputs, int64_t inputs, bool bias = false) {
    const bool quantized = config_.is_quantized(name);
    tensors_.push_back(
        {name + ".weight", quantized ? DType::kFloat8E4M3 : dtype_, {outputs, inputs}, ""});
    if (quantized) {
      tensors_.push_back({name + std::string(kScaleSuffix), DType::kFloat32, {outputs, 1}, ""});
    }
    if (bias) tensors_.push_back({name + ".bias", dtype_, {outputs}, ""});
  }

  void matrix(const std::string& name, int64_t rows, int64_t columns) {
    tensors_.push_back({name + ".weight", dtype_, {rows, columns}, ""});
  }
  void norm(const std::string& name, int64_t size) {
    tensors_.push_back({name + ".weight", dtype_, {size}, ""});
  }
  std::vector<TensorInfo> take() { return std::move(tensors_); }

 private:
  const ModelConfig& config_;
  DType dtype_;
  std::vector<TensorInfo> tensors_;
};

void add_layer(const ModelConfig& config, int layer, ExpectedList& list) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const int64_t q = int64_t{config.heads} * config.head_dim;
  const int64_t kv = int64_t{config.kv_heads} * config.head_dim;
  list.norm(prefix + "input_layernorm", config.hidden);
  list.linear(prefix + "self_attn.q_proj", q, config.hidden, config.qkv_bias);
  list.linear(prefix + "self_attn.k_proj", kv, config.hidden, config.qkv_bias);
  list.linear(prefix + "self_attn.v_proj", kv, config.hidden, config.qkv_bias);
  if (config.qk_norm) {
    list.norm(prefix + "self_attn.q_norm", config.head_dim);
    list.norm(prefix + "self_attn.k_norm", config.head_dim);
  }
  list.linear(prefix + "self_attn.o_proj", config.hidden, q, config.output_bias);
  list.norm(prefix + "post_attention_layernorm", config.hidden);
  list.linear(prefix + "mlp.gate_proj", config.intermediate, config.hidden, config.mlp_bias);
  list.linear(prefix + "mlp.up_proj", config.intermediate, config.hidden, config.mlp_bias);
  list.linear(prefix + "mlp.down_proj", config.hidden, config.intermediate, config.mlp_bias);
}

bool may_be_surplus(const ModelConfig& config, const std::string& name) {
  if (config.quantization && is_unused_scale(name)) return true;
  return name.ends_with(".rotary_emb.inv_freq") || (config.tied_embeddings && name == kHead);
}

bool is_weight_dtype(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

/// What is wrong with a tensor's dtype, or "".
std::string dtype_problem(const ModelConfig& config, const TensorInfo& expected,
                          const TensorInfo& actual) {
  const std::string_view name = dtype_name(actual.dtype);
  if (expected.dtype == DType::kFloat8E4M3) {
    if (actual.dtype == DType::kFloat8E4M3) return "";
    return fmt::format(
        "has dtype {}; config.json's quantization ({}) does not leave this layer alone, so its "
        "weights must be float8_e4m3",
        name, config.quantization->method);
  }
  if (is_weight_dtype(actual.dtype)) return "";
  if (actual.dtype == DType::kFloat8E4M3 && config.quantization) {
    return fmt::format("has dtype {}, but config.json's quantization ({}) leaves it alone", name,
                       config.quantization->method);
  }
  if (actual.dtype == DType::kFloat8E4M3) {
    return fmt::format("has dtype {}, but config.json has no quantization_config", name);
  }
  return fmt::format("has dtype {}; weights must be float32, bfloat16 or float16", name);
}

bool is_scale(const TensorInfo& expected) {
  return expected.name.ends_with(kScaleSuffix);
}

/// One scale for all outputs, or one for each; with or without an axis for the inputs.
bool is_scale_shape(const std::vector<int64_t>& shape, int64_t outputs) {
  if (shape.empty()) return true;
  const bool flat = shape.size() == 1 || (shape.size() == 2 && shape[1] == 1);
  return flat && (shape[0] == 1 || shape[0] == outputs);
}

/// What is wrong with the values of a scale, or "".
std::string scale_problem(const TensorSource& source, const std::string& name) {
  const std::vector<float> values = to_floats(source.tensor(name));
  const auto bad = std::find_if(values.begin(), values.end(),
                                [](float v) { return !(v > 0) || !std::isfinite(v); });
  if (bad == values.end()) return "";
  return fmt::format("holds {} at {}; scales must be positive numbers", *bad, bad - values.begin());
}

/// Layers that are multiplied as one matrix: all of 8 bits, or none.
void check_fused(const ModelConfig& config, const TensorSource& source,
                 std::vector<std::string>& problems) {
  for (int layer = 0; config.quantization && layer < config.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    const auto differ = [&](const char* a, const char* b) {
      if (config.is_quantized(prefix + a) == config.is_quantized(prefix + b)) return;
      problems.push_back(fmt::format(
          "{}: config.json's quantization ({}) covers only one of '{}{}' and '{}{}', which are "
          "multiplied together",
          source.describe(), config.quantization->method, prefix, a, prefix, b));
    };
    differ("self_attn.q_proj", "self_attn.k_proj");
    differ("self_attn.q_proj", "self_attn.v_proj");
    differ("mlp.gate_proj", "mlp.up_proj");
  }
}

}  // namespace

std::vector<TensorInfo> expected_tensors(const ModelConfig& config) {
  ExpectedList list(config);
  list.matrix("model.embed_tokens", config.vocabulary, config.hidden);
  for (int layer = 0; layer < config.layers; ++layer) add_layer(config, layer, list);
  list.norm("model.norm", config.hidden);
  if (!config.tied_embeddings) list.linear("lm_head", config.vocabulary, config.hidden);
  return list.take();
}

std::vector<std::string> tensor_problems(const ModelConfig& config, const TensorSource& source) {
  std::vector<std::string> problems;
  std::unordered_map<std::string, TensorInfo> present;
  for (TensorInfo& info : source.list()) present.emplace(info.name, std::move(info));
  for (const TensorInfo& expected : expected_tensors(config)) {
    const auto found = present.find(expected.name);
    if (found == present.end()) {
      problems.push_back(
          fmt::format("{}: tensor '{}' is missing; {} with this config.json needs it",
                      source.describe(), expected.name, config.architecture_name));
      continue;
    }
    const TensorInfo& actual = found->second;
    const bool scale = is_scale(expected);
    const bool good_shape =
        scale ? is_scale_shape(actual.shape, expected.shape[0]) : actual.shape == expected.shape;
    if (scale && !good_shape) {
      problems.push_back(fmt::format(
          "{}: tensor '{}' has shape {}; {} outputs need [{}, 1] or one scale for all", actual.file,
          actual.name, shape_text(actual.shape), expected.shape[0], expected.shape[0]));
    } else if (!good_shape) {
      problems.push_back(fmt::format("{}: tensor '{}' has shape {}; config.json asks for {}",
                                     actual.file, actual.name, shape_text(actual.shape),
                                     shape_text(expected.shape)));
    }
    std::string problem = dtype_problem(config, expected, actual);
    if (scale && good_shape && problem.empty()) problem = scale_problem(source, actual.name);
    if (!problem.empty()) {
      problems.push_back(fmt::format("{}: tensor '{}' {}", actual.file, actual.name, problem));
    }
    present.erase(found);
  }
  std::vector<std::string> surplus;
  for (const auto& [name, info] : present) {
    if (may_be_surplus(config, name)) continue;
    if (name.ends_with(".weight_scale_inv")) {
      surplus.push_back(fmt::format(
          "{}: tensor '{}': scales for blocks of a matrix are not supported; convert the "
          "checkpoint to one scale per output",
          info.file, name));
      continue;
    }
    surplus.push_back(fmt::format("{}: tensor '{}' is surplus; {} with this config.json has none",
                                  info.file, name, config.architecture_name));
  }
  std::sort(surplus.begin(), surplus.end());  // the same message every time
  std::move(surplus.begin(), surplus.end(), std::back_inserter(problems));
  check_fused(config, source, problems);
  return problems;
}

void check_tensors(const ModelConfig& config, const TensorSource& source) {
  throw_problems(tensor_problems(config, source));
}

}  // namespace convoke
