#include "runtime/tokenizer/tokenizer_config.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>

#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

constexpr const char* kForceCleanUp =
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";

/// A token given as text or as an object with flags.
AddedToken read_special_token(const JsonValue& json) {
  AddedToken token;
  if (json.is_string()) {
    token.content = json.string();
    token.normalized = false;
  } else {
    token = read_added_token(json);
  }
  token.special = true;
  return token;
}

std::vector<AddedTokens::Request> read_added_tokens(const JsonValue& json) {
  json.require_object();
  std::vector<AddedTokens::Request> requests;
  for (const auto& [key, value] : json.raw().items()) {
    const JsonValue token = json.at(key.c_str());
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0) {
      token.fail("the key is not a token id");
    }
    requests.push_back({read_added_token(token), id, token.where(), false});
  }
  std::sort(requests.begin(), requests.end(),
            [](const auto& a, const auto& b) { return a.id < b.id; });
  return requests;
}

std::string read_chat_template(const JsonValue& json) {
  if (json.is_string()) return json.string();
  if (json.is_object()) {
    const auto value = json.find("default");
    return value ? value->string() : "";
  }
  json.require_array();
  for (size_t i = 0; i < json.size(); ++i) {
    const JsonValue entry = json.at(i);
    if (entry.string("name") == "default") return entry.string("template");
  }
  return "";
}

void read_special_tokens(const JsonValue& json, TokenizerConfig& config) {
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                          "cls_token", "mask_token"}) {
    const auto value = json.find(key);
    if (!value) continue;
    config.special_tokens.push_back(read_special_token(*value));
    const std::string& content = config.special_tokens.back().content;
    if (std::string_view(key) == "bos_token") config.bos_token = content;
    if (std::string_view(key) == "eos_token") config.eos_token = content;
  }
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    const auto list = json.find(key);
    if (!list) continue;
    if (list->is_object()) {
      for (const auto& [name, value] : list->raw().items()) {
        config.special_tokens.push_back(read_special_token(list->at(name.c_str())));
      }
      continue;
    }
    list->require_array();
    for (size_t i = 0; i < list->size(); ++i) {
      config.special_tokens.push_back(read_special_token(list->at(i)));
    }
  }
}

}  // namespace

AddedToken read_added_token(const JsonValue& json) {
  AddedToken token;
  token.content = json.string("content");
  token.single_word = json.boolean("single_word", false);
  token.lstrip = json.boolean("lstrip", false);
  token.rstrip = json.boolean("rstrip", false);
  token.special = json.boolean("special", false);
  token.normalized = json.boolean("normalized", !token.special);
  return token;
}

TokenizerConfig read_tokenizer_config(const JsonValue& json) {
  TokenizerConfig config;
  json.require_object();
  if (const auto tokens = json.find("added_tokens_decoder")) {
    config.added_tokens = read_added_tokens(*tokens);
  }
  read_special_tokens(json, config);
  config.clean_up =
      json.boolean("clean_up_tokenization_spaces", false) && json.boolean(kForceCleanUp, false);
  if (const auto text = json.find("chat_template")) {
    config.chat_template = read_chat_template(*text);
  }
  return config;
}

TokenizerConfig read_tokenizer_config(const std::filesystem::path& directory) {
  const auto path = directory / "tokenizer_config.json";
  const auto map_path = directory / "special_tokens_map.json";
  nlohmann::json json = nlohmann::json::object();
  if (std::filesystem::exists(path)) json = read_json_file(path);
  JsonValue(json, path.string()).require_object();
  // The map is what older versions wrote; a config with added_tokens_decoder is complete.
  if (!json.contains("added_tokens_decoder") && std::filesystem::exists(map_path)) {
    const nlohmann::json map = read_json_file(map_path);
    JsonValue(map, map_path.string()).require_object();
    for (const auto& [key, value] : map.items()) {
      if (key != "extra_special_tokens" || !json.contains(key)) json[key] = value;
    }
  }
  TokenizerConfig config = read_tokenizer_config(JsonValue(json, path.string()));
  const auto template_path = directory / "chat_template.jinja";
  if (std::filesystem::exists(template_path)) {
    std::ifstream stream(template_path, std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    if (stream.bad() || !stream.is_open()) {
      throw_error(ErrorKind::kModel, "{}: cannot be read", template_path.string());
    }
    config.chat_template = unicode::replace_invalid(text);
  }
  return config;
}

}  // namespace convoke
