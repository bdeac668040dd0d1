#include "launcher/inspect_head.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ostream>
#include <regex>

#include "kernels/check.h"
#include "launcher/table.h"
#include "runtime/heads/eagle3_head.h"
#include "runtime/heads/eagle_head.h"
#include "runtime/heads/head_config.h"
#include "runtime/heads/head_tensors.h"
#include "runtime/heads/medusa_heads.h"
#include "runtime/lookahead_table.h"
#include "runtime/model_files/head_checkpoint.h"
#include "runtime/model_files/json_file.h"

namespace convoke {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr int kManyLayers = 1024;  // of a target that is not known: more than any layer named

/// config.json beside the weights, if it is there and an object: what is wrong with it otherwise,
/// its proper reader says.
json read_config(const fs::path& directory) {
  std::error_code ignored;
  const fs::path file =
      (fs::is_directory(directory, ignored) ? directory : directory.parent_path()) / "config.json";
  if (!fs::exists(file, ignored)) return json::object();
  try {
    json config = parse_json(read_text_file(file, kMaxConfigBytes), file.string());
    return config.is_object() ? config : json::object();
  } catch (const Error&) {
    return json::object();
  }
}

/// Our own key, which is sure.
std::string method_named(const json& config) {
  const auto drafter = config.find("drafter");
  for (const char* method : {"eagle", "eagle3", "medusa", "pass"}) {
    if (drafter != config.end() && *drafter == method) return method;
  }
  return "";
}

/// What a published config.json gives away, where the tensors do not.
std::string method_hinted(const json& config) {
  if (config.contains("medusa_num_heads")) return "medusa";
  return config.contains("draft_vocab_size") ? "eagle3" : "";
}

std::string method_of_tensors(const std::vector<TensorInfo>& tensors) {
  static const std::regex medusa(R"((medusa_head\.)?\d+\.\d+(\.linear)?\.(weight|bias))");
  bool eagle = false;
  for (const TensorInfo& tensor : tensors) {
    const std::string& name = tensor.name;
    if (name.starts_with("midlayer.") || name == "d2t" || name == "t2d") return "eagle3";
    if (name == "lookahead.weight") return "pass";
    if (std::regex_match(name, medusa)) return "medusa";
    eagle = eagle || name.starts_with("layers.0.") || name == "fc.weight";
  }
  return eagle ? "eagle" : "";
}

int64_t integer_of(const json& config, const char* key) {
  const auto value = config.find(key);
  return value != config.end() && value->is_number_integer() ? value->get<int64_t>() : 0;
}

/// Sizes of the target that a head was made for, from its config or else its tensors.
void find_sizes(const json& config, HeadInspection& found) {
  found.hidden = integer_of(config, "hidden_size");
  found.vocabulary = found.method == "pass" ? 0 : integer_of(config, "vocab_size");
  if (const int64_t hidden = integer_of(config, "target_hidden_size");
      hidden > 0 && found.method == "eagle3") {
    found.hidden = hidden;
  }
  if (found.method != "medusa") return;
  for (const TensorInfo& tensor : found.tensors) {
    if (tensor.shape.size() != 2 || !tensor.name.ends_with(".weight")) continue;
    if (found.hidden == 0) found.hidden = tensor.shape[1];
    const bool output = !tensor.name.ends_with(".linear.weight");
    if (output && found.vocabulary == 0) found.vocabulary = tensor.shape[0];
  }
}

ModelConfig target_config(const InspectOptions& options, HeadInspection& found) {
  if (!options.model.empty()) {
    found.target = options.model.string();
    return ModelConfig::load(options.model);
  }
  ModelConfig target;
  target.hidden = int(std::clamp<int64_t>(found.hidden, 0, 1 << 30));
  target.vocabulary = int(std::clamp<int64_t>(found.vocabulary, 0, 1 << 30));
  target.layers = kManyLayers;
  return target;
}

void add_fact(HeadInspection& found, const char* label, std::string text) {
  found.facts.emplace_back(label, std::move(text));
}

void describe_eagle(const HeadConfig& head, bool target_known, HeadInspection& found) {
  const ModelConfig& layer = head.layer;
  add_fact(found, "hidden", fmt::format("{}, MLP {}", layer.hidden, layer.intermediate));
  add_fact(
      found, "heads",
      fmt::format("{} query, {} key/value, of {}", layer.heads, layer.kv_heads, layer.head_dim));
  add_fact(found, "rope", fmt::format("theta {}", layer.rope_theta));
  if (head.draft_vocabulary != head.vocabulary) {
    add_fact(found, "vocabulary",
             fmt::format("{} of the target's {} tokens", head.draft_vocabulary, head.vocabulary));
  }
  if (head.kind == HeadKind::kEagle) {
    add_fact(found, "features", "the target's last, behind its final norm");
    return;
  }
  const bool named = head.feature_layers.empty() || head.feature_layers.back() < kManyLayers / 2;
  add_fact(found, "features",
           target_known || named
               ? fmt::format("what enters layers {}", fmt::join(head.feature_layers, ", "))
               : "what enters the target's layers 2, half of them, and the third from the end");
}

void check_head(const InspectOptions& options, const TensorSource& source, HeadInspection& found) {
  const ModelConfig target = target_config(options, found);
  const HeadKind kind = parse_head_kind(found.method);
  HeadConfig head = load_head_config(kind, options.directory, target);
  if (kind == HeadKind::kMedusa) {
    const MedusaHeads::Extents extents = MedusaHeads::extents(head, &source);
    add_fact(found, "heads",
             fmt::format("{}, {} layer{} each", extents.heads, extents.layers,
                         extents.layers == 1 ? "" : "s"));
    add_fact(found, "features", "the target's last, behind its final norm");
    check_head_tensors(MedusaHeads::tensors(head, extents), source, head);
    return;
  }
  describe_eagle(head, !options.model.empty(), found);
  check_head_tensors(kind == HeadKind::kEagle ? EagleHead::tensors(head, &source)
                                              : Eagle3Head::tensors(head, &source),
                     source, head);
  read_draft_vocabulary(head, source);
}

void check_pass(const InspectOptions& options, HeadInspection& found) {
  const ModelConfig target = target_config(options, found);
  const int count = load_lookahead(options.directory, target).count;
  add_fact(found, "look-ahead", fmt::format("{} tokens", count));
}

std::string shape_text(const TensorInfo& tensor) {
  return fmt::format("{} [{}]", dtype_name(tensor.dtype), fmt::join(tensor.shape, ", "));
}

std::string fits_text(const HeadInspection& found) {
  std::string text = fmt::format("targets with {} hidden units", found.hidden);
  if (found.vocabulary > 0) text += fmt::format(" and {} tokens", found.vocabulary);
  return text;
}

ordered_json head_json(const HeadInspection& found) {
  ordered_json tensors = ordered_json::array();
  for (const TensorInfo& tensor : found.tensors) {
    tensors.push_back({{"name", tensor.name},
                       {"dtype", dtype_name(tensor.dtype)},
                       {"shape", tensor.shape},
                       {"file", tensor.file}});
  }
  ordered_json facts = ordered_json::object();
  for (const auto& [label, text] : found.facts) facts[label] = text;
  const auto known = [](int64_t size) { return size > 0 ? ordered_json(size) : ordered_json(); };
  return {{"directory", found.directory},
          {"loads", found.problems.empty()},
          {"drafter", found.method},
          {"parameters", found.parameters()},
          {"bytes", found.bytes()},
          {"target_hidden_size", known(found.hidden)},
          {"target_vocab_size", known(found.vocabulary)},
          {"facts", std::move(facts)},
          {"tensors", std::move(tensors)},
          {"checked_against", found.target.empty() ? ordered_json() : ordered_json(found.target)},
          {"problems", found.problems}};
}

}  // namespace

int64_t HeadInspection::parameters() const {
  int64_t count = 0;
  for (const TensorInfo& tensor : tensors) {
    int64_t elements = 1;
    for (const int64_t size : tensor.shape) elements *= size;
    // The tables of a draft vocabulary are not learned.
    count += tensor.name == "d2t" || tensor.name == "t2d" ? 0 : elements;
  }
  return count;
}

int64_t HeadInspection::bytes() const {
  int64_t bytes = 0;
  for (const TensorInfo& tensor : tensors) {
    auto size = int64_t(dtype_size(tensor.dtype));
    for (const int64_t extent : tensor.shape) size *= extent;
    bytes += size;
  }
  return bytes;
}

std::optional<HeadInspection> inspect_head(const InspectOptions& options) {
  std::error_code ignored;
  if (!fs::exists(options.directory, ignored)) return std::nullopt;
  const json config = read_config(options.directory);
  HeadInspection found;
  found.directory = options.directory.string();
  found.method = method_named(config);
  std::unique_ptr<TensorSource> source;
  try {
    source = open_head_checkpoint(options.directory);
    found.tensors = source->list();
  } catch (const Error& error) {
    found.problems.emplace_back(error.what());
  }
  if (found.method.empty()) found.method = method_of_tensors(found.tensors);
  if (found.method.empty()) found.method = method_hinted(config);
  if (found.method.empty()) return std::nullopt;
  std::ranges::sort(found.tensors, {}, &TensorInfo::name);
  find_sizes(config, found);
  if (source == nullptr) return found;
  try {
    if (found.method == "pass") {
      check_pass(options, found);
    } else {
      check_head(options, *source, found);
    }
  } catch (const Error& error) {
    found.problems.emplace_back(error.what());
  }
  return found;
}

int print_head(const HeadInspection& found, bool as_json, std::ostream& out, std::ostream& err) {
  if (as_json) {
    out << head_json(found).dump(2, ' ', false, json::error_handler_t::replace) << '\n';
    return found.problems.empty() ? 0 : 1;
  }
  const auto line = [&](const std::string& label, const std::string& text) {
    out << fmt::format("{:<14}{}\n", label, text);
  };
  line("drafter",
       fmt::format("{}, use it with --drafter {}:{}", found.method, found.method, found.directory));
  line("parameters", fmt::format("{}, {}", format_count(double(found.parameters())),
                                 format_bytes(double(found.bytes()))));
  for (const auto& [label, text] : found.facts) line(label, text);
  if (found.hidden > 0) line("fits", fits_text(found));
  if (!found.target.empty()) {
    line("target",
         fmt::format("{}: {}", found.target, found.problems.empty() ? "fits" : "does not fit"));
  }
  size_t width = 0;
  for (const TensorInfo& tensor : found.tensors) width = std::max(width, tensor.name.size());
  std::string label = "tensors";
  for (const TensorInfo& tensor : found.tensors) {
    line(label, fmt::format("{:<{}}  {}", tensor.name, width, shape_text(tensor)));
    label.clear();
  }
  out.flush();
  for (const std::string& problem : found.problems) err << "error: " << problem << '\n';
  return found.problems.empty() ? 0 : 1;
}

}  // namespace convoke
