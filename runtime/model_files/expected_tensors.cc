// Names and shapes as the Hugging Face classes of the four architectures save them.
#include <algorithm>
#include <iterator>
#include <unordered_map>

#include "runtime/model_files/json_file.h"
#include "runtime/model_files/tensor_source.h"

namespace convoke {
namespace {

constexpr const char* kHead = "lm_head.weight";

class ExpectedList {
 public:
  explicit ExpectedList(DType dtype) : dtype_(dtype) {}

  void matrix(const std::string& name, int64_t outputs, int64_t inputs, bool bias = false) {
    tensors_.push_back({name + ".weight", dtype_, {outputs, inputs}, ""});
    if (bias) tensors_.push_back({name + ".bias", dtype_, {outputs}, ""});
  }
  void norm(const std::string& name, int64_t size) {
    tensors_.push_back({name + ".weight", dtype_, {size}, ""});
  }
  std::vector<TensorInfo> take() { return std::move(tensors_); }

 private:
  DType dtype_;
  std::vector<TensorInfo> tensors_;
};

void add_layer(const ModelConfig& config, int layer, ExpectedList& list) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  const int64_t q = int64_t{config.heads} * config.head_dim;
  const int64_t kv = int64_t{config.kv_heads} * config.head_dim;
  list.norm(prefix + "input_layernorm", config.hidden);
  list.matrix(prefix + "self_attn.q_proj", q, config.hidden, config.qkv_bias);
  list.matrix(prefix + "self_attn.k_proj", kv, config.hidden, config.qkv_bias);
  list.matrix(prefix + "self_attn.v_proj", kv, config.hidden, config.qkv_bias);
  if (config.qk_norm) {
    list.norm(prefix + "self_attn.q_norm", config.head_dim);
    list.norm(prefix + "self_attn.k_norm", config.head_dim);
  }
  list.matrix(prefix + "self_attn.o_proj", config.hidden, q, config.output_bias);
  list.norm(prefix + "post_attention_layernorm", config.hidden);
  list.matrix(prefix + "mlp.gate_proj", config.intermediate, config.hidden, config.mlp_bias);
  list.matrix(prefix + "mlp.up_proj", config.intermediate, config.hidden, config.mlp_bias);
  list.matrix(prefix + "mlp.down_proj", config.hidden, config.intermediate, config.mlp_bias);
}

bool may_be_surplus(const ModelConfig& config, const std::string& name) {
  return name.ends_with(".rotary_emb.inv_freq") || (config.tied_embeddings && name == kHead);
}

bool is_weight_dtype(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace

std::vector<TensorInfo> expected_tensors(const ModelConfig& config) {
  ExpectedList list(config.checkpoint_dtype);
  list.matrix("model.embed_tokens", config.vocabulary, config.hidden);
  for (int layer = 0; layer < config.layers; ++layer) add_layer(config, layer, list);
  list.norm("model.norm", config.hidden);
  if (!config.tied_embeddings) list.matrix("lm_head", config.vocabulary, config.hidden);
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
    if (actual.shape != expected.shape) {
      problems.push_back(fmt::format("{}: tensor '{}' has shape {}; config.json asks for {}",
                                     actual.file, actual.name, shape_text(actual.shape),
                                     shape_text(expected.shape)));
    }
    if (!is_weight_dtype(actual.dtype)) {
      problems.push_back(
          fmt::format("{}: tensor '{}' has dtype {}; weights must be float32, bfloat16 or float16",
                      actual.file, actual.name, dtype_name(actual.dtype)));
    }
    present.erase(found);
  }
  std::vector<std::string> surplus;
  for (const auto& [name, info] : present) {
    if (may_be_surplus(config, name)) continue;
    surplus.push_back(fmt::format("{}: tensor '{}' is surplus; {} with this config.json has none",
                                  info.file, name, config.architecture_name));
  }
  std::sort(surplus.begin(), surplus.end());  // the same message every time
  std::move(surplus.begin(), surplus.end(), std::back_inserter(problems));
  return problems;
}

void check_tensors(const ModelConfig& config, const TensorSource& source) {
  throw_problems(tensor_problems(config, source));
}

}  // namespace convoke
