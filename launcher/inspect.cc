#include "launcher/inspect.h"

#include <fmt/format.h>

#include <algorithm>
#include <ostream>

#include "kernels/check.h"
#include "launcher/inspect_head.h"
#include "launcher/replica.h"
#include "parallel/shard_plan.h"
#include "runtime/model_files/json_file.h"

namespace convoke {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;

bool has_pre_tokenizer(const json& tokenizer, const char* type) {
  const json* node = tokenizer.contains("pre_tokenizer") ? &tokenizer["pre_tokenizer"] : nullptr;
  if (node == nullptr || !node->is_object()) return false;
  if (node->value("type", "") == type) return true;
  if (!node->contains("pretokenizers") || !(*node)["pretokenizers"].is_array()) return false;
  for (const json& part : (*node)["pretokenizers"]) {
    if (part.is_object() && part.contains("type") && part["type"] == type) return true;
  }
  return false;
}

/// Highest token id + 1; ids may have holes, and added tokens may lie above or among the others.
int64_t token_count(const json& tokenizer) {
  int64_t count = 0;
  const auto see = [&](const json& id) {
    if (id.is_number_integer()) count = std::max(count, id.get<int64_t>() + 1);
  };
  const json& model = tokenizer["model"];
  if (model.contains("vocab")) {
    const json& vocabulary = model["vocab"];
    if (vocabulary.is_array()) count = static_cast<int64_t>(vocabulary.size());
    if (vocabulary.is_object()) {
      for (const json& id : vocabulary) see(id);
    }
  }
  if (tokenizer.contains("added_tokens") && tokenizer["added_tokens"].is_array()) {
    for (const json& token : tokenizer["added_tokens"]) {
      if (token.is_object() && token.contains("id")) see(token["id"]);
    }
  }
  return count;
}

void read_tokenizer(const std::filesystem::path& directory, Inspection& found) {
  const std::filesystem::path path = directory / "tokenizer.json";
  try {
    const json tokenizer = parse_json(read_text_file(path, kMaxTokenizerBytes), path.string());
    if (!tokenizer.is_object() || !tokenizer.contains("model") || !tokenizer["model"].is_object()) {
      throw_error(ErrorKind::kModel, "{}: key 'model': must be an object", path.string());
    }
    const json& model = tokenizer["model"];
    const std::string type = model.contains("type") && model["type"].is_string()
                                 ? model["type"].get<std::string>()
                                 : "unknown";
    std::string family = type;
    if (type == "BPE" && has_pre_tokenizer(tokenizer, "ByteLevel")) {
      family = "byte-level BPE";
    } else if (type == "BPE" && model.contains("byte_fallback") && model["byte_fallback"] == true) {
      family = "SentencePiece BPE with byte fallback";
    } else if (type != "BPE") {
      found.problems.push_back(
          fmt::format("{}: key 'model.type': '{}' is not supported (supported: "
                      "BPE)",
                      path.string(), type));
    }
    const int64_t count = token_count(tokenizer);
    found.tokenizer = fmt::format("{}, {} tokens", family, count);
    if (found.config && count > found.config->vocabulary) {
      found.notes.push_back(fmt::format(
          "{}: has {} tokens, but config.json says vocab_size {}: the highest cannot be used",
          path.string(), count, found.config->vocabulary));
    }
  } catch (const Error& error) {
    found.problems.emplace_back(error.what());
  } catch (const json::exception& error) {
    found.problems.push_back(fmt::format("{}: {}", path.string(), error.what()));
  }
}

void read_sizes(const InspectOptions& options, Inspection& found) {
  const ModelExtents extents = found.config->extents();
  const int groups = reduction_groups(extents);
  for (int tp = 1; tp <= groups; tp *= 2) {
    try {
      make_shard_plan(extents, tp, 0);
      found.sizes.push_back(rank_memory(*found.config, tp, found.config->auto_dtype()));
    } catch (const Error&) {  // does not divide: not a possible size
    }
  }
  try {
    make_shard_plan(extents, options.tp, 0);
  } catch (const Error& error) {
    found.problems.emplace_back(error.what());
  }
}

std::string bytes_text(int64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= int64_t{1} << 30) return fmt::format("{:.2f} GiB", value / (1 << 30));
  if (bytes >= int64_t{1} << 20) return fmt::format("{:.1f} MiB", value / (1 << 20));
  if (bytes >= int64_t{1} << 10) return fmt::format("{:.1f} KiB", value / (1 << 10));
  return fmt::format("{} B", bytes);
}

std::string count_text(int64_t count) {
  const auto value = static_cast<double>(count);
  if (count >= 1'000'000'000) return fmt::format("{:.2f} G ({})", value / 1e9, count);
  if (count >= 1'000'000) return fmt::format("{:.1f} M ({})", value / 1e6, count);
  return std::to_string(count);
}

std::string rope_text(const ModelConfig& config) {
  std::string text = fmt::format("theta {}", config.rope_theta);
  if (!config.rope_scaling) return text;
  const RopeScaling& scaling = *config.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::kLinear) {
    return text + fmt::format(", linear scaling by {}", scaling.factor);
  }
  return text + fmt::format(", llama3 scaling by {} (factors {} to {} of {} positions)",
                            scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor,
                            scaling.original_max_position);
}

std::string context_text(const ModelConfig& config) {
  std::string text = fmt::format("{} tokens", config.max_positions);
  const auto sliding = std::count_if(config.window.begin(), config.window.end(),
                                     [](int window) { return window > 0; });
  if (sliding == 0) return text;
  const int window = *std::max_element(config.window.begin(), config.window.end());
  text += fmt::format(", sliding window {}", window);
  return sliding == config.layers
             ? text
             : text + fmt::format(" in {} of {} layers", sliding, config.layers);
}

std::string extras_text(const ModelConfig& config) {
  std::vector<std::string> extras;
  extras.emplace_back(config.tied_embeddings ? "tied embeddings" : "untied embeddings");
  if (config.qkv_bias) extras.emplace_back("query/key/value biases");
  if (config.output_bias) extras.emplace_back("output bias");
  if (config.mlp_bias) extras.emplace_back("MLP biases");
  if (config.qk_norm) extras.emplace_back("query/key norms");
  return fmt::format("{}", fmt::join(extras, ", "));
}

void line(std::ostream& out, const char* label, const std::string& text) {
  out << fmt::format("{:<14}{}\n", label, text);
}

void print_model(const Inspection& found, std::ostream& out) {
  const ModelConfig& config = *found.config;
  line(out, "architecture", config.architecture_name);
  line(out, "parameters", count_text(config.parameter_count()));
  line(out, "layers", std::to_string(config.layers));
  line(out, "hidden", fmt::format("{}, MLP {}", config.hidden, config.intermediate));
  line(
      out, "heads",
      fmt::format("{} query, {} key/value, of {}", config.heads, config.kv_heads, config.head_dim));
  line(out, "vocabulary", std::to_string(config.vocabulary));
  line(out, "features", extras_text(config));
  line(out, "context", context_text(config));
  line(out, "rope", rope_text(config));
  line(out, "dtype",
       fmt::format("{} in the checkpoint, {} in memory", dtype_name(config.checkpoint_dtype),
                   dtype_name(found.run_dtype)));
  if (config.quantization) {
    line(out, "quantised",
         fmt::format("{} weights with scales ({}), held as they are and multiplied in bfloat16",
                     dtype_name(DType::kFloat8E4M3), config.quantization->method));
  }
}

void print_files(const Inspection& found, std::ostream& out) {
  size_t width = 0;
  for (const auto& file : found.files) width = std::max(width, file.name.size());
  const char* label = "files";
  for (const auto& file : found.files) {
    line(out, label,
         fmt::format("{:<{}}  {:>10}  {:>5} tensors", file.name, width,
                     bytes_text(static_cast<int64_t>(file.bytes)), file.tensors));
    label = "";
  }
  line(out, "tokenizer", found.tokenizer.empty() ? "unknown" : found.tokenizer);
}

void print_sizes(const Inspection& found, std::ostream& out) {
  out << "\nmemory of a rank\n"
      << fmt::format("{:>6}  {:>12}  {:>12}  {:>14}\n", "--tp", "weights", "embedding",
                     "cache/token");
  for (const RankMemory& size : found.sizes) {
    out << fmt::format("{:>5}{}  {:>12}  {:>12}  {:>14}\n", size.tp,
                       size.tp == found.tp ? "*" : " ", bytes_text(size.packed_bytes),
                       bytes_text(size.mapped_bytes), bytes_text(size.kv_bytes_per_token));
  }
  if (found.chosen() == nullptr || found.free_bytes == 0) return;
  const int64_t tokens = found.tokens_that_fit();
  out << fmt::format("\n{} free on this host: ", bytes_text(found.free_bytes));
  if (tokens == 0) {
    out << fmt::format("the weights of {} rank{} do not fit\n", found.tp, found.tp == 1 ? "" : "s");
  } else {
    out << fmt::format("beside the weights, keys and values of {} tokens fit (tp {})\n", tokens,
                       found.tp);
  }
}

ordered_json rope_json(const ModelConfig& config) {
  ordered_json rope = {{"theta", config.rope_theta}, {"scaling", nullptr}};
  if (!config.rope_scaling) return rope;
  const RopeScaling& scaling = *config.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::kLinear) {
    rope["scaling"] = {{"type", "linear"}, {"factor", scaling.factor}};
  } else {
    rope["scaling"] = {{"type", "llama3"},
                       {"factor", scaling.factor},
                       {"low_freq_factor", scaling.low_freq_factor},
                       {"high_freq_factor", scaling.high_freq_factor},
                       {"original_max_positions", scaling.original_max_position}};
  }
  return rope;
}

ordered_json model_json(const Inspection& found) {
  const ModelConfig& config = *found.config;
  return {{"architecture", config.architecture_name},
          {"parameters", config.parameter_count()},
          {"layers", config.layers},
          {"hidden", config.hidden},
          {"intermediate", config.intermediate},
          {"heads", config.heads},
          {"kv_heads", config.kv_heads},
          {"head_dim", config.head_dim},
          {"vocabulary", config.vocabulary},
          {"max_positions", config.max_positions},
          {"window", config.window},
          {"rope", rope_json(config)},
          {"tied_embeddings", config.tied_embeddings},
          {"qkv_bias", config.qkv_bias},
          {"output_bias", config.output_bias},
          {"mlp_bias", config.mlp_bias},
          {"qk_norm", config.qk_norm},
          {"checkpoint_dtype", dtype_name(config.checkpoint_dtype)},
          {"run_dtype", dtype_name(found.run_dtype)},
          {"quantization",
           config.quantization ? ordered_json(config.quantization->method) : ordered_json()},
          {"bos_token", config.bos_token < 0 ? ordered_json() : ordered_json(config.bos_token)},
          {"eos_tokens", config.eos_tokens}};
}

ordered_json to_json(const Inspection& found) {
  ordered_json files = ordered_json::array();
  for (const auto& file : found.files) {
    files.push_back({{"name", file.name}, {"bytes", file.bytes}, {"tensors", file.tensors}});
  }
  ordered_json sizes = ordered_json::array();
  for (const RankMemory& size : found.sizes) {
    sizes.push_back({{"tp", size.tp},
                     {"weight_bytes", size.packed_bytes},
                     {"embedding_bytes", size.mapped_bytes},
                     {"kv_bytes_per_token", size.kv_bytes_per_token}});
  }
  return {{"directory", found.directory},
          {"loads", found.problems.empty()},
          {"model", found.config ? model_json(found) : ordered_json()},
          {"files", files},
          {"tokenizer", found.tokenizer.empty() ? ordered_json() : ordered_json(found.tokenizer)},
          {"tp", found.tp},
          {"rank_memory", sizes},
          {"free_bytes", found.free_bytes},
          {"kv_tokens_that_fit", found.tokens_that_fit()},
          {"notes", found.notes},
          {"problems", found.problems}};
}

void print_text(const Inspection& found, std::ostream& out, std::ostream& err) {
  line(out, "model", found.directory);
  if (found.config) print_model(found, out);
  print_files(found, out);
  if (!found.sizes.empty()) print_sizes(found, out);
  out.flush();
  for (const std::string& note : found.notes) err << "note: " << note << '\n';
  for (const std::string& problem : found.problems) err << "error: " << problem << '\n';
}

/// What a linear layer takes: of 8 bits with a float32 scale for each output.
int64_t matrix_bytes(const ModelConfig& config, const std::string& module, int64_t outputs,
                     int64_t inputs, int64_t element) {
  return config.is_quantized(module) ? outputs * (inputs + 4) : outputs * inputs * element;
}

}  // namespace

RankMemory rank_memory(const ModelConfig& config, int tp, DType dtype) {
  const auto element = static_cast<int64_t>(dtype_size(dtype));
  const auto stored = static_cast<int64_t>(dtype_size(config.checkpoint_dtype));
  RankMemory largest;
  largest.tp = tp;
  for (int rank = 0; rank < tp; ++rank) {
    const ShardPlan plan = make_shard_plan(config.extents(), tp, rank);
    const int64_t q = plan.local_heads() * config.head_dim;
    const int64_t kv = plan.local_kv_heads() * config.head_dim;
    const int64_t mlp = plan.intermediate.size();
    const int64_t width = config.hidden;
    int64_t matrices = matrix_bytes(config, "lm_head", plan.vocabulary.size(), width, element);
    for (int layer = 0; layer < config.layers; ++layer) {
      const std::string prefix = fmt::format("model.layers.{}.", layer);
      const auto bytes = [&](const char* name, int64_t outputs, int64_t inputs) {
        return matrix_bytes(config, prefix + name, outputs, inputs, element);
      };
      matrices += bytes("self_attn.q_proj", q, width) + bytes("self_attn.k_proj", kv, width) +
                  bytes("self_attn.v_proj", kv, width) + bytes("self_attn.o_proj", width, q) +
                  bytes("mlp.gate_proj", mlp, width) + bytes("mlp.up_proj", mlp, width) +
                  bytes("mlp.down_proj", width, mlp);
    }
    int64_t floats = 2 * width;  // norms and biases are kept in float32
    if (config.qkv_bias) floats += q + 2 * kv;
    if (config.output_bias) floats += width;
    if (config.mlp_bias) floats += 2 * mlp + width;
    if (config.qk_norm) floats += 2 * config.head_dim;
    const int64_t packed = matrices + (config.layers * floats + width) * 4;
    largest.packed_bytes = std::max(largest.packed_bytes, packed);
    largest.mapped_bytes = std::max(largest.mapped_bytes, plan.vocabulary.size() * width * stored);
    largest.kv_bytes_per_token =
        std::max(largest.kv_bytes_per_token, 2 * config.layers * kv * element);
  }
  return largest;
}

const RankMemory* Inspection::chosen() const {
  const auto found =
      std::find_if(sizes.begin(), sizes.end(), [&](const auto& size) { return size.tp == tp; });
  return found == sizes.end() ? nullptr : &*found;
}

int64_t Inspection::tokens_that_fit() const {
  const RankMemory* size = chosen();
  if (size == nullptr) return 0;
  const int64_t left = free_bytes - tp * (size->packed_bytes + size->mapped_bytes);
  return std::max<int64_t>(0, left) / (tp * size->kv_bytes_per_token);
}

Inspection inspect_model(const InspectOptions& options, int64_t free_bytes) {
  Inspection found;
  found.directory = options.directory.string();
  found.tp = options.tp;
  found.free_bytes = free_bytes;
  std::error_code error;
  if (!std::filesystem::is_directory(options.directory, error)) {
    found.problems.push_back(
        fmt::format("{}: not a directory{}", found.directory, error ? ": " + error.message() : ""));
    return found;
  }
  found.config = ModelConfig::load(options.directory, found.problems);
  CheckpointScan scan = scan_checkpoint(options.directory);
  found.files = std::move(scan.files);
  for (const Error& problem : scan.problems) found.problems.emplace_back(problem.what());
  if (found.config) {
    found.run_dtype = found.config->auto_dtype();
    read_sizes(options, found);
    // Of a checkpoint that lost a file, every tensor in it would be missing: that was said.
    if (scan.problems.empty()) {
      for (auto& problem : tensor_problems(*found.config, *scan.source)) {
        found.problems.push_back(std::move(problem));
      }
    }
  }
  try {
    (void)GenerationDefaults::load(options.directory);
  } catch (const Error& bad) {
    auto& all = found.problems;  // a file that is no JSON has been named with config.json's
    if (std::find(all.begin(), all.end(), bad.what()) == all.end()) all.emplace_back(bad.what());
  }
  read_tokenizer(options.directory, found);
  return found;
}

int run_inspect(const InspectOptions& options, std::ostream& out, std::ostream& err) {
  if (const auto head = inspect_head(options)) return print_head(*head, options.json, out, err);
  if (!options.model.empty()) {
    throw_error(ErrorKind::kUsage, "--model: {} is no drafter to check against a model",
                options.directory.string());
  }
  const Inspection found = inspect_model(options, available_memory());
  if (options.json) {
    out << to_json(found).dump(2, ' ', false, json::error_handler_t::replace) << '\n';
  } else {
    print_text(found, out, err);
  }
  return found.problems.empty() ? 0 : 1;
}

}  // namespace convoke
