#include "runtime/heads/head_config.h"

#include <algorithm>

#include "kernels/check.h"
#include "runtime/model_files/json_file.h"

namespace convoke {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr int64_t kMaxVocabulary = int64_t{1} << 24;
constexpr int kRandomDraftVocabulary = 32000;
constexpr int kRandomMedusaHeads = 5;

fs::path config_path(const fs::path& directory) {
  return (fs::is_directory(directory) ? directory : directory.parent_path()) / "config.json";
}

/// The states entering layers 2, L/2 and L - 3: what EAGLE-3 heads are trained on unless they say.
std::vector<int> default_feature_layers(int layers) {
  std::vector<int> chosen{std::min(2, layers), layers / 2, std::max(0, layers - 3)};
  std::ranges::sort(chosen);
  return chosen;
}

/// Published heads name layers in two ways. At the top level (vLLM, speculators) number j is the
/// state that enters layer j; inside `eagle_config` (SGLang, Model Optimizer) the one that leaves
/// it.
std::vector<int> read_feature_layers(JsonObject& config, const ModelConfig& target) {
  const auto listed = [&](JsonObject& object, const char* key, int shift) {
    std::vector<int> layers;
    for (const int64_t id : object.integers(key, 0, target.layers - shift)) {
      layers.push_back(int(id) + shift);
    }
    if (!std::ranges::is_sorted(layers)) object.problem(key, "must ascend");
    return layers;
  };
  for (const char* key :
       {"target_layer_ids", "eagle_aux_hidden_state_layer_ids", "aux_hidden_state_layer_ids"}) {
    if (config.has(key)) return listed(config, key, 0);
  }
  JsonObject nested = config.object("eagle_config");
  const char* key = "eagle_aux_hidden_state_layer_ids";
  if (nested.has(key)) return listed(nested, key, 1);
  return default_feature_layers(target.layers);
}

void check_equal(JsonObject& config, const char* key, int64_t head, int64_t target,
                 const char* what) {
  if (head == target) return;
  config.problem(key, "is {}, but the target has {} {}: this head was made for another model", head,
                 target, what);
}

void check_drafter(JsonObject& config, HeadKind kind) {
  const std::string drafter = config.text("drafter", head_kind_name(kind));
  if (drafter != head_kind_name(kind)) {
    config.problem("drafter", "is '{}': use --drafter {}:..., not {}:...", drafter, drafter,
                   head_kind_name(kind));
  }
}

/// The decoder layer of every head is Llama's, whatever the target is and whatever name the file
/// gives to the whole; the rest of the keys means what it means there.
ModelConfig read_layer(json config, const fs::path& directory) {
  config["architectures"] = {"LlamaForCausalLM"};
  config["model_type"] = "llama";
  config.erase("hidden_act");                             // looked at by the caller
  config["attention_bias"] = config["mlp_bias"] = false;  // what there is, the tensors say
  config["tie_word_embeddings"] = false;
  return ModelConfig::parse(config.dump(), "", directory.string());
}

void read_eagle(JsonObject& config, const ModelConfig& target, HeadConfig& head) {
  if (const std::string activation = config.text("hidden_act", "silu"); activation != "silu") {
    config.problem("hidden_act", "'{}' is not supported (supported: silu)", activation);
  }
  if (head.layer.layers != 1) {
    config.problem("num_hidden_layers", "is {}; a head has one decoder layer", head.layer.layers);
  }
  check_equal(config, "vocab_size", head.layer.vocabulary, target.vocabulary, "tokens");
  head.draft_vocabulary =
      int(config.integer("draft_vocab_size", head.vocabulary, 1, kMaxVocabulary));
  if (head.draft_vocabulary > head.vocabulary) {
    config.problem("draft_vocab_size", "is {}, more than the target's vocabulary, {}",
                   head.draft_vocabulary, head.vocabulary);
  }
  if (config.has("qkv_bias")) head.qkv_bias = config.boolean("qkv_bias", false);
  if (head.kind == HeadKind::kEagle) {
    check_equal(config, "hidden_size", head.layer.hidden, target.hidden, "hidden units");
    head.fc_bias = config.boolean("bias", true);
  } else {
    const char* key = config.has("target_hidden_size") ? "target_hidden_size" : "hidden_size";
    const int64_t of_target =
        config.integer("target_hidden_size", head.layer.hidden, 1, kMaxVocabulary);
    check_equal(config, key, of_target, target.hidden, "hidden units");
    head.feature_layers = read_feature_layers(config, target);
    head.norm_before_residual = config.boolean("norm_before_residual", false);
  }
}

void read_medusa(JsonObject& config, const ModelConfig& target, HeadConfig& head) {
  head.medusa_heads = int(config.integer("medusa_num_heads", 0, 0, 1024));
  head.medusa_layers = int(config.integer("medusa_num_layers", 0, 0, 1024));
  check_equal(config, "hidden_size",
              config.integer("hidden_size", target.hidden, 1, kMaxVocabulary), target.hidden,
              "hidden units");
  check_equal(config, "vocab_size",
              config.integer("vocab_size", target.vocabulary, 1, kMaxVocabulary), target.vocabulary,
              "tokens");
}

HeadConfig blank(HeadKind kind, const std::string& file, const ModelConfig& target) {
  HeadConfig head;
  head.kind = kind;
  head.file = file;
  head.target_hidden = target.hidden;
  head.vocabulary = head.draft_vocabulary = target.vocabulary;
  return head;
}

HeadConfig random_config(HeadKind kind, const ModelConfig& target) {
  HeadConfig head = blank(kind, kRandomHead, target);
  head.random = true;
  head.layer = target;
  head.layer.architecture = Architecture::kLlama;
  head.layer.architecture_name = "LlamaForCausalLM";
  head.layer.layers = 1;
  head.layer.rope_theta = 10000.0;
  head.layer.rope_scaling.reset();
  head.layer.window.clear();
  head.layer.qkv_bias = head.layer.output_bias = head.layer.mlp_bias = head.layer.qk_norm = false;
  head.qkv_bias = false;
  if (kind == HeadKind::kEagle3) {
    head.draft_vocabulary = std::min(target.vocabulary, kRandomDraftVocabulary);
    head.feature_layers = default_feature_layers(target.layers);
  } else if (kind == HeadKind::kMedusa) {
    head.medusa_heads = kRandomMedusaHeads;
    head.medusa_layers = 1;
  }
  return head;
}

}  // namespace

HeadKind parse_head_kind(const std::string& method) {
  for (const HeadKind kind : {HeadKind::kEagle, HeadKind::kEagle3, HeadKind::kMedusa}) {
    if (method == head_kind_name(kind)) return kind;
  }
  throw_error(ErrorKind::kUsage, "'{}' is not a drafting head; there are eagle, eagle3, medusa",
              method);
}

const char* head_kind_name(HeadKind kind) {
  switch (kind) {
    case HeadKind::kEagle:
      return "eagle";
    case HeadKind::kEagle3:
      return "eagle3";
    case HeadKind::kMedusa:
      return "medusa";
  }
  return "";
}

HeadConfig parse_head_config(HeadKind kind, std::string_view text, const std::string& file,
                             const ModelConfig& target) {
  const json parsed = parse_json(text, file);
  if (!parsed.is_object()) throw_error(ErrorKind::kModel, "{}: must be an object", file);
  std::vector<std::string> problems;
  JsonObject config(parsed, file, problems);
  HeadConfig head = blank(kind, file, target);
  check_drafter(config, kind);
  throw_problems(problems);  // what else is wrong then would mislead
  if (kind == HeadKind::kMedusa) {
    read_medusa(config, target, head);
  } else {
    head.layer = read_layer(parsed, fs::path(file).parent_path());
    read_eagle(config, target, head);
  }
  throw_problems(problems);
  return head;
}

HeadConfig load_head_config(HeadKind kind, const fs::path& directory, const ModelConfig& target) {
  if (directory == kRandomHead) return random_config(kind, target);
  if (!fs::exists(directory)) {
    throw_error(ErrorKind::kModel,
                "{}: no such directory; --drafter {} needs that of a head, or '{}'",
                directory.string(), head_kind_name(kind), kRandomHead);
  }
  const fs::path file = config_path(directory);
  if (kind == HeadKind::kMedusa && !fs::exists(file)) return blank(kind, file.string(), target);
  return parse_head_config(kind, read_text_file(file, kMaxConfigBytes), file.string(), target);
}

void require_head(const std::string& method, const std::string& argument) {
  if (!argument.empty()) return;
  throw_error(ErrorKind::kUsage, "--drafter {}: name the head's directory, {}:DIR, or {}:{}",
              method, method, method, kRandomHead);
}

DraftNeeds head_needs(const std::string& method, const std::string& argument,
                      const ModelConfig& target) {
  const HeadKind kind = parse_head_kind(method);
  const HeadConfig head = load_head_config(kind, argument, target);
  DraftNeeds needs;
  needs.features.kind =
      kind == HeadKind::kEagle3 ? FeatureSpec::Kind::kLayers : FeatureSpec::Kind::kFinal;
  needs.features.layers = head.feature_layers;
  return needs;
}

}  // namespace convoke
