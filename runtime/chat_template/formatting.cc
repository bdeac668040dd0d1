#include "runtime/chat_template/formatting.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <optional>

#include "runtime/chat_template/attributes.h"
#include "runtime/chat_template/python_text.h"
#include "runtime/chat_template/value_text.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke::jinja {
namespace {

constexpr int64_t kMostDigits = 400;  // more than a double has before its point

/// How one value is to be laid out; both pattern languages are read into this.
struct Layout {
  std::string fill = " ";
  char align = 0;  ///< one of < > ^ =; 0: as the type wants
  char sign = '-';
  bool alternate = false;
  bool grouped = false;
  int64_t width = 0;
  std::optional<int64_t> precision;
  char type = 0;
};

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

int64_t take_number(std::string_view text, size_t& at) {
  int64_t number = 0;
  for (; at < text.size() && is_digit(text[at]); ++at) {
    number = number * 10 + (text[at] - '0');
    if (number > INT32_MAX) fault("Too many decimal digits in format string");
  }
  return number;
}

std::string padded(Heap& heap, const std::string& body, const Layout& layout, char otherwise) {
  const auto size = static_cast<int64_t>(python::length(body));
  if (layout.width <= size) return body;
  const auto missing = static_cast<size_t>(layout.width - size);
  heap.charge(missing, layout.fill.size());
  const char align = layout.align == 0 ? otherwise : layout.align;
  const size_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  const size_t at = align == '=' && !body.empty() && (body[0] == '-' || body[0] == '+') ? 1 : 0;
  std::string out = body.substr(0, at);
  for (size_t i = 0; i < left; ++i) out += layout.fill;
  out += body.substr(at);
  for (size_t i = left; i < missing; ++i) out += layout.fill;
  return out;
}

std::string text_layout(Heap& heap, std::string_view text, const Layout& layout) {
  if (layout.precision) {
    const auto most = static_cast<size_t>(*layout.precision);
    if (python::length(text) > most) text = text.substr(0, python::byte_offset(text, most));
  }
  return padded(heap, std::string(text), layout, '<');
}

std::string with_groups(std::string digits) {
  const size_t end = std::min(digits.find_first_not_of("0123456789"), digits.size());
  for (size_t at = end; at > 3; at -= 3) digits.insert(at - 3, 1, ',');
  return digits;
}

std::string signed_body(bool negative, std::string digits, const Layout& layout) {
  if (layout.grouped) digits = with_groups(std::move(digits));
  if (negative) return "-" + digits;
  return (layout.sign == '-' ? "" : std::string(1, layout.sign)) + digits;
}

std::string integer_digits(uint64_t magnitude, const Layout& layout) {
  switch (layout.type) {
    case 'x':
      return fmt::format("{}{:x}", layout.alternate ? "0x" : "", magnitude);
    case 'X':
      return fmt::format("{}{:X}", layout.alternate ? "0X" : "", magnitude);
    case 'o':
      return fmt::format("{}{:o}", layout.alternate ? "0o" : "", magnitude);
    case 'b':
      return fmt::format("{}{:b}", layout.alternate ? "0b" : "", magnitude);
    default:
      return std::to_string(magnitude);
  }
}

std::string integer_layout(Heap& heap, int64_t value, const Layout& layout) {
  const bool negative = value < 0;
  const uint64_t magnitude =
      negative ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  std::string digits = integer_digits(magnitude, layout);
  const int64_t precision = layout.precision.value_or(0);
  if (precision > kMostDigits) fault("precision {} of a number is too large", precision);
  const auto least = static_cast<size_t>(precision);
  if (digits.size() < least) digits.insert(0, least - digits.size(), '0');
  return padded(heap, signed_body(negative, digits, layout), layout, '>');
}

std::string float_digits(double magnitude, const Layout& layout) {
  if (std::isnan(magnitude)) return std::isupper(layout.type) != 0 ? "NAN" : "nan";
  if (std::isinf(magnitude)) return std::isupper(layout.type) != 0 ? "INF" : "inf";
  if (layout.type == 0 && !layout.precision) return python::float_text(magnitude);
  const int64_t precision = layout.precision.value_or(6);
  if (precision > kMostDigits) fault("precision {} of a number is too large", precision);
  const bool percent = layout.type == '%';
  const char type = percent ? 'f' : layout.type == 0 ? 'g' : layout.type;
  const std::string pattern = fmt::format("%{}.*{}", layout.alternate ? "#" : "", type);
  std::array<char, 1024> buffer;
  const int size =
      std::snprintf(buffer.data(), buffer.size(), pattern.c_str(), static_cast<int>(precision),
                    percent ? magnitude * 100 : magnitude);
  return std::string(buffer.data(), static_cast<size_t>(size)) + (percent ? "%" : "");
}

std::string float_layout(Heap& heap, double value, const Layout& layout) {
  const bool negative = std::signbit(value) && !std::isnan(value);
  return padded(heap, signed_body(negative, float_digits(std::fabs(value), layout), layout), layout,
                '>');
}

bool is_one_of(char c, std::string_view set) {
  return c != 0 && set.find(c) != std::string_view::npos;
}

/// format(value, spec) once the spec is read.
std::string laid_out(Heap& heap, const Value& value, const Layout& layout) {
  if (value.is_whole() && is_one_of(layout.type, "eEfFgG%")) {
    return float_layout(heap, value.number(), layout);
  }
  if (value.is(Kind::kInt) || (value.is(Kind::kBool) && layout.type != 0)) {
    if (layout.type != 0 && !is_one_of(layout.type, "dxXob")) {
      fault("Unknown format code '{}' for object of type 'int'", layout.type);
    }
    if (layout.precision) fault("Precision not allowed in integer format specifier");
    return integer_layout(heap, value.whole(), layout);
  }
  if (value.is(Kind::kFloat)) {
    if (layout.type != 0 && !is_one_of(layout.type, "eEfFgG%")) {
      fault("Unknown format code '{}' for object of type 'float'", layout.type);
    }
    return float_layout(heap, value.number(), layout);
  }
  if (layout.type != 0 && layout.type != 's') {
    fault("Unknown format code '{}' for object of type '{}'", layout.type, type_name(value));
  }
  if (layout.align == '=') fault("'=' alignment not allowed in string format specifier");
  return text_layout(heap, to_text(heap, value), layout);
}

Layout read_spec(std::string_view spec) {
  Layout layout;
  size_t at = 0;
  const auto next = [&] { return at < spec.size() ? spec[at] : '\0'; };
  if (!spec.empty()) {
    const size_t bytes = unicode::character_bytes(spec[0]);
    if (bytes < spec.size() && is_one_of(spec[bytes], "<>^=")) {
      layout.fill = spec.substr(0, bytes);
      layout.align = spec[bytes];
      at = bytes + 1;
    } else if (is_one_of(spec[0], "<>^=")) {
      layout.align = spec[at++];
    }
  }
  if (is_one_of(next(), "+- ")) layout.sign = spec[at++];
  if (next() == '#') layout.alternate = ++at > 0;
  if (next() == '0') {
    if (layout.align == 0) {
      layout.align = '=';
      layout.fill.assign(1, '0');
    }
    ++at;
  }
  layout.width = take_number(spec, at);
  if (next() == ',') layout.grouped = ++at > 0;
  if (next() == '.') {
    ++at;
    if (!is_digit(next())) fault("Format specifier missing precision");
    layout.precision = take_number(spec, at);
  }
  if (at < spec.size()) layout.type = spec[at++];
  if (at != spec.size()) fault("Invalid format specifier '{}'", spec);
  return layout;
}

class PercentFormat {
 public:
  PercentFormat(Heap& heap, const std::string& pattern, const Value& argument)
      : heap_(heap), pattern_(pattern), argument_(argument) {}

  std::string run() {
    std::string out;
    while (at_ < pattern_.size()) {
      const size_t percent = std::min(pattern_.find('%', at_), pattern_.size());
      out.append(pattern_, at_, percent - at_);
      at_ = percent;
      if (percent < pattern_.size()) {
        ++at_;
        out += directive();
      }
      heap_.charge(1);
    }
    const bool tuple = is_sequence(argument_, SequenceType::kTuple);
    const size_t given = tuple ? argument_.sequence().items.size() : 1;
    // As in Python, what has items by key counts as a mapping, from which nothing need be taken.
    const bool mapping =
        argument_.is(Kind::kDict) || (argument_.is(Kind::kSequence) && !tuple &&
                                      argument_.sequence().type <= SequenceType::kRange);
    if (used_ < given && !mapping) {
      fault("not all arguments converted during string formatting");
    }
    return out;
  }

 private:
  char next() const { return at_ < pattern_.size() ? pattern_[at_] : '\0'; }

  const Value& take() {
    const bool tuple = is_sequence(argument_, SequenceType::kTuple);
    const size_t given = tuple ? argument_.sequence().items.size() : 1;
    if (used_ >= given) fault("not enough arguments for format string");
    return tuple ? argument_.sequence().items[used_++] : (++used_, argument_);
  }

  const Value& named() {
    if (!argument_.is(Kind::kDict)) fault("format requires a mapping");
    const size_t end = pattern_.find(')', at_);
    if (end == std::string::npos) fault("incomplete format key");
    const std::string name = pattern_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    const Value* value = argument_.dict().find(heap_, name);
    if (value == nullptr) fault("KeyError: '{}'", name);
    return *value;
  }

  int64_t number_or_star() {
    if (next() != '*') return take_number(pattern_, at_);
    ++at_;
    const Value& value = take();
    if (!value.is_whole()) fault("* wants int");
    if (value.whole() > INT32_MAX || value.whole() < INT32_MIN) fault("width too big");
    return value.whole();
  }

  std::string directive() {
    const Value* value = next() == '(' ? &named() : nullptr;
    Layout layout;
    bool zero = false, left = false;
    for (; is_one_of(next(), "-+ #0"); ++at_) {
      left |= next() == '-';
      zero |= next() == '0';
      layout.alternate |= next() == '#';
      if (next() == '+' || (next() == ' ' && layout.sign != '+')) layout.sign = next();
    }
    layout.width = number_or_star();
    if (layout.width < 0) {
      left = true;
      layout.width = -layout.width;
    }
    if (next() == '.') {
      ++at_;
      layout.precision = std::max<int64_t>(number_or_star(), 0);
    }
    while (is_one_of(next(), "hlL")) ++at_;
    const char type = next();
    if (type == 0) fault("incomplete format");
    ++at_;
    if (type == '%') return "%";
    const bool number = is_one_of(type, "diuoxXeEfFgG");
    layout.align = left ? '<' : zero && number ? '=' : '>';
    if (zero && !left && number) layout.fill.assign(1, '0');
    return converted(type, value != nullptr ? *value : take(), layout);
  }

  std::string converted(char type, const Value& value, Layout layout) {
    if (type == 's') return text_layout(heap_, to_text(heap_, value), layout);
    if (type == 'r' || type == 'a') return text_layout(heap_, to_repr(heap_, value), layout);
    if (type == 'c') return text_layout(heap_, character(value), layout);
    if (!is_one_of(type, "diuoxXeEfFgG")) {
      fault("unsupported format character '{}' (0x{:x})", type, static_cast<uint8_t>(type));
    }
    if (value.is(Kind::kUndefined)) fault("{}", value.text());
    const bool real = is_one_of(type, "eEfFgG");
    const bool cuts = is_one_of(type, "diu") && value.is(Kind::kFloat);
    if (!(real ? value.is_number() : value.is_whole() || cuts)) {
      fault("%{} format: a {} is required, not {}", type, real ? "real number" : "number",
            type_name(value));
    }
    layout.type = is_one_of(type, "iu") ? 'd' : type;
    if (real) return float_layout(heap_, value.number(), layout);
    return integer_layout(heap_, cuts ? cut(value.number()) : value.whole(), layout);
  }

  static int64_t cut(double value) {
    if (!(std::fabs(value) < 0x1p63)) fault("cannot convert float to 64-bit integer");
    return static_cast<int64_t>(value);
  }

  std::string character(const Value& value) const {
    std::string out;
    if (value.is(Kind::kText) && python::length(value.text()) == 1) return value.text();
    const bool code = value.is_whole() && value.whole() >= 0 && value.whole() < 0x110000 &&
                      (value.whole() < 0xD800 || value.whole() > 0xDFFF);
    if (!code) fault("%c requires int or char");
    unicode::append_code_point(out, static_cast<uint32_t>(value.whole()));
    return out;
  }

  Heap& heap_;
  const std::string& pattern_;
  const Value& argument_;
  size_t at_ = 0;
  size_t used_ = 0;
};

class BraceFormat {
 public:
  BraceFormat(Heap& heap, const Arguments& arguments) : heap_(heap), arguments_(arguments) {}

  std::string run(std::string_view pattern, int depth) {
    if (depth > 2) fault("Max string recursion exceeded");
    std::string out;
    for (size_t at = 0; at < pattern.size();) {
      heap_.charge(1);
      const char c = pattern[at++];
      if (c != '{' && c != '}') {
        out.push_back(c);
      } else if (at < pattern.size() && pattern[at] == c) {
        out.push_back(c);
        ++at;
      } else if (c == '}') {
        fault("Single '}}' encountered in format string");
      } else {
        out += field(take_field(pattern, at), depth);
      }
    }
    return out;
  }

 private:
  static std::string_view take_field(std::string_view pattern, size_t& at) {
    const size_t begin = at;
    for (int open = 1; at < pattern.size(); ++at) {
      if (pattern[at] == '{') ++open;
      if (pattern[at] == '}' && --open == 0) return pattern.substr(begin, at++ - begin);
    }
    fault("expected '}}' before end of string");
  }

  std::string field(std::string_view text, int depth) {
    const size_t end = std::min(text.find_first_of("!:"), text.size());
    const Value value = lookup(text.substr(0, end));
    std::string_view rest = text.substr(end);
    char conversion = 0;
    if (!rest.empty() && rest[0] == '!') {
      if (rest.size() < 2 || !is_one_of(rest[1], "rsa")) fault("Unknown conversion specifier");
      conversion = rest[1];
      rest.remove_prefix(2);
      if (!rest.empty() && rest[0] != ':') fault("expected ':' after conversion specifier");
    }
    const std::string spec = rest.empty() ? "" : run(rest.substr(1), depth + 1);
    if (conversion == 's')
      return laid_out(heap_, heap_.text(to_text(heap_, value)), read_spec(spec));
    if (conversion != 0) return laid_out(heap_, heap_.text(to_repr(heap_, value)), read_spec(spec));
    if (spec.empty()) return to_text(heap_, value);
    return laid_out(heap_, value, read_spec(spec));
  }

  Value first(std::string_view name) {
    const bool number = std::all_of(name.begin(), name.end(), is_digit);
    if (!number) {
      for (const auto& [key, value] : arguments_.named) {
        if (key == name) return value;
      }
      fault("KeyError: '{}'", name);
    }
    size_t at = 0;
    if (name.empty() ? counts_ == 2 : counts_ == 1) {
      fault("cannot switch between automatic and manual field numbering");
    }
    counts_ = name.empty() ? 1 : 2;
    const size_t index = name.empty() ? next_++ : static_cast<size_t>(take_number(name, at));
    if (index >= arguments_.positional.size()) {
      fault("Replacement index {} out of range for positional args tuple", index);
    }
    return arguments_.positional[index];
  }

  /// name.attribute[item]...
  Value lookup(std::string_view path) {
    size_t at = std::min(path.find_first_of(".["), path.size());
    Value value = first(path.substr(0, at));
    while (at < path.size()) {
      const bool item = path[at++] == '[';
      const size_t end =
          std::min(item ? path.find(']', at) : path.find_first_of(".[", at), path.size());
      if (item && end == path.size()) fault("Missing ']' in format string");
      const std::string name(path.substr(at, end - at));
      if (name.empty()) fault("Empty attribute in format string");
      const bool index = item && std::all_of(name.begin(), name.end(), is_digit);
      size_t digit = 0;
      if (item) {
        value = get_item(heap_, value,
                         index ? Value::integer(take_number(name, digit)) : heap_.text(name));
      } else {
        value = get_attribute(heap_, value, name);
      }
      at = item ? end + 1 : end;
      if (item && at < path.size() && path[at] != '.' && path[at] != '[') {
        fault("Only '.' or '[' may follow ']' in format field specifier");
      }
    }
    return value;
  }

  Heap& heap_;
  const Arguments& arguments_;
  size_t next_ = 0;
  int counts_ = 0;  ///< 1: fields are numbered by us, 2: by the pattern
};

}  // namespace

Value percent_format(Heap& heap, const Value& pattern, const Value& argument) {
  return heap.text(PercentFormat(heap, pattern.text(), argument).run());
}

Value brace_format(Heap& heap, const std::string& pattern, const Arguments& arguments) {
  return heap.text(BraceFormat(heap, arguments).run(pattern, 0));
}

}  // namespace convoke::jinja
