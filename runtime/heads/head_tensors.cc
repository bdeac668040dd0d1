#include "runtime/heads/head_tensors.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <numeric>
#include <unordered_map>

#include "kernels/check.h"
#include "runtime/model_files/head_checkpoint.h"
#include "runtime/model_files/json_file.h"
#include "runtime/weights.h"

namespace convoke {
namespace {

bool has_type(DType dtype, HeadTensor::Type type) {
  switch (type) {
    case HeadTensor::Type::kInt64:
      return dtype == DType::kInt64;
    case HeadTensor::Type::kBool:
      return dtype == DType::kBool;
    case HeadTensor::Type::kFloat:
      return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
  }
  return false;
}

const char* type_text(HeadTensor::Type type) {
  switch (type) {
    case HeadTensor::Type::kInt64:
      return "int64";
    case HeadTensor::Type::kBool:
      return "bool";
    case HeadTensor::Type::kFloat:
      return "float32, bfloat16 or float16";
  }
  return "";
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void compare(const HeadTensor& expected, const TensorInfo& actual, const HeadConfig& config,
             std::vector<std::string>& problems) {
  if (actual.shape != expected.shape) {
    problems.push_back(fmt::format("{}: tensor '{}' has shape {}; {} and the target ask for {}",
                                   actual.file, actual.name, shape_text(actual.shape), config.file,
                                   shape_text(expected.shape)));
  }
  if (!has_type(actual.dtype, expected.type)) {
    problems.push_back(fmt::format("{}: tensor '{}' has dtype {}; it must be {}", actual.file,
                                   actual.name, dtype_name(actual.dtype),
                                   type_text(expected.type)));
  }
}

bool has_qkv_bias(const HeadConfig& config, const std::string& prefix, const TensorSource* source) {
  if (config.qkv_bias.has_value()) return *config.qkv_bias;
  if (source == nullptr) return false;
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
    if (source->contains(fmt::format("{}self_attn.{}.bias", prefix, name))) return true;
  }
  return false;
}

}  // namespace

std::vector<HeadTensor> layer_tensors(const HeadConfig& config, const std::string& prefix,
                                      int64_t inputs, const TensorSource* source) {
  const ModelConfig& layer = config.layer;
  const int64_t q = int64_t{layer.heads} * layer.head_dim;
  const int64_t kv = int64_t{layer.kv_heads} * layer.head_dim;
  const int64_t hidden = layer.hidden, intermediate = layer.intermediate;
  const bool bias = has_qkv_bias(config, prefix, source);
  std::vector<HeadTensor> list;
  const auto add = [&](const char* name, int64_t rows, int64_t cols, bool biased) {
    list.push_back({prefix + name + ".weight", {rows, cols}});
    if (biased) list.push_back({prefix + name + ".bias", {rows}});
  };
  add("self_attn.q_proj", q, inputs, bias);
  add("self_attn.k_proj", kv, inputs, bias);
  add("self_attn.v_proj", kv, inputs, bias);
  add("self_attn.o_proj", hidden, q, false);
  add("mlp.gate_proj", intermediate, hidden, false);
  add("mlp.up_proj", intermediate, hidden, false);
  add("mlp.down_proj", hidden, intermediate, false);
  list.push_back({prefix + "post_attention_layernorm.weight", {hidden}});
  return list;
}

void add_vocabulary_tensors(const HeadConfig& config, std::vector<HeadTensor>& list) {
  list.push_back({.name = "d2t",
                  .shape = {config.draft_vocabulary},
                  .type = HeadTensor::Type::kInt64,
                  .optional = config.random || config.draft_vocabulary == config.vocabulary});
  list.push_back({.name = "t2d",
                  .shape = {config.vocabulary},
                  .type = HeadTensor::Type::kBool,
                  .optional = true});
}

ModelConfig with_biases(const HeadConfig& config, const TensorSource& source,
                        const std::string& prefix) {
  ModelConfig layer = config.layer;
  layer.qkv_bias = has_qkv_bias(config, prefix, &source);
  return layer;
}

DType head_dtype(const std::string& flag, DType checkpoint, bool has_float16) {
  ModelConfig config;
  config.checkpoint_dtype = checkpoint;
  return weight_dtype(flag, config, has_float16);
}

DType head_storage(DType dtype, bool float8) {
  return float8 && dtype == DType::kBFloat16 ? DType::kFloat8E4M3 : dtype;
}

void check_head_tensors(const std::vector<HeadTensor>& expected, const TensorSource& source,
                        const HeadConfig& config) {
  std::vector<std::string> problems;
  std::unordered_map<std::string, TensorInfo> present;
  for (TensorInfo& info : source.list()) present.emplace(info.name, std::move(info));
  for (const HeadTensor& tensor : expected) {
    const auto found = present.find(tensor.name);
    if (found != present.end()) {
      compare(tensor, found->second, config, problems);
      present.erase(found);
    } else if (!tensor.optional) {
      problems.push_back(fmt::format(
          "{}: tensor '{}' of shape {} is missing; an {} head with {} needs it", source.describe(),
          tensor.name, shape_text(tensor.shape), head_kind_name(config.kind), config.file));
    }
  }
  std::vector<std::string> surplus;
  for (const auto& [name, info] : present) {
    if (name.ends_with("rotary_emb.inv_freq")) continue;
    surplus.push_back(fmt::format("{}: tensor '{}' is surplus; an {} head with {} has none",
                                  info.file, name, head_kind_name(config.kind), config.file));
  }
  std::ranges::sort(surplus);  // the same message every time
  std::ranges::move(surplus, std::back_inserter(problems));
  throw_problems(problems);
}

std::shared_ptr<const TensorSource> random_head(const std::vector<HeadTensor>& expected,
                                                DType dtype) {
  std::vector<TensorInfo> tensors;
  for (const HeadTensor& tensor : expected) {
    if (tensor.optional || tensor.type != HeadTensor::Type::kFloat) continue;
    tensors.push_back({tensor.name, dtype, tensor.shape, ""});
  }
  return std::make_shared<DummySource>(std::move(tensors));
}

std::shared_ptr<const TensorSource> open_head(const std::filesystem::path& directory) {
  return open_head_checkpoint(directory);
}

void TargetTensors::refuse_quantized_lm_head() const {
  if (config.is_quantized("lm_head")) {
    throw_error(ErrorKind::kModel,
                "{}: lm_head has weights of 8 bits, which a drafting head cannot share yet; take a "
                "head with an lm_head of its own, or another drafter",
                source->describe());
  }
}

TensorView TargetTensors::lm_head() const {
  refuse_quantized_lm_head();
  return source->tensor(lm_head_layer(config) + ".weight");
}

ResidentMatrix TargetTensors::resident_embedding(Backend& backend) const {
  if (shared.embedding.view().rows > 0) return shared.embedding;
  return resident_rows(backend, source, kEmbedding, {0, config.vocabulary});
}

std::shared_ptr<const PackedMatrix> TargetTensors::packed_lm_head(Backend& backend,
                                                                  DType storage) const {
  if (shared.lm_head == nullptr || shared.lm_head_dtype != storage) {
    refuse_quantized_lm_head();
    return pack_rows(backend, *source, lm_head_layer(config), {0, config.vocabulary}, storage);
  }
  backend.adopt(*shared.lm_head);
  return shared.lm_head;
}

TargetTensors open_target(const DraftContext& context) {
  TargetTensors target;
  target.shared = context.shared;
  target.config = ModelConfig::load(context.model);
  if (context.load_format == "dummy") {
    target.source = std::make_shared<DummySource>(target.config);
  } else {
    target.source = open_checkpoint(context.model);
    check_tensors(target.config, *target.source);
  }
  return target;
}

DraftVocabulary read_draft_vocabulary(const HeadConfig& config, const TensorSource& source) {
  DraftVocabulary vocabulary;
  const int columns = config.draft_vocabulary;
  if (config.random && columns < config.vocabulary) {
    for (int64_t d = 0; d < columns; ++d) {  // spread evenly
      vocabulary.tokens.push_back(int32_t(d * config.vocabulary / columns));
    }
    vocabulary.rows.resize(size_t(columns));
    std::iota(vocabulary.rows.begin(), vocabulary.rows.end(), 0);
    return vocabulary;
  }
  if (config.random || !source.contains("d2t")) return vocabulary;
  const TensorView offsets = source.tensor("d2t");
  std::vector<std::pair<int32_t, int32_t>> order;  // token, row
  for (int32_t d = 0; d < columns; ++d) {
    const int64_t token = d + offsets.row<int64_t>(0)[d];
    if (token < 0 || token >= config.vocabulary) {
      throw_error(ErrorKind::kModel, "{}: tensor 'd2t': entry {} names token {} of {}",
                  source.describe(), d, token, config.vocabulary);
    }
    order.emplace_back(int32_t(token), d);
  }
  std::ranges::sort(order);
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0 && order[i].first == order[i - 1].first) {
      throw_error(ErrorKind::kModel, "{}: tensor 'd2t': entries {} and {} name the same token, {}",
                  source.describe(), order[i - 1].second, order[i].second, order[i].first);
    }
    vocabulary.tokens.push_back(order[i].first);
    vocabulary.rows.push_back(order[i].second);
  }
  if (!source.contains("t2d")) return vocabulary;
  const TensorView mask = source.tensor("t2d");
  for (int32_t v = 0; v < config.vocabulary; ++v) {
    const bool mapped = std::ranges::binary_search(vocabulary.tokens, v);
    if (mapped == (mask.row<uint8_t>(0)[v] != 0)) continue;
    throw_error(ErrorKind::kModel, "{}: tensor 't2d' says {} of token {}, 'd2t' {}",
                source.describe(), !mapped, v, mapped);
  }
  return vocabulary;
}

GatheredRows::GatheredRows(const TensorView& from, const std::vector<int32_t>& rows) {
  const size_t row_bytes = size_t(from.cols) * dtype_size(from.dtype);
  bytes_.resize(rows.size() * row_bytes);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(bytes_.data() + i * row_bytes, from.row_range(rows[i], rows[i] + 1).data,
                row_bytes);
  }
  view_ = TensorView::matrix(bytes_.data(), from.dtype, int64_t(rows.size()), from.cols);
}

}  // namespace convoke
