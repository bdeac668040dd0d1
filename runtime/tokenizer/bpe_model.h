// The "model" section of tokenizer.json: byte-pair encoding of one word.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/tokenizer/json_value.h"
#include "runtime/tokenizer/pair_table.h"
#include "runtime/tokenizer/word_cache.h"

namespace convoke {

/// Transparent hash, so that lookups by string_view make no string.
struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using TextToId = std::unordered_map<std::string, int32_t, TextHash, std::equal_to<>>;

/// Working memory of one thread.
struct BpeScratch {
  struct Symbol {
    int32_t id;
    int32_t previous, next;  // positions; -1: none
  };
  WordCache cache;
  std::vector<int32_t> ids;       // symbols of the word at hand
  std::vector<uint32_t> ranks;    // ranks[i]: rank of the pair (i, i + 1)
  std::vector<Symbol> symbols;    // linked list, for long words
  std::vector<uint64_t> queue;    // heap of rank << 32 | position
  std::vector<int32_t> word_ids;  // result of one word
};

class BpeModel {
 public:
  /// Reads {"type": "BPE", ...}. With `bytes`, words given to encode() are raw bytes that the
  /// vocabulary spells in the byte-level alphabet. Throws Error(kModel).
  BpeModel(const JsonValue& json, bool bytes);

  /// Whether this model can work on raw bytes (see above).
  static bool can_encode_bytes(const JsonValue& json);

  /// Appends the ids of one non-empty word. Thread-safe with a scratch per thread. Throws
  /// Error(kModel) where unk_token is needed but not in the vocabulary.
  void encode(std::string_view word, BpeScratch& scratch, std::vector<int32_t>& out) const;

  std::optional<int32_t> token_to_id(std::string_view token) const;
  int32_t size() const { return static_cast<int32_t>(by_text_.size()); }  ///< tokens, no holes
  const TextToId& tokens() const { return by_text_; }

 private:
  void read_vocabulary(const JsonValue& json);
  void read_merges(const JsonValue& json);
  void add_merge(const JsonValue& json, uint32_t rank, std::string_view left,
                 std::string_view right);
  void prepare_symbols();

  void encode_piece(std::string_view piece, BpeScratch& scratch, std::vector<int32_t>& out) const;
  void encode_uncached(std::string_view piece, BpeScratch& scratch) const;
  void read_characters(std::string_view piece, BpeScratch& scratch) const;
  bool append_byte_tokens(std::string_view text, BpeScratch& scratch) const;
  void merge_short(BpeScratch& scratch) const;
  void merge_long(BpeScratch& scratch) const;

  bool bytes_;
  bool fuse_unk_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  bool mark_starts_words_ = false;  // no merge reaches over the place before a U+2581
  std::optional<std::string> unk_token_;
  std::optional<int32_t> unk_id_;
  std::string prefix_, suffix_;  // continuing_subword_prefix, end_of_word_suffix
  TextToId by_text_;
  TextToId whole_words_;  // with ignore_merges: what encode() is given, to id
  PairTable merges_;
  std::array<int32_t, 256> byte_ids_;      // raw bytes to ids, or -1
  std::array<int32_t, 256> fallback_ids_;  // of <0x00> .. <0xFF>, or -1
  std::unordered_map<uint32_t, int32_t> character_ids_;
};

}  // namespace convoke
