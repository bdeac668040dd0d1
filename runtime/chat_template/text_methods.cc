// Methods of str.
#include <algorithm>
#include <unordered_map>

#include "runtime/chat_template/formatting.h"
#include "runtime/chat_template/interpreter.h"
#include "runtime/chat_template/library.h"
#include "runtime/chat_template/python_text.h"
#include "runtime/chat_template/value_text.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke::jinja {
namespace {

constexpr size_t kNowhere = std::string_view::npos;

Value texts(Interpreter& interpreter, const std::vector<std::string_view>& pieces) {
  std::vector<Value> out;
  for (const std::string_view piece : pieces) out.push_back(interpreter.text(std::string(piece)));
  return interpreter.heap().list(std::move(out));
}

template <bool kLeft, bool kRight>
Value strip(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("strip", arguments, {""});
  std::optional<std::string_view> characters;
  if (given.has(0)) {
    characters = given.text(0);
    interpreter.heap().charge(self.text().size(), 1 + characters->size() / 16);
  }
  return interpreter.text(std::string(python::strip(self.text(), characters, kLeft, kRight)));
}

template <bool kFromRight>
Value split(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("split", arguments, {"sep", "maxsplit"});
  const int64_t most = given.integer(1, -1);
  std::optional<std::string_view> separator;
  if (given.has(0)) {
    separator = given.text(0);
    if (separator->empty()) fault("empty separator");
  }
  const std::string_view text = self.text();
  const size_t limit = most < 0 ? python::kNoLimit : static_cast<size_t>(most);
  // Pieces are listed before they become values, so they are paid for here as well.
  interpreter.heap().charge(separator ? python::count(text, *separator) + 1 : text.size() / 2 + 1,
                            sizeof(std::string_view));
  return texts(interpreter, kFromRight ? python::rsplit(text, separator, limit)
                                       : python::split(text, separator, limit));
}

Value split_lines(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("splitlines", arguments, {"keepends"});
  interpreter.heap().charge(self.text().size(), sizeof(std::string_view));
  return texts(interpreter, python::split_lines(self.text(), given.flag(0)));
}

/// self[start:end] for methods that take these two.
Value part(Interpreter& interpreter, const Value& self, const Signature& given, size_t first) {
  if (!given.given(first) && !given.given(first + 1)) return self;
  const Value none;
  return sliced(interpreter.heap(), self, given.given(first) ? *given[first] : none,
                given.given(first + 1) ? *given[first + 1] : none, none);
}

template <bool kEnd>
Value begins(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given(kEnd ? "endswith" : "startswith", arguments, {"", "", ""}, 1);
  const Value within = part(interpreter, self, given, 1);
  const std::string_view text = within.text();
  const auto matches = [&](const std::string& affix) {
    if (affix.size() > text.size()) return false;
    return text.substr(kEnd ? text.size() - affix.size() : 0, affix.size()) == affix;
  };
  if (!is_sequence(*given[0], SequenceType::kTuple)) {
    return Value::boolean(matches(given.text(0)));
  }
  for (const Value& affix : given[0]->sequence().items) {
    if (!affix.is(Kind::kText)) fault("a tuple of affixes must hold str, not {}", type_name(affix));
    interpreter.heap().charge(affix.text().size() + 1);
    if (matches(affix.text())) return Value::boolean(true);
  }
  return Value::boolean(false);
}

Value replace(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("replace", arguments, {"", "", ""}, 2);
  const std::string &from = given.text(0), &to = given.text(1);
  const int64_t most = given.integer(2, -1);
  size_t times = python::count(self.text(), from);
  if (most >= 0) times = std::min(times, static_cast<size_t>(most));
  interpreter.heap().charge(self.text().size());
  interpreter.heap().charge(times, to.size());
  return interpreter.text(python::replace(self.text(), from, to, times));
}

template <std::string (*kChange)(std::string_view)>
Value changed(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("method", arguments, {});
  return interpreter.text(kChange(self.text()));
}

/// Index in code points of the first or last occurrence, -1 if there is none.
template <bool kLast>
int64_t found(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("find", arguments, {"", "", ""}, 1);
  const std::string& needle = given.text(0);
  const Value within = part(interpreter, self, given, 1);
  interpreter.heap().charge(self.text().size());
  const size_t at =
      kLast ? python::rfind(within.text(), needle) : python::find(within.text(), needle);
  if (at == kNowhere) return -1;
  int64_t skipped = 0;
  if (given.has(1)) {
    const int64_t size = length(self), start = given.integer(1, 0);
    skipped = start < 0 ? std::max<int64_t>(start + size, 0) : start;
    if (skipped > size) return -1;
  }
  return skipped + static_cast<int64_t>(python::length(within.text().substr(0, at)));
}

template <bool kLast>
Value find(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  return Value::integer(found<kLast>(interpreter, self, arguments));
}

template <bool kLast>
Value index(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const int64_t at = found<kLast>(interpreter, self, arguments);
  if (at < 0) fault("substring not found");
  return Value::integer(at);
}

Value count(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("count", arguments, {"", "", ""}, 1);
  const Value within = part(interpreter, self, given, 1);
  interpreter.heap().charge(self.text().size());
  return Value::integer(static_cast<int64_t>(python::count(within.text(), given.text(0))));
}

Value join(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("join", arguments, {""}, 1);
  std::string out;
  bool first = true;
  size_t at = 0;
  for (const Value& item : items_of(interpreter.heap(), *given[0])) {
    if (!item.is(Kind::kText)) {
      fault("sequence item {}: expected str instance, {} found", at, type_name(item));
    }
    interpreter.heap().charge(self.text().size() + item.text().size());
    if (!first) out += self.text();
    out += item.text();
    first = false;
    ++at;
  }
  return interpreter.text(std::move(out));
}

Value format(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  return brace_format(interpreter.heap(), self.text(), arguments);
}

template <bool (*kIs)(uint32_t)>
Value all_are(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("method", arguments, {});
  interpreter.heap().charge(self.text().size());
  bool all = !self.text().empty();
  for (size_t at = 0; at < self.text().size() && all;) {
    all = kIs(unicode::next_code_point(self.text(), at));
  }
  return Value::boolean(all);
}

bool is_alphanumeric(uint32_t c) {
  return python::is_alphabetic(c) || python::is_numeric(c);
}

template <bool (*kIs)(std::string_view)>
Value is_whole(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("method", arguments, {});
  interpreter.heap().charge(self.text().size());
  return Value::boolean(kIs(self.text()));
}

Value is_ascii(Interpreter&, const Value& self, Arguments& arguments) {
  const Signature given("isascii", arguments, {});
  return Value::boolean(self.ascii());
}

template <bool kEnd>
Value without_affix(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("removeprefix", arguments, {""}, 1);
  std::string_view text = self.text();
  const std::string& affix = given.text(0);
  const bool there = affix.size() <= text.size() &&
                     text.substr(kEnd ? text.size() - affix.size() : 0, affix.size()) == affix;
  if (there) text = text.substr(kEnd ? 0 : affix.size(), text.size() - affix.size());
  return interpreter.text(std::string(text));
}

enum class Side { kLeft, kCenter, kRight };

template <Side kSide>
Value justified(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("justify", arguments, {"", ""}, 1);
  const int64_t size = length(self), width = given.integer(0, 0);
  const std::string fill = given.given(1) ? given.text(1) : " ";
  if (python::length(fill) != 1) fault("The fill character must be exactly one character long");
  if (width <= size) return self;
  const auto missing = static_cast<size_t>(width - size);
  interpreter.heap().charge(missing, fill.size());
  // Python puts the odd one left where the width is odd.
  const size_t left = kSide == Side::kLeft ? 0
                      : kSide == Side::kRight
                          ? missing
                          : missing / 2 + (missing & static_cast<size_t>(width) & 1);
  std::string out;
  for (size_t i = 0; i < left; ++i) out += fill;
  out += self.text();
  for (size_t i = left; i < missing; ++i) out += fill;
  return interpreter.text(std::move(out));
}

Value zero_filled(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("zfill", arguments, {""}, 1);
  const int64_t missing = given.integer(0, 0) - length(self);
  if (missing <= 0) return self;
  interpreter.heap().charge(static_cast<uint64_t>(missing));
  std::string out = self.text();
  const bool sign = !out.empty() && (out[0] == '-' || out[0] == '+');
  out.insert(sign ? 1 : 0, static_cast<size_t>(missing), '0');
  return interpreter.text(std::move(out));
}

template <bool kLast>
Value partition(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("partition", arguments, {""}, 1);
  const std::string& separator = given.text(0);
  if (separator.empty()) fault("empty separator");
  const std::string& text = self.text();
  interpreter.heap().charge(text.size());
  const size_t at = kLast ? python::rfind(text, separator) : python::find(text, separator);
  const auto piece = [&](size_t begin, size_t size) {
    return interpreter.text(text.substr(begin, size));
  };
  std::vector<Value> parts;
  if (at != kNowhere) {
    parts = {piece(0, at), given[0][0], piece(at + separator.size(), kNowhere)};
  } else if (kLast) {
    parts = {piece(0, 0), piece(0, 0), self};
  } else {
    parts = {self, piece(0, 0), piece(0, 0)};
  }
  return interpreter.heap().tuple(std::move(parts));
}

}  // namespace

Method find_text_method(std::string_view name) {
  static const std::unordered_map<std::string_view, Method> table = {
      {"capitalize", changed<python::capitalize>},
      {"center", justified<Side::kCenter>},
      {"count", count},
      {"endswith", begins<true>},
      {"find", find<false>},
      {"format", format},
      {"index", index<false>},
      {"isalnum", all_are<is_alphanumeric>},
      {"isalpha", all_are<python::is_alphabetic>},
      {"isascii", is_ascii},
      {"isdecimal", all_are<python::is_decimal>},
      {"isdigit", all_are<python::is_digit>},
      {"islower", is_whole<python::is_lower>},
      {"isnumeric", all_are<python::is_numeric>},
      {"isspace", all_are<python::is_space>},
      {"isupper", is_whole<python::is_upper>},
      {"join", join},
      {"ljust", justified<Side::kLeft>},
      {"lower", changed<python::lower>},
      {"lstrip", strip<true, false>},
      {"partition", partition<false>},
      {"removeprefix", without_affix<false>},
      {"removesuffix", without_affix<true>},
      {"replace", replace},
      {"rfind", find<true>},
      {"rindex", index<true>},
      {"rjust", justified<Side::kRight>},
      {"rpartition", partition<true>},
      {"rsplit", split<true>},
      {"rstrip", strip<false, true>},
      {"split", split<false>},
      {"splitlines", split_lines},
      {"startswith", begins<false>},
      {"strip", strip<true, true>},
      {"swapcase", changed<python::swap_case>},
      {"title", changed<python::title>},
      {"upper", changed<python::upper>},
      {"zfill", zero_filled},
  };
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

}  // namespace convoke::jinja
