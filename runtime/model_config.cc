#include "runtime/model_config.h"

#include <algorithm>
#include <array>
#include <climits>
#include <cmath>
#include <numbers>

#include "runtime/model_files/json_file.h"

namespace convoke {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
// Far above every model there is, and small enough that products of two fit in 64 bits.
constexpr int64_t kMaxWidth = int64_t{1} << 24;
constexpr int64_t kMaxHeads = int64_t{1} << 16;
constexpr int64_t kMaxHeadDim = 4096;
constexpr int64_t kMaxLayers = 4096;

/// What transformers assumes for an absent key, where the architectures differ. Source: the config
/// classes of transformers 4.40 to 5.
struct ArchitectureDefaults {
  Architecture architecture;
  const char* name;
  const char* model_type;
  int kv_heads;  ///< 0 = as many as query heads
  int head_dim;  ///< 0 = hidden / heads
  int max_positions;
  int bos, eos;  ///< -1 = none
};

constexpr std::array<ArchitectureDefaults, 4> kArchitectures = {{
    {Architecture::kLlama, "LlamaForCausalLM", "llama", 0, 0, 2048, 1, 2},
    {Architecture::kMistral, "MistralForCausalLM", "mistral", 8, 0, 131072, 1, 2},
    {Architecture::kQwen2, "Qwen2ForCausalLM", "qwen2", 32, 0, 32768, -1, -1},
    {Architecture::kQwen3, "Qwen3ForCausalLM", "qwen3", 32, 128, 32768, -1, -1},
}};

std::string supported_architectures() {
  std::string names;
  for (const auto& entry : kArchitectures)
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  return names;
}

const ArchitectureDefaults* find_architecture(JsonObject& config) {
  const std::vector<std::string> names = config.texts("architectures");
  const std::string model_type = config.text("model_type", "");
  if (names.size() > 1) {
    config.problem("architectures", "must name one architecture, names {}", names.size());
    return nullptr;
  }
  if (names.empty() && model_type.empty()) {
    config.problem("architectures", "is missing (supported: {})", supported_architectures());
    return nullptr;
  }
  const auto* found =
      std::find_if(kArchitectures.begin(), kArchitectures.end(), [&](const auto& entry) {
        return names.empty() ? model_type == entry.model_type : names.front() == entry.name;
      });
  if (found == kArchitectures.end()) {
    config.problem(names.empty() ? "model_type" : "architectures",
                   "'{}' is not supported (supported: {})",
                   names.empty() ? model_type : names.front(), supported_architectures());
    return nullptr;
  }
  if (!model_type.empty() && model_type != found->model_type) {
    config.problem("model_type", "is '{}', but architecture {} needs '{}'", model_type, found->name,
                   found->model_type);
  }
  return found;
}

void read_dtype(JsonObject& config, ModelConfig& model) {
  const std::string older = config.text("torch_dtype", "");
  const std::string newer = config.text("dtype", older);
  if (!older.empty() && newer != older) {
    config.problem("dtype", "is '{}', but 'torch_dtype' is '{}'", newer, older);
  }
  if (newer.empty() || newer == "float32") {
    model.checkpoint_dtype = DType::kFloat32;
  } else if (newer == "bfloat16") {
    model.checkpoint_dtype = DType::kBFloat16;
  } else if (newer == "float16") {
    model.checkpoint_dtype = DType::kFloat16;
  } else {
    config.problem(config.has("dtype") ? "dtype" : "torch_dtype",
                   "'{}' is not supported (supported: float32, bfloat16, float16)", newer);
  }
}

void read_extents(JsonObject& config, const ArchitectureDefaults& defaults, ModelConfig& model) {
  model.hidden = static_cast<int>(config.integer("hidden_size", {}, 1, kMaxWidth));
  model.intermediate = config.integer("intermediate_size", {}, 1, kMaxWidth);
  model.layers = static_cast<int>(config.integer("num_hidden_layers", {}, 1, kMaxLayers));
  model.vocabulary = static_cast<int>(config.integer("vocab_size", {}, 1, kMaxWidth));
  model.max_positions = static_cast<int>(
      config.integer("max_position_embeddings", defaults.max_positions, 1, INT_MAX));
  model.heads = static_cast<int>(config.integer("num_attention_heads", {}, 1, kMaxHeads));
  const bool own_kv_heads = defaults.kv_heads == 0 || config.is_null("num_key_value_heads");
  model.kv_heads = static_cast<int>(config.integer(
      "num_key_value_heads", own_kv_heads ? model.heads : defaults.kv_heads, 1, kMaxHeads));
  if (model.heads % model.kv_heads != 0) {
    config.problem("num_key_value_heads", "{} does not divide num_attention_heads, {}",
                   model.kv_heads, model.heads);
  }
  const bool derived = !config.has("head_dim") && defaults.head_dim == 0;
  if (derived && model.hidden % model.heads != 0) {
    config.problem("hidden_size",
                   "{} is not divisible by num_attention_heads, {}, and there is no "
                   "head_dim",
                   model.hidden, model.heads);
  }
  const int64_t fallback = derived ? std::max(1, model.hidden / model.heads) : defaults.head_dim;
  model.head_dim = static_cast<int>(config.integer("head_dim", fallback, 1, kMaxHeadDim));
  if (model.head_dim % 2 != 0) {
    config.problem("head_dim", "is {}; rotary embeddings need an even one", model.head_dim);
  }
}

void read_rope_scaling(JsonObject& config, JsonObject& rope, ModelConfig& model) {
  const std::string older = rope.text("type", "");
  const std::string type = rope.text("rope_type", older.empty() ? "default" : older);
  if (!older.empty() && type != older) {
    rope.problem("rope_type", "is '{}', but 'type' is '{}'", type, older);
  }
  if (rope.has("mrope_section")) {
    rope.problem("mrope_section", "is not supported: only text positions are");
  }
  if (type == "default") return;
  RopeScaling scaling;
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
    scaling.factor = rope.number("factor", {}, 1e-6, 1e6);
  } else if (type == "llama3") {
    scaling.kind = RopeScaling::Kind::kLlama3;
    scaling.factor = rope.number("factor", {}, 1e-6, 1e6);
    scaling.low_freq_factor = rope.number("low_freq_factor", {}, 1e-6, 1e6);
    scaling.high_freq_factor = rope.number("high_freq_factor", {}, 1e-6, 1e6);
    if (scaling.high_freq_factor <= scaling.low_freq_factor) {
      rope.problem("high_freq_factor", "{} must be above low_freq_factor, {}",
                   scaling.high_freq_factor, scaling.low_freq_factor);
    }
    const char* const key = "original_max_position_embeddings";
    const int64_t original = rope.integer(key, model.max_positions, 1, INT_MAX);
    scaling.original_max_position = static_cast<int>(config.integer(key, original, 1, INT_MAX));
  } else {
    rope.problem(rope.has("rope_type") ? "rope_type" : "type",
                 "'{}' is not supported (supported: default, linear, llama3)", type);
    return;
  }
  model.rope_scaling = scaling;
}

/// Three forms: rope_theta beside rope_scaling with "type" or with "rope_type", and (since
/// transformers 5) both in one block "rope_parameters".
void read_rope(JsonObject& config, ModelConfig& model) {
  const json* scaling = config.find("rope_scaling");
  const json* parameters = config.find("rope_parameters");
  if (scaling != nullptr && parameters != nullptr && *scaling != *parameters) {
    config.problem("rope_parameters", "differs from 'rope_scaling'; keep one of them");
  }
  JsonObject rope = config.object(scaling != nullptr ? "rope_scaling" : "rope_parameters");
  for (const char* nested : {"full_attention", "sliding_attention"}) {
    if (rope.has(nested)) rope.problem(nested, "rotary parameters by layer type are not supported");
  }
  constexpr double kMinTheta = 1.0;
  constexpr double kMaxTheta = 1e15;
  const double outer = config.number("rope_theta", 10000.0, kMinTheta, kMaxTheta);
  model.rope_theta = rope.number("rope_theta", outer, kMinTheta, kMaxTheta);
  if (config.has("rope_theta") && model.rope_theta != outer) {
    rope.problem("rope_theta", "is {}, but the outer 'rope_theta' is {}", model.rope_theta, outer);
  }
  for (JsonObject* block : {&config, &rope}) {
    if (block->number("partial_rotary_factor", 1.0, 0.0, 1.0) != 1.0) {
      block->problem("partial_rotary_factor", "only 1 is supported");
    }
  }
  read_rope_scaling(config, rope, model);
}

/// The window of one "sliding_attention" layer; 0 if the model has none.
int sliding_window(JsonObject& config) {
  if (config.is_null("sliding_window")) return 0;
  return static_cast<int>(config.integer("sliding_window", 4096, 1, INT_MAX));
}

void read_windows(JsonObject& config, ModelConfig& model) {
  model.window.assign(static_cast<size_t>(model.layers), 0);
  int window = 0;
  if (model.architecture == Architecture::kMistral) {
    window = sliding_window(config);
    std::fill(model.window.begin(), model.window.end(), window);
  } else if (model.architecture != Architecture::kLlama) {
    window = config.boolean("use_sliding_window", false) ? sliding_window(config) : 0;
    const auto first =
        std::min<int64_t>(config.integer("max_window_layers", 28, 0, INT_MAX), model.layers);
    std::fill(model.window.begin() + first, model.window.end(), window);
  }
  if (!config.has("layer_types")) return;
  const std::vector<std::string> types = config.texts("layer_types");
  if (types.size() != model.window.size()) {
    config.problem("layer_types", "has {} entries for {} layers", types.size(), model.layers);
    return;
  }
  for (size_t layer = 0; layer < types.size(); ++layer) {
    const bool slides = types[layer] == "sliding_attention";
    const bool known = slides || types[layer] == "full_attention";
    // Only the Qwen classes look at layer_types; elsewhere it may say what holds anyway.
    const bool chosen =
        model.architecture == Architecture::kQwen2 || model.architecture == Architecture::kQwen3;
    if (!known || (slides && window == 0) || (!chosen && !slides && window != 0)) {
      config.problem("layer_types",
                     "layer {} is '{}', which does not go with {} and its window, {}", layer,
                     types[layer], model.architecture_name, window);
      return;
    }
    model.window[layer] = slides ? window : 0;
  }
}

void read_biases(JsonObject& config, ModelConfig& model) {
  switch (model.architecture) {
    case Architecture::kLlama:
      model.qkv_bias = model.output_bias = config.boolean("attention_bias", false);
      model.mlp_bias = config.boolean("mlp_bias", false);
      break;
    case Architecture::kMistral:
      break;
    case Architecture::kQwen2:
      model.qkv_bias = true;
      break;
    case Architecture::kQwen3:
      model.qkv_bias = model.output_bias = config.boolean("attention_bias", false);
      model.qk_norm = true;
      break;
  }
}

void read_quantization(JsonObject& config, ModelConfig& model) {
  const char* const key = "quantization_config";
  const char* const older = "compression_config";
  if (config.has(key) && config.has(older)) {
    config.problem(older, "is there beside '{}'; keep one of them", key);
  } else if (config.has(key) || config.has(older)) {
    model.quantization = Quantization::read(config, config.has(key) ? key : older);
  }
}

void refuse_unsupported(JsonObject& config) {
  const std::string activation = config.text("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    config.problem("hidden_act", "'{}' is not supported (supported: silu)", activation);
  }
}

void add_tokens(const std::vector<int64_t>& ids, std::vector<int>& tokens) {
  for (const int64_t id : ids) {
    if (std::find(tokens.begin(), tokens.end(), id) == tokens.end()) {
      tokens.push_back(static_cast<int>(id));
    }
  }
}

/// `generation` overrides the end tokens, and gives a first token where config.json has none.
void read_special_tokens(JsonObject& config, JsonObject& generation,
                         const ArchitectureDefaults& defaults, ModelConfig& model) {
  const int64_t last = model.vocabulary - 1;
  // A default of the architecture that a small vocabulary does not have is no one's wish.
  const auto usable = [&](int token) { return token <= last ? token : -1; };
  const auto first_of = [&](JsonObject& object) {
    const std::vector<int64_t> ids = object.integers("bos_token_id", 0, last);
    return ids.empty() ? -1 : static_cast<int>(ids.front());
  };
  const int other = first_of(generation);
  model.bos_token = first_of(config);
  if (model.bos_token < 0) model.bos_token = other;
  if (model.bos_token < 0 && !config.is_null("bos_token_id"))
    model.bos_token = usable(defaults.bos);

  std::vector<int> of_config;
  add_tokens(config.integers("eos_token_id", 0, last), of_config);
  add_tokens(generation.integers("eos_token_id", 0, last), model.eos_tokens);
  if (!model.eos_tokens.empty()) return;
  model.eos_tokens = of_config;
  const bool absent = !config.has("eos_token_id") && !config.is_null("eos_token_id");
  if (absent && usable(defaults.eos) >= 0) model.eos_tokens = {defaults.eos};
}

/// A JSON object from text, or nothing and a problem.
std::optional<json> parse_object(std::string_view text, const std::string& file,
                                 std::vector<std::string>& problems) {
  try {
    json value = parse_json(text, file);
    if (value.is_object()) return value;
    problems.push_back(fmt::format("{}: must be a JSON object, is {}", file, shown(value)));
  } catch (const Error& error) {
    problems.emplace_back(error.what());
  }
  return std::nullopt;
}

std::string path_in(const std::string& directory, const char* name) {
  return (std::filesystem::path(directory) / name).string();
}

std::optional<ModelConfig> parse_config(std::string_view config_text,
                                        std::string_view generation_text,
                                        const std::string& directory,
                                        std::vector<std::string>& problems) {
  const size_t before = problems.size();
  const std::string config_file = path_in(directory, "config.json");
  const std::string generation_file = path_in(directory, "generation_config.json");
  std::optional<json> config_json = parse_object(config_text, config_file, problems);
  std::optional<json> generation_json =
      generation_text.empty() ? json::object()
                              : parse_object(generation_text, generation_file, problems);
  if (!config_json) return std::nullopt;
  if (!generation_json) generation_json = json::object();

  JsonObject config(*config_json, config_file, problems);
  JsonObject generation(*generation_json, generation_file, problems);
  const ArchitectureDefaults* defaults = find_architecture(config);
  refuse_unsupported(config);
  if (defaults == nullptr) return std::nullopt;
  ModelConfig model;
  model.architecture = defaults->architecture;
  model.architecture_name = defaults->name;
  read_dtype(config, model);
  const size_t before_extents = problems.size();
  read_extents(config, *defaults, model);
  if (problems.size() != before_extents)
    return std::nullopt;  // what follows is measured against these
  model.rms_epsilon = static_cast<float>(config.number("rms_norm_eps", 1e-6, 0.0, 1.0));
  model.tied_embeddings = config.boolean("tie_word_embeddings", false);
  read_rope(config, model);
  read_windows(config, model);
  read_biases(config, model);
  read_quantization(config, model);
  read_special_tokens(config, generation, *defaults, model);
  if (problems.size() != before) return std::nullopt;
  return model;
}

/// "" if there is no such file.
std::string read_optional(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return "";
  std::string text = read_text_file(path, kMaxConfigBytes);
  return text.empty() ? " " : text;  // an empty file is not an absent one: the parser refuses it
}

}  // namespace

ModelConfig ModelConfig::parse(std::string_view config, std::string_view generation_config,
                               const std::string& directory) {
  std::vector<std::string> problems;
  std::optional<ModelConfig> model = parse_config(config, generation_config, directory, problems);
  throw_problems(problems);
  return *std::move(model);
}

std::optional<ModelConfig> ModelConfig::load(const std::filesystem::path& directory,
                                             std::vector<std::string>& problems) {
  const size_t before = problems.size();
  std::string config;
  std::string generation;
  try {
    config = read_text_file(directory / "config.json", kMaxConfigBytes);
    generation = read_optional(directory / "generation_config.json");
  } catch (const Error& error) {
    problems.emplace_back(error.what());
  }
  if (problems.size() != before) return std::nullopt;
  return parse_config(config, generation, directory.string(), problems);
}

ModelConfig ModelConfig::load(const std::filesystem::path& directory) {
  const std::string config = read_text_file(directory / "config.json", kMaxConfigBytes);
  const std::string generation = read_optional(directory / "generation_config.json");
  return parse(config, generation, directory.string());
}

int64_t ModelConfig::parameter_count() const {
  const int64_t width = hidden;
  const int64_t q = int64_t{heads} * head_dim;
  const int64_t kv = int64_t{kv_heads} * head_dim;
  int64_t layer = 2 * width + width * (q + 2 * kv) + q * width + 3 * width * intermediate;
  if (qkv_bias) layer += q + 2 * kv;
  if (output_bias) layer += width;
  if (mlp_bias) layer += 2 * intermediate + width;
  if (qk_norm) layer += 2 * int64_t{head_dim};
  const int64_t embedding = int64_t{vocabulary} * width;
  return layers * layer + width + embedding * (tied_embeddings ? 1 : 2);
}

GenerationDefaults GenerationDefaults::parse(std::string_view generation_config,
                                             const std::string& directory) {
  std::vector<std::string> problems;
  const std::string file = path_in(directory, "generation_config.json");
  const std::optional<json> parsed = parse_object(generation_config, file, problems);
  throw_problems(problems);
  JsonObject object(*parsed, file, problems);
  const auto number = [&](const char* key, double min, double max) -> std::optional<float> {
    if (!object.has(key)) return std::nullopt;
    return static_cast<float>(object.number(key, {}, min, max));
  };
  GenerationDefaults defaults;
  defaults.temperature = number("temperature", 0.0, 1e6);
  defaults.top_p = number("top_p", 0.0, 1.0);
  defaults.min_p = number("min_p", 0.0, 1.0);
  defaults.repetition_penalty = number("repetition_penalty", 1e-3, 1e3);
  if (object.has("top_k")) {
    // -1 is how some write "off".
    defaults.top_k =
        static_cast<int>(std::max<int64_t>(0, object.integer("top_k", {}, -1, INT_MAX)));
  }
  if (!object.boolean("do_sample", true)) defaults.temperature = 0.0f;
  throw_problems(problems);
  return defaults;
}

GenerationDefaults GenerationDefaults::load(const std::filesystem::path& directory) {
  const std::string text = read_optional(directory / "generation_config.json");
  return text.empty() ? GenerationDefaults{} : parse(text, directory.string());
}

std::vector<double> rope_inverse_frequencies(const ModelConfig& config) {
  std::vector<double> frequencies(static_cast<size_t>(config.head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / config.head_dim;
    frequencies[i] = std::pow(config.rope_theta, -exponent);
  }
  if (!config.rope_scaling) return frequencies;
  const RopeScaling& scaling = *config.rope_scaling;
  for (double& frequency : frequencies) {
    if (scaling.kind == RopeScaling::Kind::kLinear) {
      frequency /= scaling.factor;
      continue;
    }
    // How often the wave turns within the original context decides (Llama 3.1's published rule):
    // more than high_freq_factor times: kept; fewer than low_freq_factor: divided; else blended.
    const double turns = scaling.original_max_position * frequency / (2 * std::numbers::pi);
    const double kept = std::clamp(
        (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor),
        0.0, 1.0);
    frequency = kept * frequency + (1 - kept) * frequency / scaling.factor;
  }
  return frequencies;
}

}  // namespace convoke
