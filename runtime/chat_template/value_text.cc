#include "runtime/chat_template/value_text.h"

#include <algorithm>
#include <cmath>

#include "runtime/chat_template/python_text.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke::jinja {
namespace {

void append_repr(Heap& heap, std::string& out, const Value& value);

void append(Heap& heap, std::string& out, std::string_view piece) {
  heap.charge(piece.size() + 1);
  out.append(piece);
}

void append_items(Heap& heap, std::string& out, const std::vector<Value>& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) append(heap, out, ", ");
    append_repr(heap, out, items[i]);
  }
}

void append_sequence(Heap& heap, std::string& out, const Value& value) {
  const Sequence& sequence = value.sequence();
  switch (sequence.type) {
    case SequenceType::kTuple:
      append(heap, out, "(");
      append_items(heap, out, sequence.items);
      append(heap, out, sequence.items.size() == 1 ? ",)" : ")");
      return;
    case SequenceType::kIterator:  // Python shows an address
      append(heap, out, "<generator object>");
      return;
    case SequenceType::kList:
      append(heap, out, "[");
      append_items(heap, out, sequence.items);
      append(heap, out, "]");
      return;
    default:
      append(heap, out, type_name(value) + "([");
      append_items(heap, out, sequence.items);
      append(heap, out, "])");
  }
}

/// Python prints the bounds of a range, of which only its members are kept.
std::string range_text(const std::vector<Value>& items) {
  if (items.empty()) return "range(0, 0)";
  const int64_t first = items.front().whole();
  const int64_t step = items.size() == 1 ? 1 : items[1].whole() - first;
  const int64_t end = items.back().whole() + (step < 0 ? -1 : 1);
  return step == 1 ? fmt::format("range({}, {})", first, end)
                   : fmt::format("range({}, {}, {})", first, end, step);
}

void append_dict(Heap& heap, std::string& out, const Dict& dict) {
  append(heap, out, "{");
  for (size_t i = 0; i < dict.entries.size(); ++i) {
    if (i > 0) append(heap, out, ", ");
    append_repr(heap, out, dict.entries[i].first);
    append(heap, out, ": ");
    append_repr(heap, out, dict.entries[i].second);
  }
  append(heap, out, "}");
}

void append_repr(Heap& heap, std::string& out, const Value& value) {
  const Heap::Level level(heap);
  switch (value.kind()) {
    case Kind::kUndefined:
      return append(heap, out, "Undefined");
    case Kind::kNone:
      return append(heap, out, "None");
    case Kind::kBool:
      return append(heap, out, value.boolean() ? "True" : "False");
    case Kind::kInt:
      return append(heap, out, std::to_string(value.whole()));
    case Kind::kFloat:
      return append(heap, out, python::float_text(value.number()));
    case Kind::kText:
      heap.charge(value.text().size());
      return append(heap, out, python::quoted(value.text()));
    case Kind::kSequence:
      if (value.sequence().type == SequenceType::kRange) {
        return append(heap, out, range_text(value.sequence().items));
      }
      return append_sequence(heap, out, value);
    case Kind::kDict:
      return append_dict(heap, out, value.dict());
    case Kind::kNamespace:
      append(heap, out, "<Namespace ");
      append_dict(heap, out, value.name_space().attributes);
      return append(heap, out, ">");
    case Kind::kCallable:
      return append(heap, out, value.callable().shown());
    case Kind::kLoop:
      return append(heap, out, "<LoopContext>");
  }
}

class JsonWriter {
 public:
  JsonWriter(Heap& heap, const JsonStyle& style) : heap_(heap), style_(style) {}

  void write(const Value& value) {
    const Heap::Level level(heap_);
    switch (value.kind()) {
      case Kind::kText:
        return quote(value.text());
      case Kind::kSequence:
        if (value.sequence().type == SequenceType::kList ||
            value.sequence().type == SequenceType::kTuple) {
          return list(value.sequence().items);
        }
        break;
      case Kind::kDict:
        return dict(value.dict());
      case Kind::kNone:
      case Kind::kBool:
      case Kind::kInt:
      case Kind::kFloat:
        return append(heap_, out_, scalar(value));
      default:
        break;
    }
    fault("Object of type {} is not JSON serializable", type_name(value));
  }

  std::string take() { return std::move(out_); }

 private:
  static std::string scalar(const Value& value) {
    switch (value.kind()) {
      case Kind::kNone:
        return "null";
      case Kind::kBool:
        return value.boolean() ? "true" : "false";
      case Kind::kInt:
        return std::to_string(value.whole());
      default:
        break;
    }
    const double number = value.number();
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number < 0 ? "-Infinity" : "Infinity";
    return python::float_text(number);
  }

  static std::string key_text(const Value& key) {
    if (key.is(Kind::kText)) return key.text();
    if (key.is(Kind::kNone) || key.is_number()) return scalar(key);
    fault("keys must be str, int, float, bool or None, not {}", type_name(key));
  }

  void new_line() {
    if (!style_.indented) return;
    heap_.charge(depth_, style_.indent.size() + 1);
    out_.push_back('\n');
    for (size_t i = 0; i < depth_; ++i) out_ += style_.indent;
  }

  void list(const std::vector<Value>& items) {
    if (items.empty()) return append(heap_, out_, "[]");
    append(heap_, out_, "[");
    ++depth_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) append(heap_, out_, style_.item_separator);
      new_line();
      write(items[i]);
    }
    --depth_;
    new_line();
    append(heap_, out_, "]");
  }

  std::vector<std::pair<Value, Value>> sorted(std::vector<std::pair<Value, Value>> entries) {
    std::stable_sort(entries.begin(), entries.end(), [&](const auto& a, const auto& b) {
      return order(heap_, a.first, b.first, "<") == -1;
    });
    return entries;
  }

  void dict(const Dict& dict) {
    if (dict.entries.empty()) return append(heap_, out_, "{}");
    append(heap_, out_, "{");
    ++depth_;
    bool first = true;
    heap_.charge(dict.entries.size(), 2 * sizeof(Value));
    for (const auto& [key, value] : style_.sort_keys ? sorted(dict.entries) : dict.entries) {
      if (!first) append(heap_, out_, style_.item_separator);
      first = false;
      new_line();
      quote(key_text(key));
      append(heap_, out_, style_.key_separator);
      write(value);
    }
    --depth_;
    new_line();
    append(heap_, out_, "}");
  }

  void quote(std::string_view text) {
    heap_.charge(text.size());
    out_.push_back('"');
    for (size_t at = 0; at < text.size();) {
      const size_t start = at;
      const uint32_t c = unicode::next_code_point(text, at);
      if (c == '"' || c == '\\') {
        out_ += {'\\', static_cast<char>(c)};
      } else if (c < 0x20 || (c >= 0x7F && style_.ascii)) {
        escape(c);
      } else {
        out_.append(text.substr(start, at - start));
      }
    }
    out_.push_back('"');
  }

  void escape(uint32_t c) {
    constexpr std::string_view kShort = "btn?fr";  // \v has none
    heap_.charge(12);
    if (c >= 8 && c <= 13 && c != 11) {
      out_ += {'\\', kShort[c - 8]};
    } else if (c < 0x10000) {
      out_ += fmt::format("\\u{:04x}", c);
    } else {
      const uint32_t rest = c - 0x10000;
      out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
    }
  }

  Heap& heap_;
  const JsonStyle& style_;
  std::string out_;
  size_t depth_ = 0;
};

}  // namespace

std::string to_text(Heap& heap, const Value& value) {
  if (value.is(Kind::kText)) {
    heap.charge(value.text().size());
    return value.text();
  }
  if (value.is(Kind::kUndefined)) return "";
  return to_repr(heap, value);
}

std::string to_repr(Heap& heap, const Value& value) {
  std::string out;
  append_repr(heap, out, value);
  return out;
}

std::string to_json(Heap& heap, const Value& value, const JsonStyle& style) {
  JsonWriter writer(heap, style);
  writer.write(value);
  return writer.take();
}

}  // namespace convoke::jinja
