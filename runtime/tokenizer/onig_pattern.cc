#include "runtime/tokenizer/onig_pattern.h"

#include <fmt/format.h>

#include <vector>

#include "runtime/tokenizer/onig_property.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

constexpr size_t kLongestPattern = 1 << 16;
constexpr size_t kNoAtom = static_cast<size_t>(-1);

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// Inside of a class: members, and sets whose complements are members too.
struct ClassSet {
  bool negated = false;
  std::string items;
  std::vector<std::string> complements;

  std::string pattern() const {
    if (complements.empty()) return fmt::format("[{}{}]", negated ? "^" : "", items);
    std::string out;
    if (!negated) {
      for (const auto& set : complements)
        out += fmt::format("{}[^{}]", out.empty() ? "" : "|", set);
      if (!items.empty()) out += fmt::format("|[{}]", items);
      return fmt::format("(?:{})", out);
    }
    if (!items.empty()) out += fmt::format("(?![{}])", items);
    for (size_t i = 0; i + 1 < complements.size(); ++i)
      out += fmt::format("(?=[{}])", complements[i]);
    return fmt::format("(?:{}[{}])", out, complements.back());
  }
};

class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    if (in_.size() > kLongestPattern) fail("longer than 65536 bytes");
    while (at_ < in_.size()) step();
    if (!groups_.empty()) fail("a group is not closed");
    return std::move(out_);
  }

 private:
  struct Group {
    size_t start;   // in out_
    bool caseless;  // in force outside of the group
  };

  [[noreturn]] void fail(const std::string& what) const {
    throw PatternError(fmt::format("pattern not supported at byte {}: {}", at_, what));
  }

  bool more(size_t ahead = 0) const { return at_ + ahead < in_.size(); }
  char peek(size_t ahead = 0) const { return more(ahead) ? in_[at_ + ahead] : '\0'; }
  bool starts(std::string_view text) const { return in_.substr(at_).starts_with(text); }

  void step() {
    const char c = peek();
    switch (c) {
      case '(':
        open_group();
        return;
      case ')':
        close_group();
        return;
      case '[':
        read_class();
        return;
      case '\\':
        read_escape();
        return;
      case '*':
      case '+':
      case '?':
        read_repeat();
        return;
      case '{':
        read_interval();
        return;
      case '|':
      case '^':
      case '$':
        out_.push_back(c);
        ++at_;
        end_atom(kNoAtom);
        return;
      case '.':
        emit_atom(".");
        ++at_;
        return;
      default:
        read_literal();
        return;
    }
  }

  void end_atom(size_t start) {
    atom_ = start;
    quantified_ = false;
    literal_.clear();
  }

  void emit_atom(std::string_view text) {
    const size_t start = out_.size();
    out_.append(text);
    end_atom(start);
  }

  void emit_code_point(uint32_t code_point) {
    if (code_point > 0x10FFFF || (code_point >= 0xD800 && code_point <= 0xDFFF)) {
      fail(fmt::format("\\x{{{:x}}} is not a character", code_point));
    }
    const std::string before = literal_;
    emit_atom(fmt::format("\\x{{{:x}}}", code_point));
    if (caseless_) check_folding(before, code_point);
  }

  /// Sequences that Oniguruma would also match against a single character under (?i): each of these
  /// is the start of a multi-character case folding (CaseFolding.txt, status F).
  void check_folding(const std::string& before, uint32_t code_point) {
    literal_ = before;
    std::string folded;
    unicode::append_lowercase(folded, code_point);
    literal_ += folded;
    for (const char* sequence :
         {"ss", "ff", "fi", "fl", "st", "i\xCC\x87", "\xCA\xBCn", "j\xCC\x8C", "h\xCC\xB1",
          "t\xCC\x88", "w\xCC\x8A", "y\xCC\x8A", "a\xCA\xBE"}) {
      if (literal_.ends_with(sequence)) {
        fail(fmt::format("\"{}\" under (?i), which stands for one character as well", sequence));
      }
    }
  }

  void read_literal() {
    const size_t start = at_;
    const uint32_t code_point = unicode::next_code_point(in_, at_);
    const std::string before = literal_;
    const char c = in_[start];
    if (code_point < 0x80 && !is_letter(c) && !is_digit(c) && code_point > 0x20) {
      emit_atom(fmt::format("\\{}", c));
    } else {
      emit_atom(in_.substr(start, at_ - start));
    }
    if (caseless_) check_folding(before, code_point);
  }

  void open_group() {
    const size_t start = out_.size();
    const bool outer = caseless_;
    if (starts("(?#")) {
      const size_t end = in_.find(')', at_);
      if (end == std::string_view::npos) fail("a comment is not closed");
      at_ = end + 1;
      return;
    }
    if (starts("(*")) fail("verbs and callouts");
    if (!starts("(?")) {
      at_ += 1;
      out_ += "(?:";
    } else if (!open_special_group()) {
      return;
    }
    groups_.push_back({start, outer});
    end_atom(kNoAtom);
  }

  /// After "(?". False if it was an option that opens no group.
  bool open_special_group() {
    for (const char* kind : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"}) {
      if (starts(kind)) {
        out_ += kind;
        at_ += std::string_view(kind).size();
        return true;
      }
    }
    if (starts("(?<") || starts("(?'")) {
      const char close = in_[at_ + 2] == '<' ? '>' : '\'';
      const size_t end = in_.find(close, at_ + 3);
      if (end == std::string_view::npos) fail("the name of a group is not closed");
      at_ = end + 1;
      out_ += "(?:";  // nothing refers to it: references are refused
      return true;
    }
    return read_options();
  }

  bool read_options() {
    at_ += 2;
    bool on = true;
    std::string options;
    for (;; ++at_) {
      switch (peek()) {
        case '-':
          on = false;
          options += '-';
          break;
        case 'i':
          options += 'i';
          caseless_ = on;
          break;
        case 'm':
          options += 's';
          break;
        case ':':
          out_ += fmt::format("(?{}:", options);
          ++at_;
          return true;
        case ')':
          out_ += fmt::format("(?{})", options);
          ++at_;
          end_atom(kNoAtom);
          return false;
        default:
          fail(fmt::format("(?{}", peek()));
      }
    }
  }

  void close_group() {
    if (groups_.empty()) fail("unmatched )");
    out_.push_back(')');
    ++at_;
    caseless_ = groups_.back().caseless;
    end_atom(groups_.back().start);
    groups_.pop_back();
  }

  /// Makes what was quantified already an atom that can be quantified again.
  void prepare_repeat() {
    if (atom_ == kNoAtom) fail("nothing to repeat");
    if (quantified_) {
      out_.insert(atom_, "(?:");
      out_.push_back(')');
    }
    quantified_ = true;
    literal_.clear();
  }

  void read_repeat() {
    prepare_repeat();
    out_.push_back(in_[at_++]);
    if (peek() == '?' || peek() == '+') out_.push_back(in_[at_++]);
  }

  void read_interval() {
    size_t end = at_ + 1;
    std::string low, high;
    while (end < in_.size() && is_digit(in_[end])) low.push_back(in_[end++]);
    const bool comma = end < in_.size() && in_[end] == ',';
    if (comma) ++end;
    while (comma && end < in_.size() && is_digit(in_[end])) high.push_back(in_[end++]);
    const bool valid = end < in_.size() && in_[end] == '}' && (!low.empty() || !high.empty());
    if (!valid) {
      read_literal();
      return;
    }
    if (low.size() > 5 || high.size() > 5) fail("an interval over 99999");
    prepare_repeat();
    at_ = end + 1;
    if (low.empty()) low.push_back('0');
    out_ += comma ? fmt::format("{{{},{}}}", low, high) : fmt::format("{{{}}}", low);
    if (comma && peek() == '?') out_.push_back(in_[at_++]);
  }

  uint32_t read_hex(size_t most) {
    uint32_t value = 0;
    size_t count = 0;
    while (count < most && more() && hex_value(peek()) >= 0) {
      value = value * 16 + static_cast<uint32_t>(hex_value(peek()));
      ++at_;
      ++count;
    }
    if (count == 0) fail("hexadecimal digits expected");
    return value;
  }

  /// A backslash sequence that names one character, or nullopt; moves only if it does.
  bool read_character_escape(uint32_t& code_point) {
    const char c = peek(1);
    switch (c) {
      case 'n':
        code_point = '\n';
        break;
      case 't':
        code_point = '\t';
        break;
      case 'r':
        code_point = '\r';
        break;
      case 'f':
        code_point = '\f';
        break;
      case 'v':
        code_point = '\v';
        break;
      case 'a':
        code_point = '\a';
        break;
      case 'e':
        code_point = 0x1B;
        break;
      case 'x':
        at_ += 2;
        if (peek() == '{') {
          ++at_;
          code_point = read_hex(8);
          if (peek() != '}') fail("\\x{ is not closed");
          ++at_;
        } else {
          code_point = read_hex(2);
          if (code_point > 0x7F) fail("\\x of a single byte over 7f; write \\x{...}");
        }
        return true;
      case 'u':
        at_ += 2;
        code_point = read_hex(4);
        return true;
      case '0':
        at_ += 1;
        code_point = 0;
        for (int i = 0; i < 3 && peek() >= '0' && peek() <= '7'; ++i, ++at_) {
          code_point = code_point * 8 + static_cast<uint32_t>(peek() - '0');
        }
        return true;
      default: {
        if (!more(1)) fail("a backslash at the end");
        if (is_letter(c) || is_digit(c)) return false;
        at_ += 1;
        code_point = unicode::next_code_point(in_, at_);
        return true;
      }
    }
    at_ += 2;
    return true;
  }

  /// \p{..}, \P{..}, \p{^..} at the cursor.
  NamedSet read_property(bool& negated) {
    negated = peek(1) == 'P';
    if (peek(2) != '{') fail("\\p without braces");
    const size_t end = in_.find('}', at_);
    if (end == std::string_view::npos) fail("\\p{ is not closed");
    std::string_view name = in_.substr(at_ + 3, end - at_ - 3);
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    if (name.empty()) fail("\\p{} without a name");
    at_ = end + 1;
    return onig_property(name, false);
  }

  static std::string set_pattern(const NamedSet& set, bool negated) {
    if (set.simple) return fmt::format("\\{}{}", negated ? 'P' : 'p', set.items.substr(2));
    return fmt::format("[{}{}]", negated ? "^" : "", set.items);
  }

  void read_escape() {
    const char c = peek(1);
    switch (c) {
      case 'd':
      case 'D':
      case 's':
      case 'S':
      case 'R':
        emit_atom(in_.substr(at_, 2));
        at_ += 2;
        return;
      case 'w':
      case 'W':
        at_ += 2;
        emit_atom(set_pattern({kOnigWordOutside, false}, c == 'W'));
        return;
      case 'h':
      case 'H':
        at_ += 2;
        emit_atom(set_pattern({kOnigHexDigit, false}, c == 'H'));
        return;
      case 'p':
      case 'P': {
        bool negated = false;
        NamedSet set = read_property(negated);
        if (set.items == kOnigWord) set.items = kOnigWordOutside;
        emit_atom(set_pattern(set, negated));
        return;
      }
      case 'b':
        at_ += 2;
        out_ += fmt::format("(?:(?<=[{0}])(?![{0}])|(?<![{0}])(?=[{0}]))", kOnigWordOutside);
        end_atom(kNoAtom);
        return;
      case 'B':
        at_ += 2;
        out_ += fmt::format("(?:(?<=[{0}])(?=[{0}])|(?<![{0}])(?![{0}]))", kOnigWordOutside);
        end_atom(kNoAtom);
        return;
      case 'A':
      case 'z':
      case 'Z':
        out_ += in_.substr(at_, 2);
        at_ += 2;
        end_atom(kNoAtom);
        return;
      default:
        break;
    }
    uint32_t code_point = 0;
    if (!read_character_escape(code_point)) fail(fmt::format("\\{}", c));
    emit_code_point(code_point);
  }

  void read_class() {
    const ClassSet set = parse_class(0);
    emit_atom(set.pattern());
  }

  /// Adds a named set, or its complement, to the members of `set`.
  static void add_set(ClassSet& set, const NamedSet& named, bool negated) {
    if (!negated) {
      set.items += named.items;
    } else if (named.simple) {
      set.items += set_pattern(named, true);
    } else {
      set.complements.push_back(named.items);
    }
  }

  ClassSet parse_class(int depth) {
    if (depth > 8) fail("classes nested too deeply");
    ClassSet set;
    ++at_;  // [
    if (peek() == '^') {
      set.negated = true;
      ++at_;
    }
    for (bool first = true;; first = false) {
      if (!more()) fail("a class is not closed");
      if (peek() == ']' && !first) break;
      if (starts("&&")) fail("class intersection &&");
      if (peek() == '[') {
        read_nested_class(set, depth);
      } else if (!read_class_set(set)) {
        read_class_range(set);
      }
    }
    ++at_;  // ]
    return set;
  }

  void read_nested_class(ClassSet& set, int depth) {
    if (starts("[:")) {
      const size_t end = in_.find(":]", at_ + 2);
      if (end != std::string_view::npos) {
        std::string_view name = in_.substr(at_ + 2, end - at_ - 2);
        const bool negated = name.starts_with('^');
        if (negated) name.remove_prefix(1);
        at_ = end + 2;
        add_set(set, onig_property(name, true), negated);
        return;
      }
    }
    const ClassSet inner = parse_class(depth + 1);
    if (inner.negated) {
      if (!inner.complements.empty()) fail("a negated class inside a class");
      set.complements.push_back(inner.items);
    } else {
      set.items += inner.items;
      set.complements.insert(set.complements.end(), inner.complements.begin(),
                             inner.complements.end());
    }
  }

  /// \d, \w, \p{..} and the like inside a class; false if the cursor is at a single character.
  bool read_class_set(ClassSet& set) {
    if (peek() != '\\') return false;
    switch (const char c = peek(1); c) {
      case 'd':
      case 'D':
      case 's':
      case 'S':
        set.items += in_.substr(at_, 2);
        at_ += 2;
        return true;
      case 'w':
      case 'W':
        at_ += 2;
        add_set(set, {kOnigWord, false}, c == 'W');
        return true;
      case 'h':
      case 'H':
        at_ += 2;
        add_set(set, {kOnigHexDigit, false}, c == 'H');
        return true;
      case 'p':
      case 'P': {
        bool negated = false;
        const NamedSet named = read_property(negated);
        add_set(set, named, negated);
        return true;
      }
      default:
        return false;
    }
  }

  uint32_t read_class_character() {
    uint32_t code_point = 0;
    if (peek() != '\\') return unicode::next_code_point(in_, at_);
    if (peek(1) == 'b') {
      at_ += 2;
      return '\b';
    }
    if (!read_character_escape(code_point)) fail(fmt::format("\\{} inside a class", peek(1)));
    return code_point;
  }

  void read_class_range(ClassSet& set) {
    const uint32_t low = read_class_character();
    uint32_t high = low;
    const bool range = peek() == '-' && more(1) && peek(1) != ']' && peek(1) != '[';
    if (range) {
      ++at_;
      const char c = peek(1);
      const bool named =
          peek() == '\\' && std::string_view("dDsSwWhHpP").find(c) != std::string_view::npos;
      if (named) {  // a hyphen between a character and a set stands for itself
        set.items += fmt::format("\\x{{{:x}}}\\-", low);
        return;
      }
      high = read_class_character();
    }
    for (const uint32_t c : {low, high}) {
      if (c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) fail("not a character");
    }
    if (high < low) fail("an empty range in a class");
    set.items +=
        range ? fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", low, high) : fmt::format("\\x{{{:x}}}", low);
  }

  std::string_view in_;
  size_t at_ = 0;
  std::string out_;
  std::vector<Group> groups_;
  size_t atom_ = kNoAtom;    // where the last atom starts in out_
  bool quantified_ = false;  // and whether it has a quantifier already
  bool caseless_ = false;
  std::string literal_;  // letters that directly precede the cursor, folded, under (?i)
};

}  // namespace

std::string onig_to_pcre2(std::string_view pattern) {
  return Translator(pattern).run();
}

std::string quote_pattern(std::string_view text) {
  std::string out;
  size_t at = 0;
  while (at < text.size()) out += fmt::format("\\x{{{:x}}}", unicode::next_code_point(text, at));
  return out;
}

}  // namespace convoke
