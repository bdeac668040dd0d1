#include "training/target_model.h"

#include <fmt/format.h>
#include <torch/types.h>
#include <torch/utils.h>

namespace convoke::training {
namespace {

int window_of(const ModelConfig& config, int layer) {
  return config.window.empty() ? 0 : config.window[size_t(layer)];
}

/// Reads tensors of a checkpoint into the place and precision they are used in.
struct Reader {
  const TensorSource& source;
  const Products& products;

  torch::Tensor matrix(const std::string& name) const {
    return copy_tensor(source.tensor(name)).to(products.device, products.dtype);
  }
  torch::Tensor vector(const std::string& name) const {
    if (!source.contains(name)) return {};
    return copy_tensor(source.tensor(name), true).to(products.device, torch::kFloat32);
  }

  LayerTensors layer(const std::string& prefix) const {
    const auto weight = [&](const char* name) { return matrix(prefix + name + ".weight"); };
    const auto bias = [&](const char* name) { return vector(prefix + name + ".bias"); };
    return {.q = weight("self_attn.q_proj"),
            .k = weight("self_attn.k_proj"),
            .v = weight("self_attn.v_proj"),
            .o = weight("self_attn.o_proj"),
            .gate = weight("mlp.gate_proj"),
            .up = weight("mlp.up_proj"),
            .down = weight("mlp.down_proj"),
            .q_bias = bias("self_attn.q_proj"),
            .k_bias = bias("self_attn.k_proj"),
            .v_bias = bias("self_attn.v_proj"),
            .o_bias = bias("self_attn.o_proj"),
            .gate_bias = bias("mlp.gate_proj"),
            .up_bias = bias("mlp.up_proj"),
            .down_bias = bias("mlp.down_proj"),
            .q_norm = vector(prefix + "self_attn.q_norm.weight"),
            .k_norm = vector(prefix + "self_attn.k_norm.weight"),
            .input_norm = vector(prefix + "input_layernorm.weight"),
            .post_norm = vector(prefix + "post_attention_layernorm.weight")};
  }
};

}  // namespace

TargetModel::TargetModel(const ModelConfig& config, const TensorSource& source,
                         const Products& products)
    : config_(config), products_(products), rotary_(config, products.device) {
  const Reader reader{source, products};
  embedding_ = reader.matrix("model.embed_tokens.weight");
  lm_head_ = config.tied_embeddings ? embedding_ : reader.matrix("lm_head.weight");
  final_norm_ = reader.vector("model.norm.weight");
  for (int l = 0; l < config.layers; ++l) {
    layers_.push_back(reader.layer(fmt::format("model.layers.{}.", l)));
  }
}

TargetModel TargetModel::load(const std::filesystem::path& directory, const Products& products) {
  const ModelConfig config = ModelConfig::load(directory);
  if (config.quantization) {
    throw_error(ErrorKind::kModel,
                "{}: weights of 8 bits ({}) cannot be trained with; give the checkpoint that they "
                "were made from",
                (directory / "config.json").string(), config.quantization->method);
  }
  const auto source = open_checkpoint(directory);
  check_tensors(config, *source);
  return TargetModel(config, *source, products);
}

torch::Tensor TargetModel::embed(const torch::Tensor& tokens) const {
  return torch::embedding(embedding_, tokens).to(torch::kFloat32);
}

/// `attend` turns queries, keys and values into what the rows take up [batch, heads, rows, d].
template <typename Attend>
torch::Tensor TargetModel::run_layer(int index, const torch::Tensor& x,
                                     const torch::Tensor& positions, Attend&& attend) const {
  const LayerTensors& layer = layers_[size_t(index)];
  const torch::Tensor input = rms_norm(x, layer.input_norm, config_.rms_epsilon);
  const torch::Tensor attended =
      merge_heads(attend(project(products_, layer, config_, rotary_, input, positions)));
  const torch::Tensor y = x + products_(attended, layer.o, layer.o_bias);
  return y + mlp(products_, layer, rms_norm(y, layer.post_norm, config_.rms_epsilon));
}

TargetModel::Pass TargetModel::run(const torch::Tensor& tokens, const std::vector<int>& layers,
                                   bool keep_cache) const {
  const torch::NoGradGuard no_gradients;
  const int64_t rows = tokens.size(1);
  const torch::Tensor positions = torch::arange(rows, torch::TensorOptions(products_.device));
  Pass pass;
  pass.states.resize(layers.size());
  torch::Tensor x = embed(tokens);
  const auto export_states = [&](int layer) {
    for (size_t i = 0; i < layers.size(); ++i) {
      if (layers[i] == layer) pass.states[i] = products_.rounded(x);
    }
  };
  for (int l = 0; l < config_.layers; ++l) {
    export_states(l);
    const torch::Tensor mask = causal_mask(rows, window_of(config_, l), products_.device);
    x = run_layer(l, x, positions, [&](const QueriesKeysValues& qkv) {
      if (keep_cache) {
        pass.keys.push_back(qkv.k);
        pass.values.push_back(qkv.v);
      }
      return attention_values((attention_scores(qkv.q, qkv.k) + mask).softmax(-1), qkv.v);
    });
  }
  export_states(config_.layers);
  pass.hidden = products_.rounded(rms_norm(x, final_norm_, config_.rms_epsilon));
  return pass;
}

torch::Tensor TargetModel::run_behind(const Pass& context, const torch::Tensor& start,
                                      const torch::Tensor& positions,
                                      const torch::Tensor& sees) const {
  const int64_t seen = context.keys.front().size(2);
  const torch::Tensor before =
      torch::arange(seen, positions.options()).unsqueeze(0).expand({positions.size(0), seen});
  const torch::Tensor distance =
      positions.unsqueeze(2) - torch::cat({before, positions}, 1).unsqueeze(1);
  torch::Tensor x = start;
  for (int l = 0; l < config_.layers; ++l) {
    const int window = window_of(config_, l);
    const torch::Tensor visible = window == 0 ? sees : sees.logical_and(distance < window);
    const torch::Tensor mask = mask_where(visible).unsqueeze(1);
    x = run_layer(l, x, positions, [&](const QueriesKeysValues& qkv) {
      const torch::Tensor& keys = context.keys[size_t(l)];
      const torch::Tensor scores =
          torch::cat({attention_scores(qkv.q, keys), attention_scores(qkv.q, qkv.k)}, -1);
      const torch::Tensor shares = (scores + mask).softmax(-1);
      return attention_values(shares.slice(-1, 0, seen), context.values[size_t(l)]) +
             attention_values(shares.slice(-1, seen), qkv.v);
    });
  }
  return rms_norm(x, final_norm_, config_.rms_epsilon);
}

}  // namespace convoke::training
