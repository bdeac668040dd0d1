// Methods of list, tuple and dict that change nothing.
#include <unordered_map>

#include "runtime/chat_template/interpreter.h"
#include "runtime/chat_template/library.h"
#include "runtime/chat_template/value_text.h"

namespace convoke::jinja {
namespace {

Value index(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("index", arguments, {"", "", ""}, 1);
  const Value none;
  const auto& items = self.sequence().items;
  const auto size = static_cast<int64_t>(items.size());
  const auto bound = [&](size_t i, int64_t otherwise) {
    const int64_t at = given.integer(i, otherwise);
    return at < 0 ? std::max<int64_t>(at + size, 0) : std::min(at, size);
  };
  for (int64_t i = bound(1, 0); i < bound(2, size); ++i) {
    if (equal(interpreter.heap(), items[static_cast<size_t>(i)], *given[0])) {
      return Value::integer(i);
    }
  }
  fault("{} is not in {}", to_repr(interpreter.heap(), *given[0]), type_name(self));
}

Value count(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("count", arguments, {""}, 1);
  int64_t times = 0;
  for (const Value& item : self.sequence().items) {
    if (equal(interpreter.heap(), item, *given[0])) ++times;
  }
  return Value::integer(times);
}

Value copied_list(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("copy", arguments, {});
  return interpreter.heap().list(items_of(interpreter.heap(), self));
}

Value get(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("get", arguments, {"", ""}, 1);
  if (const Value* value = self.dict().find(interpreter.heap(), *given[0])) return *value;
  return given.given(1) ? *given[1] : Value();
}

Value keys(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("keys", arguments, {});
  return interpreter.heap().sequence(SequenceType::kKeys, items_of(interpreter.heap(), self));
}

Value values(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("values", arguments, {});
  std::vector<Value> out;
  interpreter.heap().charge(self.dict().entries.size(), sizeof(Value));
  for (const auto& entry : self.dict().entries) out.push_back(entry.second);
  return interpreter.heap().sequence(SequenceType::kValues, std::move(out));
}

Value items(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("items", arguments, {});
  std::vector<Value> out;
  for (const auto& [key, value] : self.dict().entries) {
    out.push_back(interpreter.heap().tuple({key, value}));
  }
  return interpreter.heap().sequence(SequenceType::kItems, std::move(out));
}

Value copied_dict(Interpreter& interpreter, const Value& self, Arguments& arguments) {
  const Signature given("copy", arguments, {});
  Dict* out = interpreter.heap().dict();
  for (const auto& [key, value] : self.dict().entries) out->set(interpreter.heap(), key, value);
  return Heap::value(out);
}

}  // namespace

Method find_sequence_method(SequenceType type, std::string_view name) {
  const bool list = type == SequenceType::kList;
  if (!list && type != SequenceType::kTuple && type != SequenceType::kRange) return nullptr;
  if (name == "index") return index;
  if (name == "count") return count;
  return list && name == "copy" ? copied_list : nullptr;
}

Method find_dict_method(std::string_view name) {
  static const std::unordered_map<std::string_view, Method> table = {
      {"copy", copied_dict}, {"get", get}, {"items", items}, {"keys", keys}, {"values", values}};
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

}  // namespace convoke::jinja
