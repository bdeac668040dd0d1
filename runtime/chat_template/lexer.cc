#include "runtime/chat_template/lexer.h"

#include <algorithm>
#include <cctype>
#include <optional>

#include "kernels/check.h"
#include "runtime/chat_template/python_text.h"
#include "runtime/model_files/shown_text.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke::jinja {
namespace {

using Type = Token::Type;

/// Line ends become \n, and one at the very end is dropped.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& name)
      : source_(normalized(source)), text_(source_), name_(name) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) lex_outside();
    add(Type::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { syntax_error(name_, line_, what); }

  char peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  bool at(std::string_view wanted) const { return text_.substr(at_, wanted.size()) == wanted; }

  void add(Type type, std::string text) { tokens_.push_back({type, line_, std::move(text)}); }

  void move_to(size_t end) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
    at_ = end;
  }

  size_t after_space(size_t from) const {
    while (from < text_.size()) {
      size_t next = from;
      if (!python::is_space(unicode::next_code_point(text_, next))) break;
      from = next;
    }
    return from;
  }

  /// Start of the next {%, {{ or {#.
  size_t find_tag() const {
    for (size_t at = text_.find('{', at_); at != std::string::npos; at = text_.find('{', at + 1)) {
      const char next = at + 1 < text_.size() ? text_[at + 1] : '\0';
      if (next == '%' || next == '{' || next == '#') return at;
    }
    return std::string::npos;
  }

  /// The text before a tag with what its sign (or lstrip_blocks) takes away.
  std::string_view before_tag(std::string_view text, char sign, bool variable) const {
    if (sign == '-') return python::strip(text, std::nullopt, false, true);
    if (sign == '+' || variable) return text;
    const size_t line = text.rfind('\n') + 1;  // 0 where there is none
    const bool starts_line = line > 0 || at_ == 0 || text_[at_ - 1] == '\n';
    const bool blank = python::strip(text.substr(line), std::nullopt, true, false).empty();
    return starts_line && blank ? text.substr(0, line) : text;
  }

  void add_data(std::string_view text) {
    if (!text.empty()) add(Type::kData, std::string(text));
  }

  void lex_outside() {
    const size_t tag = find_tag();
    if (tag == std::string::npos) {
      add_data(text_.substr(at_));
      return move_to(text_.size());
    }
    const char kind = text_[tag + 1];
    const char sign = tag + 2 < text_.size() && (text_[tag + 2] == '-' || text_[tag + 2] == '+')
                          ? text_[tag + 2]
                          : '\0';
    add_data(before_tag(text_.substr(at_, tag - at_), sign, kind == '{'));
    const size_t inside = tag + (sign != '\0' ? 3 : 2);
    move_to(inside);
    if (kind == '#') return skip_comment();
    if (kind == '{') return lex_tag(Type::kVariableBegin, Type::kVariableEnd, "}}");
    const auto raw = tag_end("raw", false);
    if (raw) return lex_raw(*raw);
    lex_tag(Type::kBlockBegin, Type::kBlockEnd, "%}");
  }

  /// Where a tag that consists of `word` alone ends; nullopt if another stands at `at_`.
  std::optional<size_t> tag_end(std::string_view word, bool trims) const {
    size_t end = after_space(at_);
    if (text_.substr(end, word.size()) != word) return std::nullopt;
    end = after_space(end + word.size());
    return after_end(end, "%}", trims, trims);
  }

  /// Past `close` with its sign and the white space that it takes; nullopt if it is not at `end`.
  std::optional<size_t> after_end(size_t end, std::string_view close, bool trims,
                                  bool plus_allowed) const {
    const auto is = [&](size_t from) { return text_.substr(from, close.size()) == close; };
    if (end < text_.size() && text_[end] == '-' && is(end + 1)) {
      return after_space(end + 1 + close.size());
    }
    if (plus_allowed && end < text_.size() && text_[end] == '+' && is(end + 1)) {
      return end + 1 + close.size();
    }
    if (!is(end)) return std::nullopt;
    end += close.size();
    return trims && end < text_.size() && text_[end] == '\n' ? end + 1 : end;
  }

  void skip_comment() {
    if (at_ == text_.size()) return;  // as Jinja2: nothing is open where nothing follows
    for (size_t end = at_; end < text_.size(); ++end) {
      if (const auto after = after_end(end, "#}", true, true)) return move_to(*after);
    }
    fail("missing end of comment tag");
  }

  void lex_raw(size_t begin) {
    move_to(begin);
    if (at_ == text_.size()) return;
    for (size_t tag = text_.find("{%", at_); tag != std::string::npos;
         tag = text_.find("{%", tag + 1)) {
      const size_t begin_of_text = at_;
      const char next = tag + 2 < text_.size() ? text_[tag + 2] : '\0';
      const char sign = next == '-' || next == '+' ? next : '\0';
      at_ = tag + (sign != '\0' ? 3 : 2);
      const auto end = tag_end("endraw", true);
      at_ = begin_of_text;
      if (!end) continue;
      add_data(before_tag(text_.substr(at_, tag - at_), sign, false));
      return move_to(*end);
    }
    fail("missing end of raw directive");
  }

  void lex_tag(Type begin, Type end, std::string_view close) {
    add(begin, "");
    std::string open;  // the brackets to come
    while (at_ < text_.size()) {
      const bool block = end == Type::kBlockEnd;
      if (open.empty()) {
        if (const auto after = after_end(at_, close, block, block)) {
          add(end, "");
          return move_to(*after);
        }
      }
      const size_t space = after_space(at_);
      if (space != at_) {
        move_to(space);
      } else {
        lex_token(open);
      }
    }
  }

  void lex_token(std::string& open) {
    const char c = peek();
    size_t word = at_;
    if (is_digit(c)) return lex_number();
    if (c == '\'' || c == '"') return lex_string(c);
    while (word < text_.size()) {
      size_t next = word;
      const uint32_t code_point = unicode::next_code_point(text_, next);
      if (!unicode::is_word(code_point)) break;
      word = next;
    }
    if (word != at_) {
      add(Type::kName, std::string(text_.substr(at_, word - at_)));
      return move_to(word);
    }
    lex_operator(open);
  }

  size_t after_digits(size_t from, int (*is)(int)) const {
    size_t end = from;
    while (end < text_.size()) {
      const size_t digit = end > from && text_[end] == '_' ? end + 1 : end;
      if (digit >= text_.size() || is(static_cast<unsigned char>(text_[digit])) == 0) break;
      end = digit + 1;
    }
    return end;
  }

  void add_number(Type type, size_t end) {
    std::string text(text_.substr(at_, end - at_));
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    add(type, std::move(text));
    move_to(end);
  }

  bool lex_float() {
    size_t end = after_digits(at_, std::isdigit);
    const bool after_dot = at_ > 0 && text_[at_ - 1] == '.';
    bool real = false;
    if (end + 1 < text_.size() && text_[end] == '.' && is_digit(text_[end + 1])) {
      end = after_digits(end + 1, std::isdigit);
      real = true;
    }
    if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      const size_t sign = end + 1;
      const bool has_sign = sign < text_.size() && (text_[sign] == '+' || text_[sign] == '-');
      const size_t digits = sign + (has_sign ? 1 : 0);
      if (digits < text_.size() && is_digit(text_[digits])) {
        end = after_digits(digits, std::isdigit);
        real = true;
      }
    }
    if (!real || after_dot) return false;
    add_number(Type::kFloat, end);
    return true;
  }

  void lex_number() {
    if (lex_float()) return;
    if (peek() != '0') return add_number(Type::kInteger, after_digits(at_, std::isdigit));
    const auto binary = [](int c) { return static_cast<int>(c == '0' || c == '1'); };
    const auto octal = [](int c) { return static_cast<int>(c >= '0' && c <= '7'); };
    const auto zero = [](int c) { return static_cast<int>(c == '0'); };
    const char base = static_cast<char>(std::tolower(peek(1)));
    const size_t digits = at_ + (peek(2) == '_' ? 3 : 2);
    size_t end = digits;
    if (base == 'x') end = after_digits(digits, std::isxdigit);
    if (base == 'o') end = after_digits(digits, octal);
    if (base == 'b') end = after_digits(digits, binary);
    add_number(Type::kInteger, end > digits ? end : after_digits(at_, zero));
  }

  void lex_string(char quote) {
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) fail("a string is not closed");
    add(Type::kString, unescaped(text_.substr(at_ + 1, end - at_ - 1)));
    move_to(end + 1);
  }

  std::string unescaped(std::string_view raw) const {
    std::string out;
    for (size_t i = 0; i < raw.size();) {
      if (raw[i] != '\\') {
        out.push_back(raw[i++]);
        continue;
      }
      ++i;  // there is a character: a quote would have ended the string
      append_escape(out, raw, i);
    }
    return out;
  }

  void append_escape(std::string& out, std::string_view raw, size_t& i) const {
    constexpr std::string_view kFrom = "abfnrtv\\'\"", kTo = "\a\b\f\n\r\t\v\\'\"";
    const char c = raw[i];
    const size_t simple = kFrom.find(c);
    if (simple != std::string_view::npos) {
      out.push_back(kTo[simple]);
      ++i;
    } else if (c == '\n') {
      ++i;
    } else if (c >= '0' && c <= '7') {
      append_code(out, raw, i, 8, 1, 3);
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      append_code(out, raw, ++i, 16, digits, digits);
    } else if (c == 'N') {
      fail("\\N{...} in a string is not supported; write the character");
    } else {
      out.push_back('\\');
    }
  }

  void append_code(std::string& out, std::string_view raw, size_t& i, int base, size_t least,
                   size_t most) const {
    const size_t size = std::min(most, raw.size() - i);
    uint32_t code = 0;
    size_t used = 0;
    for (; used < size; ++used) {
      const char c = raw[i + used];
      const int digit = is_digit(c)                                         ? c - '0'
                        : std::isxdigit(static_cast<unsigned char>(c)) != 0 ? (c | 0x20) - 'a' + 10
                                                                            : 99;
      if (digit >= base) break;
      code = code * static_cast<uint32_t>(base) + static_cast<uint32_t>(digit);
    }
    if (used < least) fail("truncated escape in a string");
    if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
      fail(fmt::format("the escape of code point {:x} in a string is no character", code));
    }
    unicode::append_code_point(out, code);
    i += used;
  }

  void lex_operator(std::string& open) {
    constexpr std::string_view kLong[] = {"//", "**", "==", "!=", ">=", "<="};
    constexpr std::string_view kShort = "+-/*%~[](){}><=.:|,;";
    std::string_view found = text_.substr(at_, 1);
    for (const std::string_view candidate : kLong) {
      if (at(candidate)) found = candidate;
    }
    if (found.size() == 1 && kShort.find(found[0]) == std::string_view::npos) {
      const size_t bytes = unicode::character_bytes(found[0]);
      fail(fmt::format("unexpected character {}", shown_text(text_.substr(at_, bytes))));
    }
    balance(found[0], open);
    add(Type::kOperator, std::string(found));
    move_to(at_ + found.size());
  }

  void balance(char c, std::string& open) const {
    if (c == '{') open.push_back('}');
    if (c == '(') open.push_back(')');
    if (c == '[') open.push_back(']');
    if (c != '}' && c != ')' && c != ']') return;
    if (open.empty()) fail(fmt::format("unexpected '{}'", c));
    if (open.back() != c) fail(fmt::format("unexpected '{}', expected '{}'", c, open.back()));
    open.pop_back();
  }

  const std::string source_;
  const std::string_view text_;
  const std::string& name_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, const std::string& name) {
  return Lexer(source, name).run();
}

void syntax_error(const std::string& name, int line, const std::string& what) {
  throw_error(ErrorKind::kModel, "{}: line {}: {}", name, line, what);
}

}  // namespace convoke::jinja
