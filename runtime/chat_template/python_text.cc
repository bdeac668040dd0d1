#include "runtime/chat_template/python_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>

#include "runtime/tokenizer/unicode.h"

namespace convoke::jinja::python {
namespace {

using unicode::append_code_point;
using unicode::next_code_point;

bool in(uint32_t c, uint32_t first, uint32_t last) {
  return first <= c && c <= last;
}

utf8proc_category_t category(uint32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool is_upper_character(uint32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LU || in(c, 0x2160, 0x216F) || in(c, 0x24B6, 0x24CF);
}

bool is_lower_character(uint32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA || in(c, 0x2170, 0x217F) ||
         in(c, 0x24D0, 0x24E9);
}

void append_upper(std::string& out, uint32_t c) {
  if (const char* special = special_upper(c)) {
    out += special;
  } else {
    append_code_point(out,
                      static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}

void append_title(std::string& out, uint32_t c) {
  if (const char* special = special_title(c)) {
    out += special;
  } else {
    append_code_point(out,
                      static_cast<uint32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
  }
}

bool is_case_ignorable(uint32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2019 || c == 0x2018;
  }
}

/// A capital sigma at the end of a word becomes another letter than elsewhere. `at` is its place.
bool is_final_sigma(std::string_view text, size_t at, size_t end) {
  bool cased_before = false;
  while (at > 0) {
    at = unicode::previous_character(text, at);
    size_t next = at;
    const uint32_t c = next_code_point(text, next);
    if (is_case_ignorable(c)) continue;
    cased_before = is_cased(c);
    break;
  }
  while (end < text.size()) {
    const uint32_t c = next_code_point(text, end);
    if (is_case_ignorable(c)) continue;
    return cased_before && !is_cased(c);
  }
  return cased_before;
}

/// The character in text[start, end) as str.lower has it.
void append_lower(std::string& out, std::string_view text, size_t start, size_t end, uint32_t c) {
  constexpr uint32_t kCapitalSigma = 0x3A3, kFinalSigma = 0x3C2;
  if (c == kCapitalSigma && is_final_sigma(text, start, end)) {
    append_code_point(out, kFinalSigma);
  } else {
    unicode::append_lowercase(out, c);
  }
}

bool is_line_end(uint32_t c) {
  return in(c, '\n', '\r') || in(c, 0x1C, 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

std::vector<std::string_view> split_at_space(std::string_view text, size_t most) {
  std::vector<std::string_view> pieces;
  text = strip(text, std::nullopt, true, false);
  while (!text.empty()) {
    if (pieces.size() == most) {
      pieces.push_back(text);
      break;
    }
    size_t end = 0;
    for (size_t at = 0; at < text.size();) {
      if (is_space(next_code_point(text, at))) break;
      end = at;
    }
    pieces.push_back(text.substr(0, end));
    text = strip(text.substr(end), std::nullopt, true, false);
  }
  return pieces;
}

std::vector<std::string_view> rsplit_at_space(std::string_view text, size_t most) {
  std::vector<std::string_view> pieces;
  text = strip(text, std::nullopt, false, true);
  while (!text.empty()) {
    if (pieces.size() == most) {
      pieces.push_back(text);
      break;
    }
    size_t begin = text.size();
    while (begin > 0) {
      const size_t previous = unicode::previous_character(text, begin);
      size_t at = previous;
      if (is_space(next_code_point(text, at))) break;
      begin = previous;
    }
    pieces.push_back(text.substr(begin));
    text = strip(text.substr(0, begin), std::nullopt, false, true);
  }
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

bool all_cased_are(std::string_view text, bool (*wanted)(uint32_t)) {
  bool any = false;
  for (size_t at = 0; at < text.size();) {
    const uint32_t c = next_code_point(text, at);
    if (!is_cased(c)) continue;
    if (!wanted(c)) return false;
    any = true;
  }
  return any;
}

}  // namespace

size_t length(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

size_t byte_offset(std::string_view text, size_t index) {
  size_t at = 0;
  for (; index > 0; --index) at += unicode::character_bytes(text[at]);
  return at;
}

std::string reversed(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t end = text.size(); end > 0;) {
    const size_t begin = unicode::previous_character(text, end);
    out.append(text.substr(begin, end - begin));
    end = begin;
  }
  return out;
}

bool is_space(uint32_t c) {
  return unicode::is_white_space(c) || in(c, 0x1C, 0x1F);
}

bool is_printable(uint32_t c) {
  if (c == ' ') return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

size_t find(std::string_view text, std::string_view needle, size_t from) {
  constexpr size_t kNowhere = std::string_view::npos;
  constexpr size_t kPatience = 1024;
  if (from > text.size() || needle.size() > text.size() - from) return kNowhere;
  if (needle.empty()) return from;
  const char* const data = text.data();
  const size_t last = text.size() - needle.size();
  size_t compared = 0;
  for (size_t at = from; at <= last; ++at) {
    const void* hit = std::memchr(data + at, needle[0], last - at + 1);
    if (hit == nullptr) return kNowhere;
    at = static_cast<size_t>(static_cast<const char*>(hit) - data);
    size_t same = 1;
    while (same < needle.size() && data[at + same] == needle[same]) ++same;
    if (same == needle.size()) return at;
    compared += same;
    if (compared <= kPatience + 4 * (at - from)) continue;
    // Texts that all but match again and again: memmem is slower to start but always linear.
    const void* found = memmem(data + at, text.size() - at, needle.data(), needle.size());
    if (found == nullptr) return kNowhere;
    return static_cast<size_t>(static_cast<const char*>(found) - data);
  }
  return kNowhere;
}

size_t rfind(std::string_view text, std::string_view needle) {
  const std::string backwards(text.rbegin(), text.rend());
  const std::string wanted(needle.rbegin(), needle.rend());
  const size_t found = find(backwards, wanted);
  return found == std::string_view::npos ? found : text.size() - found - needle.size();
}

size_t count(std::string_view text, std::string_view needle) {
  if (needle.empty()) return length(text) + 1;
  size_t times = 0;
  for (size_t at = find(text, needle); at != std::string_view::npos;
       at = find(text, needle, at + needle.size())) {
    ++times;
  }
  return times;
}

std::string replace(std::string_view text, std::string_view from, std::string_view to,
                    size_t most) {
  std::string out;
  size_t done = 0;
  if (from.empty()) {  // between all characters and at both ends
    for (size_t at = 0;; --most) {
      if (most == 0) break;
      out.append(to);
      if (at == text.size()) break;
      const size_t bytes = unicode::character_bytes(text[at]);
      out.append(text.substr(at, bytes));
      done = at += bytes;
    }
    return out.append(text.substr(done));
  }
  for (size_t at = find(text, from); at != std::string_view::npos && most > 0;
       at = find(text, from, done), --most) {
    out.append(text.substr(done, at - done)).append(to);
    done = at + from.size();
  }
  return out.append(text.substr(done));
}

std::string_view strip(std::string_view text, std::optional<std::string_view> characters, bool left,
                       bool right) {
  const auto goes = [&](size_t at) {
    size_t end = at;
    const uint32_t c = next_code_point(text, end);
    return characters ? find(*characters, text.substr(at, end - at)) != std::string_view::npos
                      : is_space(c);
  };
  while (left && !text.empty() && goes(0)) {
    text.remove_prefix(unicode::character_bytes(text[0]));
  }
  while (right && !text.empty()) {
    const size_t last = unicode::previous_character(text, text.size());
    if (!goes(last)) break;
    text = text.substr(0, last);
  }
  return text;
}

std::vector<std::string_view> split(std::string_view text,
                                    std::optional<std::string_view> separator, size_t most) {
  if (!separator) return split_at_space(text, most);
  std::vector<std::string_view> pieces;
  size_t done = 0;
  while (pieces.size() < most) {
    const size_t at = find(text, *separator, done);
    if (at == std::string_view::npos) break;
    pieces.push_back(text.substr(done, at - done));
    done = at + separator->size();
  }
  pieces.push_back(text.substr(done));
  return pieces;
}

std::vector<std::string_view> rsplit(std::string_view text,
                                     std::optional<std::string_view> separator, size_t most) {
  if (!separator) return rsplit_at_space(text, most);
  // From the right: the same on texts turned around, so that it stays linear.
  const std::string backwards(text.rbegin(), text.rend());
  const std::string wanted(separator->rbegin(), separator->rend());
  std::vector<std::string_view> pieces;
  size_t end = text.size();
  for (const std::string_view piece : split(backwards, wanted, most)) {
    pieces.push_back(text.substr(end - piece.size(), piece.size()));
    end -= std::min(end, piece.size() + wanted.size());
  }
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const uint32_t c = next_code_point(text, at);
    if (!is_line_end(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::string upper(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) append_upper(out, next_code_point(text, at));
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const uint32_t c = next_code_point(text, at);
    append_lower(out, text, start, at, c);
  }
  return out;
}

std::string title(std::string_view text) {
  std::string out;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const uint32_t c = next_code_point(text, at);
    if (inside) {
      append_lower(out, text, start, at, c);
    } else {
      append_title(out, c);
    }
    inside = is_cased(c);
  }
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const uint32_t c = next_code_point(text, at);
    if (start == 0) {
      append_title(out, c);
    } else {
      append_lower(out, text, start, at, c);
    }
  }
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const uint32_t c = next_code_point(text, at);
    if (is_upper_character(c)) {
      append_lower(out, text, start, at, c);
    } else if (is_lower_character(c)) {
      append_upper(out, c);
    } else {
      append_code_point(out, c);
    }
  }
  return out;
}

bool is_cased(uint32_t c) {
  return is_upper_character(c) || is_lower_character(c) || category(c) == UTF8PROC_CATEGORY_LT;
}

bool is_upper(std::string_view text) {
  return all_cased_are(text, is_upper_character);
}

bool is_lower(std::string_view text) {
  return all_cased_are(text, is_lower_character);
}

bool is_alphabetic(uint32_t c) {
  return in(static_cast<uint32_t>(category(c)), UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LO);
}

bool is_decimal(uint32_t c) {
  return category(c) == UTF8PROC_CATEGORY_ND;
}

bool is_digit(uint32_t c) {
  // Superscripts, subscripts and circled digits are digits without being decimal.
  return is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 ||
         in(c, 0x2074, 0x2079) || in(c, 0x2080, 0x2089) || in(c, 0x2460, 0x2468) ||
         in(c, 0x2474, 0x247C) || in(c, 0x2488, 0x2490) || c == 0x24EA || c == 0x24FF ||
         in(c, 0x24F5, 0x24FD) || in(c, 0x2776, 0x277E) || in(c, 0x2780, 0x2788) ||
         in(c, 0x278A, 0x2792);
}

bool is_numeric(uint32_t c) {
  return in(static_cast<uint32_t>(category(c)), UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NO);
}

}  // namespace convoke::jinja::python
