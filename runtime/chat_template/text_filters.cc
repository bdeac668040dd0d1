// Filters that make texts.
#include <algorithm>

#include "runtime/chat_template/formatting.h"
#include "runtime/chat_template/interpreter.h"
#include "runtime/chat_template/library.h"
#include "runtime/chat_template/python_text.h"
#include "runtime/chat_template/value_text.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke::jinja {
namespace {

template <std::string (*kChange)(std::string_view)>
Value changed(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("filter", arguments, {});
  return interpreter.text(kChange(to_text(interpreter.heap(), value)));
}

/// Words begin after white space, dashes and opening brackets.
std::string title(std::string_view text) {
  const auto separates = [](uint32_t c) {
    return python::is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  };
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t begin = at;
    while (at < text.size()) {
      size_t next = at;
      if (!separates(unicode::next_code_point(text, next))) break;
      at = next;
    }
    out.append(text.substr(begin, at - begin));
    begin = at;
    while (at < text.size()) {
      size_t next = at;
      if (separates(unicode::next_code_point(text, next))) break;
      at = next;
    }
    if (begin == at) continue;
    const size_t first = unicode::character_bytes(text[begin]);
    out += python::upper(text.substr(begin, first));
    out += python::lower(text.substr(begin + first, at - begin - first));
  }
  return out;
}

Value trim(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("trim", arguments, {"chars"});
  const std::string text = to_text(interpreter.heap(), value);
  std::optional<std::string_view> characters;
  if (given.has(0)) {
    characters = given.text(0);
    interpreter.heap().charge(text.size(), 1 + characters->size() / 16);
  }
  return interpreter.text(std::string(python::strip(text, characters, true, true)));
}

Value replace(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("replace", arguments, {"old", "new", "count"}, 2);
  Heap& heap = interpreter.heap();
  const std::string text = to_text(heap, value), from = to_text(heap, *given[0]),
                    to = to_text(heap, *given[1]);
  size_t times = python::count(text, from);
  const int64_t most = given.has(2) ? given.integer(2, -1) : -1;
  if (most >= 0) times = std::min(times, static_cast<size_t>(most));
  heap.charge(times, to.size());
  return interpreter.text(python::replace(text, from, to, times));
}

Value string(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("string", arguments, {});
  return interpreter.text(to_text(interpreter.heap(), value));
}

/// HTML escapes. Nothing here escapes on its own, so a text marked safe is a plain text.
Value escape(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("escape", arguments, {});
  std::string out;
  for (const char c : to_text(interpreter.heap(), value)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out.push_back(c);
    }
  }
  return interpreter.text(std::move(out));
}

Value indent(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("indent", arguments, {"width", "first", "blank"});
  Heap& heap = interpreter.heap();
  if (value.is(Kind::kUndefined)) fault("{}", value.text());
  if (!value.is(Kind::kText)) fault("indent wants a text, not {}", type_name(value));
  std::string by;
  if (given.given(0) && given[0]->is(Kind::kText)) {
    by = given[0]->text();
  } else {
    const int64_t width = std::max<int64_t>(given.integer(0, 4), 0);
    heap.charge(static_cast<uint64_t>(width));
    by.assign(static_cast<size_t>(width), ' ');
  }
  const bool first = given.flag(1), blank = given.flag(2);
  heap.charge(value.text().size(), sizeof(std::string_view));
  const std::string text = value.text() + "\n";  // so that a last empty line counts as one
  std::string out;
  bool begin = true;
  for (const std::string_view line : python::split_lines(text, false)) {
    if (!begin) out += "\n";
    if (begin ? first : blank || !line.empty()) {
      heap.charge(by.size());
      out += by;
    }
    out += line;
    begin = false;
  }
  return interpreter.text(std::move(out));
}

Value format(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  Heap& heap = interpreter.heap();
  if (!arguments.named.empty() && !arguments.positional.empty()) {
    fault("can't handle positional and keyword arguments at the same time");
  }
  const Value pattern = interpreter.text(to_text(heap, value));
  if (arguments.named.empty()) {
    return percent_format(heap, pattern, heap.tuple(arguments.positional));
  }
  Dict* dict = heap.dict();
  for (const auto& [name, argument] : arguments.named) dict->set(heap, heap.text(name), argument);
  return percent_format(heap, pattern, Heap::value(dict));
}

Value center(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("center", arguments, {"width"});
  Arguments width;
  width.positional.push_back(given.given(0) ? *given[0] : Value::integer(80));
  const Value text = interpreter.text(to_text(interpreter.heap(), value));
  return find_text_method("center")(interpreter, text, width);
}

Value truncate(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("truncate", arguments, {"length", "killwords", "end", "leeway"});
  const int64_t most = given.integer(0, 255), leeway = given.has(3) ? given.integer(3, 5) : 5;
  const std::string end = given.given(2) ? given.text(2) : "...";
  const auto tail = static_cast<int64_t>(python::length(end));
  if (most < tail) fault("expected length >= {}, got {}", tail, most);
  if (leeway < 0) fault("expected leeway >= 0, got {}", leeway);
  const int64_t size = length(value);
  if (size <= most || size - most <= leeway) return value;
  if (!value.is(Kind::kText)) fault("truncate wants a text, not {}", type_name(value));
  interpreter.heap().charge(value.text().size());
  std::string_view kept = value.text();
  kept = kept.substr(0, python::byte_offset(kept, static_cast<size_t>(most - tail)));
  if (!given.flag(1)) kept = kept.substr(0, std::min(kept.rfind(' '), kept.size()));
  return interpreter.text(std::string(kept) + end);
}

Value word_count(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("wordcount", arguments, {});
  const std::string text = to_text(interpreter.heap(), value);
  int64_t words = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const bool word = unicode::is_word(unicode::next_code_point(text, at));
    if (word && !inside) ++words;
    inside = word;
  }
  return Value::integer(words);
}

JsonStyle json_style(Interpreter& interpreter, const Signature& given) {
  JsonStyle style;
  style.ascii = given.flag(0);
  style.sort_keys = given.flag(3);
  if (given.has(1)) {
    style.indented = true;
    style.item_separator.assign(1, ',');
    if (given[1]->is(Kind::kText)) {
      style.indent = given[1]->text();
    } else {
      const int64_t width = std::max<int64_t>(given.integer(1, 0), 0);
      interpreter.heap().charge(static_cast<uint64_t>(width));
      style.indent.assign(static_cast<size_t>(width), ' ');
    }
  }
  if (given.has(2)) {
    const std::vector<Value> both = items_of(interpreter.heap(), *given[2]);
    if (both.size() != 2 || !both[0].is(Kind::kText) || !both[1].is(Kind::kText)) {
      fault("tojson(): separators must be two texts");
    }
    style.item_separator = both[0].text();
    style.key_separator = both[1].text();
  }
  return style;
}

Value to_json_filter(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  return interpreter.text(to_json(interpreter.heap(), value, json_style(interpreter, given)));
}

Value join(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("join", arguments, {"d", "attribute"});
  Heap& heap = interpreter.heap();
  const std::string between = given.given(0) ? to_text(heap, *given[0]) : "";
  Value from = value;
  if (given.has(1)) {
    Arguments attribute;
    attribute.named.emplace_back("attribute", *given[1]);
    from = find_filter("map")(interpreter, value, attribute);
  }
  std::string out;
  bool first = true;
  for (const Value& item : items_of(heap, from)) {
    heap.charge(between.size());
    if (!first) out += between;
    out += to_text(heap, item);
    first = false;
  }
  return interpreter.text(std::move(out));
}

}  // namespace

const std::vector<NamedFilter>& text_filters() {
  static const std::vector<NamedFilter> table = {{"capitalize", changed<python::capitalize>},
                                                 {"center", center},
                                                 {"e", escape},
                                                 {"escape", escape},
                                                 {"format", format},
                                                 {"indent", indent},
                                                 {"join", join},
                                                 {"lower", changed<python::lower>},
                                                 {"replace", replace},
                                                 {"safe", string},
                                                 {"string", string},
                                                 {"title", changed<title>},
                                                 {"tojson", to_json_filter},
                                                 {"trim", trim},
                                                 {"truncate", truncate},
                                                 {"upper", changed<python::upper>},
                                                 {"wordcount", word_count}};
  return table;
}

}  // namespace convoke::jinja
