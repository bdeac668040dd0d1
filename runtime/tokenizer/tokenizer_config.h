// tokenizer_config.json with special_tokens_map.json and chat_template.jinja: what the reference
// changes about a tokenizer.json when it loads a model's directory.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "runtime/tokenizer/added_tokens.h"

namespace convoke {

struct TokenizerConfig {
  std::vector<AddedTokens::Request> added_tokens;  ///< added_tokens_decoder, by id
  std::vector<AddedToken> special_tokens;          ///< named ones, to be added unless known
  std::optional<std::string> bos_token, eos_token;
  bool clean_up = false;  ///< only where forced; the reference ignores the plain flag for BPE
  std::string chat_template;
};

/// Missing files mean defaults. Throws Error(kModel) for malformed ones.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& directory);

/// Of tokenizer_config.json alone.
TokenizerConfig read_tokenizer_config(const JsonValue& json);

/// One added token as tokenizer.json and tokenizer_config.json have it.
AddedToken read_added_token(const JsonValue& json);

}  // namespace convoke
