#include "runtime/chat_template/attributes.h"

#include <algorithm>
#include <array>

#include "runtime/chat_template/interpreter.h"
#include "runtime/chat_template/library.h"
#include "runtime/chat_template/python_text.h"
#include "runtime/chat_template/value_text.h"

namespace convoke::jinja {
namespace {

/// A method with the value that it was taken from.
struct BoundMethod : Callable {
  BoundMethod(Value s, Method m) : self(std::move(s)), method(m) {}
  Value call(Interpreter& interpreter, Arguments& arguments) override {
    return method(interpreter, self, arguments);
  }
  std::string shown() const override {
    return "<built-in method of " + type_name(self) + " object>";
  }
  Value self;
  Method method;
};

Method find_method(const Value& object, std::string_view name) {
  switch (object.kind()) {
    case Kind::kText:
      return find_text_method(name);
    case Kind::kSequence:
      return find_sequence_method(object.sequence().type, name);
    case Kind::kDict:
      return find_dict_method(name);
    default:
      return nullptr;
  }
}

/// Methods that would change a list or dict, which the sandbox of transformers keeps from
/// templates.
bool is_forbidden(const Value& object, std::string_view name) {
  constexpr std::array<std::string_view, 5> kOfDicts = {"clear", "pop", "popitem", "setdefault",
                                                        "update"};
  constexpr std::array<std::string_view, 8> kOfLists = {"append", "clear", "pop",    "reverse",
                                                        "insert", "sort",  "extend", "remove"};
  if (object.is(Kind::kDict)) {
    return std::find(kOfDicts.begin(), kOfDicts.end(), name) != kOfDicts.end();
  }
  return is_sequence(object, SequenceType::kList) &&
         std::find(kOfLists.begin(), kOfLists.end(), name) != kOfLists.end();
}

/// Methods of Python's that we have not: using one must not look like a missing item.
bool is_missing_method(const Value& object, std::string_view name) {
  constexpr std::array<std::string_view, 8> kOfTexts = {"casefold",   "encode",       "expandtabs",
                                                        "format_map", "isidentifier", "isprintable",
                                                        "maketrans",  "translate"};
  return object.is(Kind::kText) &&
         std::find(kOfTexts.begin(), kOfTexts.end(), name) != kOfTexts.end();
}

std::string described(const Value& object) {
  return object.is(Kind::kNone) ? "None" : type_name(object) + " object";
}

Value missing(Heap& heap, const Value& object, const Value& key) {
  if (key.is(Kind::kText)) {
    return Value::undefined(
        fmt::format("'{}' has no attribute {}", described(object), python::quoted(key.text())));
  }
  return Value::undefined(
      fmt::format("{} has no element {}", described(object), to_repr(heap, key)));
}

/// nullopt where Python raises AttributeError.
std::optional<Value> attribute_of(Heap& heap, const Value& object, const std::string& name) {
  if (object.is(Kind::kLoop)) return object.loop().attribute(name);
  if (object.is(Kind::kNamespace)) {
    const Value* value = object.name_space().attributes.find(heap, name);
    return value == nullptr ? std::nullopt : std::optional<Value>(*value);
  }
  if (const Method method = find_method(object, name)) {
    return Value(Kind::kCallable, heap.make<BoundMethod>(object, method));
  }
  if (is_forbidden(object, name)) {
    return Value::undefined(
        fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(object)));
  }
  if (is_missing_method(object, name)) {
    return Value::undefined(fmt::format("the method '{}' of texts is not supported", name));
  }
  return std::nullopt;
}

std::optional<Value> element(Heap& heap, const Value& object, const Value& key) {
  if (!key.is_whole()) return std::nullopt;
  int64_t at = key.whole();
  if (object.is(Kind::kText)) {
    heap.charge(object.ascii() ? 1 : object.text().size() / 4);
    const int64_t size = length(object);
    if (at < 0) at += size;
    if (at < 0 || at >= size) return std::nullopt;
    return sliced(heap, object, Value::integer(at), Value::integer(at + 1), Value());
  }
  if (!object.is(Kind::kSequence) || object.sequence().type > SequenceType::kRange) {
    return std::nullopt;
  }
  const auto& items = object.sequence().items;
  const auto size = static_cast<int64_t>(items.size());
  if (at < 0) at += size;
  if (at < 0 || at >= size) return std::nullopt;
  return items[static_cast<size_t>(at)];
}

bool is_hashable(Heap& heap, const Value& key) {
  try {
    require_hashable(heap, key);
    return true;
  } catch (const Fault& error) {
    if (error.kind() != ErrorKind::kUsage) throw;
    return false;
  }
}

std::optional<Value> item_of(Heap& heap, const Value& object, const Value& key) {
  if (!object.is(Kind::kDict)) return element(heap, object, key);
  if (!is_hashable(heap, key)) return std::nullopt;
  const Value* value = object.dict().find(heap, key);
  return value == nullptr ? std::nullopt : std::optional<Value>(*value);
}

}  // namespace

Value get_attribute(Heap& heap, const Value& object, const std::string& name) {
  if (object.is(Kind::kUndefined)) fault("{}", object.text());
  if (auto value = attribute_of(heap, object, name)) return *value;
  if (object.is(Kind::kDict)) {
    if (const Value* value = object.dict().find(heap, name)) return *value;
  }
  return missing(heap, object, heap.text(name));
}

Value get_item(Heap& heap, const Value& object, const Value& key) {
  if (object.is(Kind::kUndefined)) fault("{}", object.text());
  if (auto value = item_of(heap, object, key)) return *value;
  if (key.is(Kind::kText)) {
    if (auto value = attribute_of(heap, object, key.text())) return *value;
  }
  return missing(heap, object, key);
}

Value get_attribute_only(Heap& heap, const Value& object, const std::string& name) {
  if (object.is(Kind::kUndefined)) fault("{}", object.text());
  if (auto value = attribute_of(heap, object, name)) return *value;
  return missing(heap, object, heap.text(name));
}

}  // namespace convoke::jinja
