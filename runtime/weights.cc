#include "runtime/weights.h"

#include <cmath>
#include <initializer_list>

#include "kernels/check.h"
#include "kernels/dtype_convert.h"

namespace convoke {
namespace {

float element(const TensorView& view, int64_t row, int64_t col) {
  switch (view.dtype) {
    case DType::kFloat32:
      return view.row<float>(row)[col];
    case DType::kBFloat16:
      return bf16_to_float(view.row<uint16_t>(row)[col]);
    case DType::kFloat16:
      return fp16_to_float(view.row<uint16_t>(row)[col]);
    default:
      break;
  }
  throw_error(ErrorKind::kModel, "a weight has dtype {}, which is not a float",
              dtype_name(view.dtype));
}

/// Rows or columns of a linear layer's weights, as a part of a packed matrix.
struct LinearSlice {
  std::string name;  ///< of the layer
  Range outputs;
  Range inputs = {};  ///< empty: all
};

/// The slice's elements, or, where the backend is to make them, what they are.
void add_part(Backend& backend, const TensorSource& source, const LinearSlice& slice,
              MatrixSource& matrix) {
  const std::string name = slice.name + ".weight";
  const Range rows = slice.outputs;
  const auto columns = [&](int64_t all) {
    return slice.inputs.size() > 0 ? slice.inputs : Range{0, all};
  };
  if (!backend.shares_host_memory()) {
    if (const auto recipe = source.recipe(name)) {
      const Range cols = columns(recipe->cols);
      matrix.parts.push_back(TensorView::matrix(nullptr, recipe->dtype, rows.size(), cols.size()));
      matrix.random.push_back({*recipe, rows.begin, cols.begin});
      return;
    }
  }
  const TensorView all = source.tensor(name);
  const Range cols = columns(all.cols);
  matrix.parts.push_back(all.row_range(rows.begin, rows.end).col_range(cols.begin, cols.end));
}

/// Packs layers that are multiplied as one matrix, with the scales of weights of 8 bits.
std::unique_ptr<PackedMatrix> pack_linear(Backend& backend, const TensorSource& source,
                                          const std::vector<LinearSlice>& slices,
                                          MatrixSource matrix) {
  std::vector<float> scales;
  for (const LinearSlice& slice : slices) {
    add_part(backend, source, slice, matrix);
    if (matrix.parts.back().dtype != DType::kFloat8E4M3) continue;
    const auto values = to_floats(source.tensor(slice.name + ".weight_scale"));
    for (int64_t n = slice.outputs.begin; n < slice.outputs.end; ++n) {
      scales.push_back(values.size() == 1 ? values[0] : values[size_t(n)]);
    }
  }
  if (!scales.empty()) matrix.dtype = DType::kFloat8E4M3;
  matrix.scales = scales;
  matrix.read = [&source](const TensorView& rows, std::byte* to) { source.read(rows, to); };
  return backend.pack(matrix);
}

// Reads the tensors of one layer by their names after the prefix.
class LayerReader {
 public:
  LayerReader(Backend& backend, const TensorSource& source, const std::string& prefix)
      : backend_(backend), source_(source), prefix_(prefix) {}

  /// The rows of a linear layer's weights, for `pack`.
  LinearSlice rows(const char* name, Range range) const { return {prefix_ + name, range}; }
  LinearSlice columns(const char* name, Range range, int64_t outputs) const {
    return {prefix_ + name, {0, outputs}, range};
  }
  std::unique_ptr<PackedMatrix> pack(const std::vector<LinearSlice>& slices,
                                     const MatrixSource& matrix) const {
    return pack_linear(backend_, source_, slices, matrix);
  }

  FloatArray norm(const char* name) const {
    return {backend_, to_floats(source_.tensor(prefix_ + name + std::string(".weight")))};
  }
  /// The biases of products that are computed together, one behind the other.
  struct Slice {
    const char* name;
    Range range;
  };
  FloatArray biases(std::initializer_list<Slice> slices) const {
    std::vector<float> values;
    for (const Slice& slice : slices) {
      const TensorView all = source_.tensor(prefix_ + slice.name + std::string(".bias"));
      const auto part = to_floats(all.col_range(slice.range.begin, slice.range.end));
      values.insert(values.end(), part.begin(), part.end());
    }
    return {backend_, values};
  }

 private:
  Backend& backend_;
  const TensorSource& source_;
  std::string prefix_;
};

Range scaled(Range range, int64_t factor) {
  return {range.begin * factor, range.end * factor};
}

void load_attention(LayerWeights& layer, const LayerReader& reader, const ModelConfig& config,
                    const ShardPlan& plan, DType dtype) {
  const Range q = scaled(plan.heads, config.head_dim);
  const Range kv = scaled(plan.kv_heads, config.head_dim);
  layer.qkv = reader.pack({reader.rows("self_attn.q_proj", q), reader.rows("self_attn.k_proj", kv),
                           reader.rows("self_attn.v_proj", kv)},
                          {.dtype = dtype});
  layer.output = reader.pack({reader.columns("self_attn.o_proj", q, config.hidden)},
                             {.dtype = dtype, .groups = plan.local_groups});
  if (config.qkv_bias) {
    layer.qkv_bias = reader.biases(
        {{"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}});
  }
  if (config.output_bias) {
    layer.output_bias = reader.biases({{"self_attn.o_proj", {0, config.hidden}}});
  }
  if (config.qk_norm) {
    layer.q_norm = reader.norm("self_attn.q_norm");
    layer.k_norm = reader.norm("self_attn.k_norm");
  }
}

void load_mlp(LayerWeights& layer, const LayerReader& reader, const ModelConfig& config,
              const ShardPlan& plan, DType dtype) {
  const Range cut = plan.intermediate;
  layer.gate_up = reader.pack({reader.rows("mlp.gate_proj", cut), reader.rows("mlp.up_proj", cut)},
                              {.dtype = dtype, .gated = true});
  layer.down = reader.pack({reader.columns("mlp.down_proj", cut, config.hidden)},
                           {.dtype = dtype, .groups = plan.local_groups});
  if (config.mlp_bias) {
    layer.gate_up_bias = reader.biases({{"mlp.gate_proj", cut}, {"mlp.up_proj", cut}});
    layer.down_bias = reader.biases({{"mlp.down_proj", {0, config.hidden}}});
  }
}

}  // namespace

std::vector<float> to_floats(const TensorView& view) {
  std::vector<float> out;
  out.reserve(size_t(view.rows * view.cols));
  for (int64_t r = 0; r < view.rows; ++r) {
    for (int64_t c = 0; c < view.cols; ++c) out.push_back(element(view, r, c));
  }
  return out;
}

RopeTable make_rope_table(const ModelConfig& config, int positions) {
  const std::vector<double> frequencies = rope_inverse_frequencies(config);
  RopeTable table;
  table.cos.reserve(size_t(positions) * frequencies.size());
  table.sin.reserve(size_t(positions) * frequencies.size());
  for (int p = 0; p < positions; ++p) {
    for (double f : frequencies) {
      table.cos.push_back(float(std::cos(p * f)));
      table.sin.push_back(float(std::sin(p * f)));
    }
  }
  return table;
}

void load_layer_matrices(LayerWeights& layer, const TensorSource& source, const std::string& prefix,
                         Backend& backend, const ModelConfig& config, const ShardPlan& plan,
                         DType dtype) {
  const LayerReader reader(backend, source, prefix);
  load_attention(layer, reader, config, plan, dtype);
  load_mlp(layer, reader, config, plan, dtype);
}

ResidentMatrix resident_rows(Backend& backend, const std::shared_ptr<const TensorSource>& source,
                             const std::string& name, Range rows) {
  if (const auto recipe = source->recipe(name)) {
    return {backend, RandomSlice{*recipe, rows.begin, 0}, rows.size()};
  }
  return {backend, source->tensor(name).row_range(rows.begin, rows.end), source};
}

std::unique_ptr<PackedMatrix> pack_rows(Backend& backend, const TensorSource& source,
                                        const std::string& layer, Range outputs, DType storage) {
  return pack_linear(backend, source, {{layer, outputs}}, {.dtype = storage});
}

std::string lm_head_layer(const ModelConfig& config) {
  return config.tied_embeddings ? "model.embed_tokens" : "lm_head";
}

int64_t ModelWeights::bytes_per_pass() const {
  int64_t bytes = int64_t(lm_head->bytes());
  for (const LayerWeights& l : layers) {
    bytes += int64_t(l.qkv->bytes() + l.output->bytes() + l.gate_up->bytes() + l.down->bytes());
    bytes += int64_t((l.input_norm.size() + l.post_norm.size()) * sizeof(float));
  }
  return bytes;
}

DType weight_dtype(const std::string& flag, const ModelConfig& config, bool has_float16) {
  if (config.quantization && (flag == "float32" || flag == "float16")) {
    throw_error(ErrorKind::kUsage,
                "--dtype {}: this checkpoint has weights of 8 bits ({}), which are multiplied in "
                "bfloat16; give 'auto' or 'bfloat16'",
                flag, config.quantization->method);
  }
  if (flag == "bfloat16") return DType::kBFloat16;
  if (flag == "float32") return DType::kFloat32;
  if (flag == "float16" && has_float16) return DType::kFloat16;
  if (flag == "auto") {
    const bool keep =
        has_float16 && config.checkpoint_dtype == DType::kFloat16 && !config.quantization;
    return keep ? DType::kFloat16 : config.auto_dtype();
  }
  if (flag == "float16") {
    throw_error(ErrorKind::kUsage,
                "--dtype float16: the cpu backend computes in bfloat16 or float32; 'auto' runs a "
                "float16 checkpoint in float32, which is exact");
  }
  throw_error(ErrorKind::kUsage, "--dtype '{}': expected auto, float32, bfloat16 or float16", flag);
}

ModelWeights load_weights(Backend& backend, const ModelConfig& config, const ShardPlan& plan,
                          std::shared_ptr<const TensorSource> source, DType dtype, int positions,
                          const std::function<void(int, int)>& progress) {
  ModelWeights weights;
  // Dummy tensors are made on demand and freed layer by layer; mapped ones stay.
  const auto* dummy = dynamic_cast<const DummySource*>(source.get());
  const Range vocabulary = plan.vocabulary;

  weights.lm_head = pack_rows(backend, *source, lm_head_layer(config), vocabulary, dtype);
  weights.lm_head_dtype = config.is_quantized("lm_head") ? DType::kFloat8E4M3 : dtype;
  weights.embedding = resident_rows(backend, source, kEmbedding, vocabulary);
  weights.final_norm = {backend, to_floats(source->tensor("model.norm.weight"))};
  const RopeTable rope = make_rope_table(config, positions);
  weights.rope_cos = {backend, rope.cos};
  weights.rope_sin = {backend, rope.sin};

  for (int l = 0; l < config.layers; ++l) {
    if (dummy != nullptr) dummy->release();
    const std::string prefix = fmt::format("model.layers.{}.", l);
    const LayerReader reader(backend, *source, prefix);
    LayerWeights& layer = weights.layers.emplace_back();
    layer.input_norm = reader.norm("input_layernorm");
    layer.post_norm = reader.norm("post_attention_layernorm");
    load_layer_matrices(layer, *source, prefix, backend, config, plan, dtype);
    if (progress) progress(l + 1, config.layers);
  }
  if (dummy != nullptr) dummy->release();
  return weights;
}

SharedWeights shared_weights(const ModelWeights& weights, const ModelConfig& config,
                             const ShardPlan& plan) {
  if (plan.tp > 1) return {};
  SharedWeights shared{.embedding = weights.embedding};
  if (config.is_quantized("lm_head")) return shared;
  shared.lm_head = weights.lm_head;
  shared.lm_head_dtype = weights.lm_head_dtype;
  return shared;
}

}  // namespace convoke
