// Numbers and quoted texts as Python writes and reads them.
#include <fmt/format.h>

#include <array>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "runtime/chat_template/python_text.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke::jinja::python {
namespace {

/// Digits without the underscores that Python allows between them; nullopt if one stands elsewhere.
std::optional<std::string> without_underscores(std::string_view text) {
  const auto alphanumeric = [&](size_t at) {
    return at < text.size() && std::isalnum(static_cast<unsigned char>(text[at])) != 0;
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out.push_back(text[i]);
    } else if (i == 0 || !alphanumeric(i - 1) || !alphanumeric(i + 1)) {
      return std::nullopt;
    }
  }
  return out;
}

std::string lower_ascii(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

/// Takes 0x, 0o or 0b away where `base` is theirs or 0; base 0 becomes the prefix's, or 10.
void take_prefix(std::string& digits, int& base) {
  const auto has = [&](char letter) {
    return digits.size() > 2 && digits[0] == '0' && std::tolower(digits[1]) == letter;
  };
  for (const auto& [letter, value] : {std::pair{'x', 16}, {'o', 8}, {'b', 2}}) {
    if ((base == 0 || base == value) && has(letter)) {
      digits.erase(0, 2);
      if (digits[0] == '_') digits.erase(0, 1);
      base = value;
      return;
    }
  }
  if (base == 0) base = 10;
}

}  // namespace

std::optional<int64_t> parse_integer(std::string_view text, int base) {
  text = strip(text, std::nullopt, true, true);
  std::string sign;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    if (text[0] == '-') sign = "-";
    text.remove_prefix(1);
  }
  std::string prefixed(text);
  take_prefix(prefixed, base);
  const auto digits = without_underscores(prefixed);
  if (!digits || digits->empty() || !std::isalnum(static_cast<unsigned char>((*digits)[0]))) {
    return std::nullopt;
  }
  if (base < 2 || base > 36) return std::nullopt;
  const std::string whole = sign + *digits;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(whole.data(), whole.data() + whole.size(), value, base);
  if (error != std::errc() || end != whole.data() + whole.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_float(std::string_view text) {
  text = strip(text, std::nullopt, true, true);
  auto digits = without_underscores(text);
  if (!digits) return std::nullopt;
  const bool negative = !digits->empty() && (*digits)[0] == '-';
  if (negative || (!digits->empty() && (*digits)[0] == '+')) digits->erase(0, 1);
  const std::string body = lower_ascii(*digits);
  const double sign = negative ? -1.0 : 1.0;
  if (body == "inf" || body == "infinity") return sign * HUGE_VAL;
  if (body == "nan") return std::nan("");
  if (body.empty() || (body[0] != '.' && std::isdigit(static_cast<unsigned char>(body[0])) == 0)) {
    return std::nullopt;
  }
  double value = 0;
  const auto [end, error] = std::from_chars(body.data(), body.data() + body.size(), value);
  if (end != body.data() + body.size()) return std::nullopt;
  if (error == std::errc::result_out_of_range) {
    return sign * std::strtod(body.c_str(), nullptr);  // infinity or zero
  }
  if (error != std::errc()) return std::nullopt;
  return sign * value;
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  std::array<char, 40> buffer;
  const auto result = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                    std::chars_format::scientific);
  const std::string_view shortest(buffer.data(), static_cast<size_t>(result.ptr - buffer.data()));
  const size_t e = shortest.find('e');
  int exponent = 0;
  const char* digits_of_exponent = shortest.data() + e + (shortest[e + 1] == '+' ? 2 : 1);
  std::from_chars(digits_of_exponent, shortest.data() + shortest.size(), exponent);
  // Python writes an exponent below 1e-4 and from 1e16 on.
  if (exponent < -4 || exponent >= 16) return std::string(shortest);
  std::string digits;
  for (const char c : shortest.substr(0, e)) {
    if (c != '.' && c != '-') digits.push_back(c);
  }
  std::string out = std::signbit(value) ? "-" : "";
  if (exponent < 0) {
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  }
  const size_t before = static_cast<size_t>(exponent) + 1;
  if (digits.size() < before) digits.append(before - digits.size(), '0');
  out += digits.substr(0, before) + ".";
  return out + (digits.size() > before ? digits.substr(before) : "0");
}

std::string quoted(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const uint32_t c = unicode::next_code_point(text, at);
    if (c == static_cast<uint32_t>(quote) || c == '\\') {
      out += {'\\', static_cast<char>(c)};
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (is_printable(c)) {
      out.append(text.substr(start, at - start));
    } else if (c < 0x100) {
      out += fmt::format("\\x{:02x}", c);
    } else if (c < 0x10000) {
      out += fmt::format("\\u{:04x}", c);
    } else {
      out += fmt::format("\\U{:08x}", c);
    }
  }
  return out + quote;
}

}  // namespace convoke::jinja::python
