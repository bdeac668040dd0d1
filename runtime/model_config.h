// What a Hugging Face model directory says about its architecture, checked and normalised.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor.h"
#include "parallel/shard_plan.h"
#include "runtime/quantization.h"

namespace convoke {

enum class Architecture { kLlama, kMistral, kQwen2, kQwen3 };

/// rope_scaling of type "llama3" (Llama 3.1 and later): low frequencies are divided by `factor`,
/// high ones kept, those between interpolated. "linear" divides all by `factor`.
struct RopeScaling {
  enum class Kind { kLinear, kLlama3 } kind = Kind::kLlama3;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int original_max_position = 8192;
};

struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  std::string architecture_name;  ///< as in config.json: "LlamaForCausalLM"
  int hidden = 0;
  int64_t intermediate = 0;
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int vocabulary = 0;
  int max_positions = 0;  ///< max_position_embeddings
  float rms_epsilon = 1e-5f;
  double rope_theta = 10000.0;
  std::optional<RopeScaling> rope_scaling;
  bool tied_embeddings = false;
  bool qkv_bias = false;     ///< q/k/v projections have biases (Qwen2; Llama attention_bias)
  bool output_bias = false;  ///< o_proj has one too (Llama with attention_bias)
  bool mlp_bias = false;
  bool qk_norm = false;                       ///< per-head RMSNorm of queries and keys (Qwen3)
  std::vector<int> window;                    ///< [layers] sliding window, 0 = full attention
  DType checkpoint_dtype = DType::kBFloat16;  ///< torch_dtype
  std::optional<Quantization> quantization;   ///< of the linear layers' weights, to 8 bits
  int bos_token = -1;
  std::vector<int> eos_tokens;  ///< config.json, overridden by generation_config.json

  ModelExtents extents() const { return {heads, kv_heads, head_dim, intermediate, vocabulary}; }
  int64_t parameter_count() const;  ///< tied embeddings count once

  /// What weights are held and computed in unless told: bfloat16 checkpoints as they are, all
  /// others in float32, which is exact for float16. Weights of 8 bits are multiplied in bfloat16,
  /// and then the others are too.
  DType auto_dtype() const {
    return checkpoint_dtype == DType::kBFloat16 || quantization ? DType::kBFloat16
                                                                : DType::kFloat32;
  }
  /// The weights of this linear layer ("lm_head", "model.layers.0.mlp.up_proj") have 8 bits.
  bool is_quantized(std::string_view module) const {
    return quantization && !(tied_embeddings && module == "lm_head") &&
           quantization->covers(module);
  }

  /// Reads DIR/config.json (and generation_config.json if there). Throws Error(kModel) that names
  /// file and key for anything unknown, missing, out of range or not supported; if several things
  /// are wrong, all of them. A key that may be absent means what it means in transformers.
  static ModelConfig load(const std::filesystem::path& directory);

  /// The same from text; `directory` is for messages, `generation_config` is empty if there is
  /// none.
  static ModelConfig parse(std::string_view config, std::string_view generation_config,
                           const std::string& directory);

  /// load() that gathers what is wrong, one entry per file and key, instead of throwing. Returns
  /// nothing when it has added problems.
  static std::optional<ModelConfig> load(const std::filesystem::path& directory,
                                         std::vector<std::string>& problems);
};

/// Sampling defaults of generation_config.json: what a request gets that does not say. Absent
/// values are unset. An explicit "do_sample": false means temperature 0.
struct GenerationDefaults {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;
  /// Without the file: all unset. Throws Error(kModel) that names file and key.
  static GenerationDefaults load(const std::filesystem::path& directory);
  static GenerationDefaults parse(std::string_view generation_config, const std::string& directory);
};

/// Inverse frequencies of RoPE after scaling, in radians per position: [head_dim / 2].
std::vector<double> rope_inverse_frequencies(const ModelConfig& config);

}  // namespace convoke
