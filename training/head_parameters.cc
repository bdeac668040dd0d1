#include "training/head_parameters.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace convoke::training {
namespace {

// What a branch that adds to the residual begins with, relative to its usual size.
constexpr double kQuiet = 0.1;

}  // namespace

torch::Tensor ParameterMaker::keep(const std::string& name, torch::Tensor value) {
  value = value.detach().to(device_, torch::kFloat32).contiguous().requires_grad_(true);
  parameters_.push_back({name, value});
  return value;
}

torch::Tensor ParameterMaker::random(const std::string& name, std::vector<int64_t> shape,
                                     double deviation) {
  // Made on the CPU: the same numbers whatever the device.
  torch::Generator generator =
      seeded_generator(seed_ + parameters_.size() * 0x9e3779b97f4a7c15u, torch::kCPU);
  return keep(name, torch::randn(shape, generator) * deviation);
}

torch::Tensor ParameterMaker::constant(const std::string& name, std::vector<int64_t> shape,
                                       double value) {
  return keep(name, torch::full(shape, value, torch::kFloat32));
}

torch::Tensor ParameterMaker::copy(const std::string& name, const torch::Tensor& value) {
  return keep(name, value.to(torch::kFloat32).clone());
}

LayerTensors make_layer(ParameterMaker& maker, const HeadConfig& config, const std::string& prefix,
                        int64_t inputs) {
  const ModelConfig& layer = config.layer;
  const int64_t q = int64_t{layer.heads} * layer.head_dim;
  const int64_t kv = int64_t{layer.kv_heads} * layer.head_dim;
  const auto matrix = [&](const char* name, int64_t rows, int64_t cols, double scale) {
    return maker.random(prefix + name + ".weight", {rows, cols}, scale / std::sqrt(double(cols)));
  };
  LayerTensors tensors;
  tensors.q = matrix("self_attn.q_proj", q, inputs, 1.0);
  tensors.k = matrix("self_attn.k_proj", kv, inputs, 1.0);
  tensors.v = matrix("self_attn.v_proj", kv, inputs, 1.0);
  tensors.o = matrix("self_attn.o_proj", layer.hidden, q, kQuiet);
  tensors.gate = matrix("mlp.gate_proj", layer.intermediate, layer.hidden, 1.0);
  tensors.up = matrix("mlp.up_proj", layer.intermediate, layer.hidden, 1.0);
  tensors.down = matrix("mlp.down_proj", layer.hidden, layer.intermediate, kQuiet);
  tensors.post_norm =
      maker.constant(prefix + "post_attention_layernorm.weight", {int64_t{layer.hidden}}, 1.0);
  return tensors;
}

LayerTensors narrow_layer(const Products& products, const LayerTensors& layer) {
  LayerTensors narrow = layer;
  for (torch::Tensor* weight :
       {&narrow.q, &narrow.k, &narrow.v, &narrow.o, &narrow.gate, &narrow.up, &narrow.down}) {
    *weight = products.narrow(*weight);
  }
  return narrow;
}

std::vector<Parameter> vocabulary_tensors(const torch::Tensor& columns, int vocabulary) {
  const torch::Tensor ids = columns.cpu();
  torch::Tensor mask = torch::zeros({vocabulary}, torch::kBool);
  mask.index_fill_(0, ids, true);
  return {{"d2t", ids - torch::arange(ids.size(0))}, {"t2d", mask}};
}

std::vector<int64_t> most_frequent(const std::vector<int64_t>& occurrences, int count) {
  std::vector<int64_t> ids(occurrences.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::ranges::stable_sort(
      ids, [&](int64_t a, int64_t b) { return occurrences[size_t(a)] > occurrences[size_t(b)]; });
  ids.resize(std::min(ids.size(), size_t(count)));
  std::ranges::sort(ids);
  return ids;
}

}  // namespace convoke::training
