// UTF-8 and the character properties that the reference tokenizers rely on.
//
// Three Unicode versions meet here. The reference library splits with Oniguruma (Unicode 16),
// Debian 12 has PCRE2 10.42 (Unicode 14) and utf8proc 2.8 (Unicode 15). unicode_tables.cc lists
// what was assigned in between, so that the same text is cut in the same places.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace convoke::unicode {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

/// One general category, as far as splitting needs it; kHan is Lo of the Han script.
enum class Category : uint8_t {
  kNone,
  kLu,
  kLl,
  kLm,
  kLo,
  kHan,
  kMn,
  kMc,
  kNd,
  kNo,
  kPd,
  kPo,
  kSm,
  kSo,
  kCf
};

/// Bytes of the well-formed UTF-8 character at the start of `text`; 0 where it is malformed.
/// `malformed_bytes` is then the length of the maximal ill-formed part (1 to 3), which decoders
/// replace by one U+FFFD (Unicode 15.0, table 3-8; Python and Rust do the same). `incomplete` tells
/// whether the text merely ended inside a character.
struct Scan {
  int bytes = 0;
  int malformed_bytes = 0;
  bool incomplete = false;
};
Scan scan_character(std::string_view text);

bool is_valid_utf8(std::string_view text);

/// `text` with each maximal ill-formed part replaced by U+FFFD.
std::string replace_invalid(std::string_view text);

/// Length of the longest prefix that does not end inside a character (malformed bytes that can no
/// longer become a character count as complete).
size_t complete_prefix(std::string_view text);

/// Code point at `text[at]`; `text` must be valid UTF-8. Moves `at` past it.
inline uint32_t next_code_point(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
  const uint32_t lead = byte(0);
  if (lead < 0x80) {
    at += 1;
    return lead;
  }
  uint32_t code;
  if (lead < 0xE0) {
    code = (lead & 0x1Fu) << 6 | (byte(1) & 0x3Fu);
    at += 2;
  } else if (lead < 0xF0) {
    code = (lead & 0x0Fu) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu);
    at += 3;
  } else {
    code =
        (lead & 0x07u) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu);
    at += 4;
  }
  return code;
}

/// Bytes of the character that starts with `lead` (valid UTF-8 only).
inline size_t character_bytes(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

/// Start of the character that ends right before `text[end]`; `end` > 0, `text` valid UTF-8.
size_t previous_character(std::string_view text, size_t end);

void append_code_point(std::string& out, uint32_t code_point);

bool is_white_space(uint32_t code_point);  ///< property White_Space
bool is_numeric(uint32_t code_point);      ///< category N
bool is_punctuation(uint32_t code_point);  ///< ASCII punctuation, or P as the reference knows it
bool is_word(uint32_t code_point);         ///< \w of UTS 18: Alphabetic, M, Nd, Pc, Join_Control
void append_lowercase(std::string& out, uint32_t code_point);  ///< full mapping, no context

/// Whether the reference's normaliser (an older Unicode version) passes this character through
/// untouched, as a starter that composes with nothing, although utf8proc would not.
bool is_opaque_to_normalizer(uint32_t code_point);

/// True where `text` (valid UTF-8) has characters newer than Unicode 14.
bool has_new_characters(std::string_view text);

/// `text` with every character newer than Unicode 14 replaced by an older one of the same general
/// category and the same number of bytes, so that PCRE2 cuts it where the reference does. Byte
/// offsets stay valid.
std::string with_stand_ins(std::string_view text);

// unicode_tables.cc
Category new_category(uint32_t code_point);  ///< of characters newer than Unicode 14, else kNone

}  // namespace convoke::unicode
