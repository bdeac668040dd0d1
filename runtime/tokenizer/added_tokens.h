// Tokens that are recognised in the text itself, before the model sees it: special tokens and
// others that were added to a vocabulary. Semantics are those of the reference's AddedVocabulary.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "kernels/function_ref.h"
#include "runtime/tokenizer/bpe_model.h"
#include "runtime/tokenizer/normalizer.h"

namespace convoke {

struct AddedToken {
  std::string content;
  bool single_word = false;  ///< matches only where no word character touches it
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< and after it
  bool normalized = true;    ///< looked for in the normalised text instead of the original
  bool special = false;      ///< left out when decoding, ignored when encoding text as text

  bool operator==(const AddedToken&) const = default;
};

class AddedTokens {
 public:
  AddedTokens(const BpeModel& model, const Normalizer* normalizer)
      : model_(&model), normalizer_(normalizer) {}

  /// One call of the reference's add_tokens: a token gets the id of its text if it has one, else
  /// the next free one. Each of `tokens` comes with the id that the file gives, if any.
  struct Request {
    AddedToken token;
    std::optional<int64_t> id;
    std::string where;  ///< file and key, for errors
    bool id_must_agree = true;
  };
  void add(const std::vector<Request>& requests);

  /// To be called after the last add(): prepares matching.
  void finish(const std::string& where);

  /// Cuts `text` at the tokens it contains. `piece` gets what lies between (never empty; `at_start`
  /// where it begins the text), `token` the ids, all in order. With `skip_special` special tokens
  /// stay text. Call with normalized = false for the original text, then true for each piece.
  void split(std::string_view text, bool normalized, bool skip_special,
             FunctionRef<void(std::string_view, bool)> piece,
             FunctionRef<void(int32_t)> token) const;

  /// Whether split() can find anything in that pass.
  bool empty(bool normalized) const { return (normalized ? late_ : early_).patterns.empty(); }

  std::optional<int32_t> token_to_id(std::string_view token) const;
  const AddedToken* find(int32_t id) const;
  bool has(std::string_view content) const { return ids_.contains(content); }
  bool is_special(std::string_view text) const { return special_.contains(std::string(text)); }
  /// Text that decoding starts from: the normalised form where there is one.
  const std::string& decode_text(int32_t id) const;
  const std::map<int32_t, AddedToken>& tokens() const { return by_id_; }

 private:
  struct Matcher {
    struct Entry {
      std::string text;
      int32_t id;
    };
    std::vector<Entry> patterns;  // sorted by text
    std::vector<uint32_t> first;  // first[b]: where patterns that start with byte b begin

    void prepare();
    /// Longest pattern at the start of `text`, or null.
    const Entry* match(std::string_view text) const;
  };

  const BpeModel* model_;
  const Normalizer* normalizer_;
  TextToId ids_;
  std::map<int32_t, AddedToken> by_id_;
  std::map<int32_t, std::string> normalized_;
  std::unordered_set<std::string> special_;
  Matcher early_, late_;
};

}  // namespace convoke
