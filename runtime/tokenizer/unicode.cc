#include "runtime/tokenizer/unicode.h"

#include <utf8proc.h>

#include <cstring>

namespace convoke::unicode {
namespace {

bool in(uint32_t value, uint32_t first, uint32_t last) {
  return value >= first && value <= last;
}

/// A character of Unicode 14 with the category and UTF-8 length asked for.
uint32_t stand_in(Category category, size_t bytes) {
  const bool three = bytes == 3;
  switch (category) {
    case Category::kLu:
      return three ? 0x1E00 : 0x10400;
    case Category::kLl:
      return three ? 0x1E01 : 0x10428;
    case Category::kLm:
      return three ? 0x1D2C : 0x16B40;
    case Category::kLo:
      return three ? 0x0E01 : 0x10000;
    case Category::kHan:
      return three ? 0x4E00 : 0x20000;
    case Category::kMn:
      return three ? 0x0E31 : 0x1D167;
    case Category::kMc:
      return three ? 0x0903 : 0x11000;
    case Category::kNd:
      return three ? 0x0E50 : 0x1D7CE;
    case Category::kNo:
      return three ? 0x2460 : 0x10107;
    case Category::kPd:
      return three ? 0x2010 : 0x10EAD;
    case Category::kPo:
      return three ? 0x0E4F : 0x10100;
    case Category::kSm:
      return three ? 0x2200 : 0x1D6C1;
    case Category::kSo:
      return three ? 0x2300 : 0x10137;
    case Category::kCf:
      return three ? 0x2061 : 0x110BD;
    case Category::kNone:
      break;
  }
  return 0xFFFD;
}

}  // namespace

Scan scan_character(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, 0, false};
  // The second byte's range excludes overlong forms, surrogates and values over U+10FFFF.
  uint8_t low = 0x80, high = 0xBF;
  int length = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {0, 1, false};
  }
  for (int i = 1; i < length; ++i) {
    if (static_cast<size_t>(i) >= text.size()) return {0, i, true};
    if (byte(i) < low || byte(i) > high) return {0, i, false};
    low = 0x80;
    high = 0xBF;
  }
  return {length, 0, false};
}

bool is_valid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t word;
    if (text.size() - at >= 8) {
      std::memcpy(&word, text.data() + at, 8);
      if ((word & 0x8080808080808080ull) == 0) {
        at += 8;
        continue;
      }
    }
    const Scan scan = scan_character(text.substr(at));
    if (scan.bytes == 0) return false;
    at += static_cast<size_t>(scan.bytes);
  }
  return true;
}

std::string replace_invalid(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 8);
  size_t at = 0;
  while (at < text.size()) {
    const Scan scan = scan_character(text.substr(at));
    if (scan.bytes > 0) {
      out.append(text.substr(at, static_cast<size_t>(scan.bytes)));
      at += static_cast<size_t>(scan.bytes);
    } else {
      out.append(kReplacement);
      at += static_cast<size_t>(scan.malformed_bytes);
    }
  }
  return out;
}

size_t complete_prefix(std::string_view text) {
  // Only the last three bytes can belong to a character that is not finished.
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const size_t start = text.size() - back;
    const auto byte = static_cast<uint8_t>(text[start]);
    if (byte < 0x80) break;
    if (byte >= 0xC0) {
      const Scan scan = scan_character(text.substr(start));
      return scan.incomplete ? start : text.size();
    }
  }
  return text.size();
}

size_t previous_character(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

void append_code_point(std::string& out, uint32_t code_point) {
  utf8proc_uint8_t buffer[4];
  const auto bytes = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), buffer);
  out.append(reinterpret_cast<const char*>(buffer), static_cast<size_t>(bytes));
}

bool is_white_space(uint32_t c) {
  return in(c, 0x9, 0xD) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         in(c, 0x2000, 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_numeric(uint32_t c) {
  if (c < 0x80) return in(c, '0', '9');
  // Unicode 17, which the reference's standard library already has.
  if (in(c, 0x11DE0, 0x11DE9) || in(c, 0x16FF4, 0x16FF6)) return true;
  const Category added = new_category(c);
  if (added != Category::kNone) return added == Category::kNd || added == Category::kNo;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return true;
    default:
      return false;
  }
}

bool is_word(uint32_t c) {
  if (c < 0x80) return in(c, 'a', 'z') || in(c, 'A', 'Z') || in(c, '0', '9') || c == '_';
  if (c == 0x200C || c == 0x200D) return true;
  switch (new_category(c)) {
    case Category::kNone:
      break;
    case Category::kLu:
    case Category::kLl:
    case Category::kLm:
    case Category::kLo:
    case Category::kHan:
    case Category::kMn:
    case Category::kMc:
    case Category::kNd:
      return true;
    default:
      return false;
  }
  // Other_Alphabetic outside of M: circled and squared Latin letters.
  if (in(c, 0x24B6, 0x24E9) || in(c, 0x1F130, 0x1F149) || in(c, 0x1F150, 0x1F169) ||
      in(c, 0x1F170, 0x1F189)) {
    return true;
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

void append_lowercase(std::string& out, uint32_t c) {
  uint32_t lower = c;
  if (c == 0x130) {
    out.append("i\xCC\x87");  // U+0130 is the only one that becomes two
    return;
  }
  if (c == 0x1C89 || c == 0xA7CC || c == 0xA7CE || c == 0xA7D2 || c == 0xA7D4 || c == 0xA7DA) {
    lower = c + 1;
  } else if (c == 0xA7CB) {
    lower = 0x264;
  } else if (c == 0xA7DC) {
    lower = 0x19B;
  } else if (in(c, 0x10D50, 0x10D65)) {
    lower = c + 0x20;
  } else if (in(c, 0x16EA0, 0x16EB8)) {
    lower = c + 0x1B;
  } else {
    lower = static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
  }
  append_code_point(out, lower);
}

bool has_new_characters(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    if (static_cast<uint8_t>(text[at]) < 0xE0) {
      ++at;  // ASCII, a two-byte character or its tail: nothing new lives there
      continue;
    }
    if (new_category(next_code_point(text, at)) != Category::kNone) return true;
  }
  return false;
}

std::string with_stand_ins(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t at = 0;
  while (at < text.size()) {
    const size_t start = at;
    const Category category = new_category(next_code_point(text, at));
    if (category == Category::kNone) {
      out.append(text.substr(start, at - start));
    } else {
      append_code_point(out, stand_in(category, at - start));
    }
  }
  return out;
}

}  // namespace convoke::unicode
