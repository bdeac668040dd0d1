// The trainable tensors of a drafting head and how they begin.
#pragma once

#include <torch/types.h>

#include <string>
#include <vector>

#include "runtime/heads/head_config.h"
#include "training/objective.h"

namespace convoke::training {

/// Makes leaves with gradients on the target's device, in the order of the calls.
class ParameterMaker {
 public:
  ParameterMaker(torch::Device device, uint64_t seed) : device_(device), seed_(seed) {}

  /// Normal numbers with this standard deviation.
  torch::Tensor random(const std::string& name, std::vector<int64_t> shape, double deviation);
  torch::Tensor constant(const std::string& name, std::vector<int64_t> shape, double value);
  /// A float32 copy.
  torch::Tensor copy(const std::string& name, const torch::Tensor& value);

  std::vector<Parameter> take() { return std::move(parameters_); }

 private:
  torch::Tensor keep(const std::string& name, torch::Tensor value);

  torch::Device device_;
  uint64_t seed_;
  std::vector<Parameter> parameters_;
};

/// The projections of a head's decoder layer, whose queries, keys and values take `inputs` columns.
/// Attention and MLP begin near zero, so that the layer begins as what enters it.
LayerTensors make_layer(ParameterMaker& maker, const HeadConfig& config, const std::string& prefix,
                        int64_t inputs);
/// The same tensors in the precision of products, to be used throughout one pass.
LayerTensors narrow_layer(const Products& products, const LayerTensors& layer);

/// Token ids of a reduced draft vocabulary as the file has them: d2t (offsets) and t2d (mask).
std::vector<Parameter> vocabulary_tensors(const torch::Tensor& columns, int vocabulary);

/// The `count` most frequent token ids, ascending; ties go to the lower id.
std::vector<int64_t> most_frequent(const std::vector<int64_t>& occurrences, int count);

}  // namespace convoke::training
