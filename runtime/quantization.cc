#include "runtime/quantization.h"

#include <algorithm>
#include <array>
#include <optional>

#include "runtime/model_files/json_file.h"

namespace convoke {
namespace {

using nlohmann::json;

/// One element of a pattern: a character, any character or a digit, maybe repeated.
struct Element {
  enum class Kind { kOne, kAny, kDigit } kind = Kind::kOne;
  char character = 0;
  bool may_be_absent = false;
  bool repeats = false;

  bool takes(char c) const {
    if (kind == Kind::kAny) return true;
    return kind == Kind::kDigit ? c >= '0' && c <= '9' : c == character;
  }
};

/// The regular expressions that occur as names of layers: literal characters, `.`, `\.`, `\d`, each
/// maybe with `*`, `+` or `?`, and `^` and `$` at the ends. Matches from the beginning, as Python's
/// re.match.
struct Pattern {
  std::vector<Element> elements;
  bool to_the_end = false;

  /// Nothing for any other expression.
  static std::optional<Pattern> parse(std::string_view text) {
    Pattern pattern;
    if (text.starts_with('^')) text.remove_prefix(1);
    for (size_t i = 0; i < text.size(); ++i) {
      const char c = text[i];
      if (c == '$' && i + 1 == text.size()) {
        pattern.to_the_end = true;
      } else if (c == '*' || c == '+' || c == '?') {
        if (pattern.elements.empty()) return std::nullopt;
        Element& last = pattern.elements.back();
        if (last.repeats || last.may_be_absent) return std::nullopt;
        last.repeats = c != '?';
        last.may_be_absent = c != '+';
      } else if (c == '\\') {
        if (++i == text.size()) return std::nullopt;
        if (text[i] != '.' && text[i] != 'd' && text[i] != '-' && text[i] != '_')
          return std::nullopt;
        pattern.elements.push_back(
            {text[i] == 'd' ? Element::Kind::kDigit : Element::Kind::kOne, text[i]});
      } else if (c == '.') {
        pattern.elements.push_back({Element::Kind::kAny});
      } else if (std::string_view("()[]{}|^$").find(c) != std::string_view::npos) {
        return std::nullopt;
      } else {
        pattern.elements.push_back({Element::Kind::kOne, c});
      }
    }
    return pattern;
  }

  bool matches(std::string_view name) const {
    // reached[i]: the elements so far can take exactly the first i characters.
    std::vector<char> reached(name.size() + 1, 0);
    reached[0] = 1;
    for (const Element& element : elements) {
      std::vector<char> next(name.size() + 1, 0);
      for (size_t i = 0; i <= name.size(); ++i) {
        if (reached[i] != 0 && element.may_be_absent) next[i] = 1;
        const bool begins = i > 0 && (reached[i - 1] != 0 || (element.repeats && next[i - 1] == 2));
        // 2: the element has taken a character, and may take more if it repeats.
        if (begins && element.takes(name[i - 1])) next[i] = 2;
      }
      reached = std::move(next);
    }
    return to_the_end ? reached[name.size()] != 0
                      : std::any_of(reached.begin(), reached.end(), [](char r) { return r != 0; });
  }
};

constexpr std::string_view kPatternMark = "re:";

/// `run` is some of the components of `module`, whole ones that follow each other.
bool is_run(std::string_view module, std::string_view run) {
  for (size_t at = module.find(run); at != std::string_view::npos; at = module.find(run, at + 1)) {
    const size_t end = at + run.size();
    if ((at == 0 || module[at - 1] == '.') && (end == module.size() || module[end] == '.'))
      return true;
  }
  return false;
}

bool names(const std::string& entry, std::string_view module, bool whole) {
  if (entry.starts_with(kPatternMark)) {
    const auto pattern = Pattern::parse(std::string_view(entry).substr(kPatternMark.size()));
    return pattern && pattern->matches(module);
  }
  return whole ? module == entry : is_run(module, entry);
}

void read_ignored(JsonObject& block, const char* key, Quantization& quantization) {
  for (std::string& entry : block.texts(key)) {
    if (entry.empty()) {
      block.problem(key, "names a module ''");
    } else if (entry.starts_with(kPatternMark) &&
               !Pattern::parse(std::string_view(entry).substr(kPatternMark.size()))) {
      block.problem(key,
                    "{} is not supported (supported after 're:': characters, '.', '\\.' and '\\d' "
                    "with '*', '+' or '?'); name the modules instead",
                    shown(json(entry)));
    } else {
      quantization.ignored.push_back(std::move(entry));
    }
  }
}

constexpr const char* kSupportedWeights =
    "supported: float weights of 8 bits with a scale per channel or per tensor";

void check_weights(JsonObject& weights) {
  const std::string type = weights.text("type", "int");
  if (type != "float")
    weights.problem("type", "'{}' is not supported ({})", type, kSupportedWeights);
  const int64_t bits = weights.integer("num_bits", 8, 1, 64);
  if (bits != 8) weights.problem("num_bits", "{} is not supported ({})", bits, kSupportedWeights);
  const std::string strategy = weights.text("strategy", "tensor");
  if (strategy != "channel" && strategy != "tensor") {
    weights.problem("strategy", "'{}' is not supported ({})", strategy, kSupportedWeights);
  }
  if (!weights.boolean("symmetric", true)) {
    weights.problem("symmetric", "zero points are not supported");
  }
}

void read_compressed_tensors(JsonObject& block, Quantization& quantization) {
  quantization.whole_names = true;
  quantization.head = true;
  const std::string format = block.text("format", "");
  if (format != "float-quantized" && format != "naive-quantized") {
    block.problem("format", "'{}' is not supported (supported: float-quantized)", format);
  }
  read_ignored(block, "ignore", quantization);
  for (const char* key : {"sparsity_config", "transform_config"}) {
    const json* other = block.find(key);
    if (other != nullptr && !other->empty() &&
        (!other->is_object() || other->value("format", json()) != json("dense"))) {
      block.problem(key, "is not supported");
    }
  }
  JsonObject groups = block.object("config_groups");
  const json* all = block.find("config_groups");
  if (all == nullptr || !all->is_object() || all->size() != 1) {
    block.problem("config_groups",
                  "must hold one group; several ways to quantise are not supported");
    return;
  }
  const std::string name = all->begin().key();
  JsonObject group = groups.object(name.c_str());
  if (group.texts("targets") != std::vector<std::string>{"Linear"}) {
    group.problem("targets", "must be [\"Linear\"]; other targets are not supported");
  }
  if (!group.has("weights")) {
    group.problem("weights", "is missing ({})", kSupportedWeights);
    return;
  }
  JsonObject weights = group.object("weights");
  check_weights(weights);
}

void read_fp8(JsonObject& block, Quantization& quantization) {
  const std::string scheme = block.text("activation_scheme", "dynamic");
  if (scheme != "static" && scheme != "dynamic") {
    block.problem("activation_scheme", "'{}' is not supported (supported: static, dynamic)",
                  scheme);
  }
  const std::string format = block.text("fmt", "e4m3");
  if (format != "e4m3") block.problem("fmt", "'{}' is not supported (supported: e4m3)", format);
  if (block.has("weight_block_size")) {
    block.problem("weight_block_size",
                  "scales for blocks of a matrix are not supported ({}); convert the checkpoint to "
                  "one scale per output",
                  kSupportedWeights);
  }
  read_ignored(block, "ignored_layers", quantization);
  read_ignored(block, "modules_to_not_convert", quantization);
}

}  // namespace

bool Quantization::covers(std::string_view module) const {
  if (module == "lm_head" && !head) return false;
  return std::none_of(ignored.begin(), ignored.end(),
                      [&](const std::string& entry) { return names(entry, module, whole_names); });
}

Quantization Quantization::read(JsonObject& config, const char* key) {
  JsonObject block = config.object(key);
  Quantization quantization;
  quantization.method = block.text("quant_method", "");
  if (quantization.method == "compressed-tensors") {
    read_compressed_tensors(block, quantization);
  } else if (quantization.method == "fp8") {
    read_fp8(block, quantization);
  } else if (quantization.method == "fbgemm_fp8") {
    read_ignored(block, "modules_to_not_convert", quantization);
  } else {
    block.problem("quant_method",
                  "'{}' is not supported (supported: compressed-tensors with float weights of 8 "
                  "bits, fp8, fbgemm_fp8)",
                  quantization.method);
  }
  return quantization;
}

bool is_unused_scale(std::string_view tensor) {
  constexpr std::array<std::string_view, 8> kNames = {
      ".input_scale", ".input_scale_ub", ".act_scale", ".output_scale",
      ".k_scale",     ".v_scale",        ".q_scale",   ".kv_scale"};
  return std::any_of(kNames.begin(), kNames.end(),
                     [&](std::string_view name) { return tensor.ends_with(name); });
}

}  // namespace convoke
