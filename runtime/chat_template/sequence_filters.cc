// Filters on lists and dicts.
#include <algorithm>

#include "runtime/chat_template/attribute_path.h"
#include "runtime/chat_template/attributes.h"
#include "runtime/chat_template/interpreter.h"
#include "runtime/chat_template/library.h"
#include "runtime/chat_template/operators.h"
#include "runtime/chat_template/python_text.h"

namespace convoke::jinja {
namespace {

Value or_default(Interpreter&, const Value& value, Arguments& arguments) {
  const Signature given("default", arguments, {"default_value", "boolean"});
  const bool missing = value.is(Kind::kUndefined) || (given.flag(1) && !truthy(value));
  if (!missing) return value;
  return given.given(0) ? *given[0] : Value::text("");
}

Value first(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("first", arguments, {});
  Sequence* items = iterate(interpreter.heap(), value);
  if (items->next == items->items.size()) {
    return Value::undefined("No first item, sequence was empty.");
  }
  const Value item = items->items[items->next];
  if (items->type == SequenceType::kIterator) ++items->next;
  return item;
}

Value last(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("last", arguments, {});
  if (is_sequence(value, SequenceType::kIterator)) fault("'generator' object is not reversible");
  const Sequence* items = iterate(interpreter.heap(), value);
  if (items->items.empty()) return Value::undefined("No last item, sequence was empty.");
  return items->items.back();
}

Value list(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("list", arguments, {});
  return interpreter.heap().list(items_of(interpreter.heap(), value));
}

Value items(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("items", arguments, {});
  std::vector<Value> out;
  if (!value.is(Kind::kUndefined)) {
    if (!value.is(Kind::kDict)) fault("Can only get item pairs from a mapping.");
    for (const auto& [key, item] : value.dict().entries) {
      out.push_back(interpreter.heap().tuple({key, item}));
    }
  }
  return interpreter.heap().iterator(std::move(out));
}

Value reverse(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("reverse", arguments, {});
  if (value.is(Kind::kText)) return interpreter.text(python::reversed(value.text()));
  std::vector<Value> out = items_of(interpreter.heap(), value);
  std::reverse(out.begin(), out.end());
  // Of an iterator Python makes a list, of a list an iterator.
  if (is_sequence(value, SequenceType::kIterator)) return interpreter.heap().list(std::move(out));
  return interpreter.heap().iterator(std::move(out));
}

/// Sorts by keys that were computed once.
std::vector<Value> sorted(Heap& heap, std::vector<std::pair<Value, Value>> keyed, bool backwards) {
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return order(heap, backwards ? b.first : a.first, backwards ? a.first : b.first, "<") == -1;
  });
  std::vector<Value> out;
  for (auto& [key, value] : keyed) out.push_back(std::move(value));
  return out;
}

Value sort(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  Heap& heap = interpreter.heap();
  const std::vector<AttributePath> paths = attribute_paths(given[2]);
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items_of(heap, value)) {
    std::vector<Value> key;
    for (const AttributePath& path : paths) {
      const Value part = path.of(heap, item);
      key.push_back(given.flag(1) ? part : without_case(heap, part));
    }
    heap.charge(2 * sizeof(Value));
    keyed.emplace_back(key.size() == 1 ? key[0] : heap.list(std::move(key)), item);
  }
  return heap.list(sorted(heap, std::move(keyed), given.flag(0)));
}

Value dict_sort(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  Heap& heap = interpreter.heap();
  const std::string by = given.given(1) ? given.text(1) : "key";
  if (by != "key" && by != "value") fault("You can only sort by either \"key\" or \"value\"");
  if (!value.is(Kind::kDict)) fault("dictsort wants a dict, not {}", type_name(value));
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, item] : value.dict().entries) {
    const Value& part = by == "key" ? key : item;
    heap.charge(2 * sizeof(Value));
    keyed.emplace_back(given.flag(0) ? part : without_case(heap, part), heap.tuple({key, item}));
  }
  return heap.list(sorted(heap, std::move(keyed), given.flag(2)));
}

Value unique(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("unique", arguments, {"case_sensitive", "attribute"});
  Heap& heap = interpreter.heap();
  const AttributePath path = attribute_path(given[1]);
  Dict* seen = heap.dict();
  std::vector<Value> out;
  for (const Value& item : items_of(heap, value)) {
    const Value part = path.of(heap, item);
    const Value key = given.flag(0) ? part : without_case(heap, part);
    if (seen->find(heap, key) != nullptr) continue;
    seen->set(heap, key, Value());
    out.push_back(item);
  }
  return heap.iterator(std::move(out));
}

template <bool kLargest>
Value extreme(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given(kLargest ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  Heap& heap = interpreter.heap();
  const AttributePath path = attribute_path(given[1]);
  const std::vector<Value> all = items_of(heap, value);
  if (all.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  const auto key_of = [&](const Value& item) {
    const Value part = path.of(heap, item);
    return given.flag(0) ? part : without_case(heap, part);
  };
  size_t best = 0;
  Value best_key = key_of(all[0]);
  for (size_t i = 1; i < all.size(); ++i) {
    Value key = key_of(all[i]);
    if (order(heap, key, best_key, kLargest ? ">" : "<") != (kLargest ? 1 : -1)) continue;
    best = i;
    best_key = std::move(key);
  }
  return all[best];
}

Value sum(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("sum", arguments, {"attribute", "start"});
  Heap& heap = interpreter.heap();
  const AttributePath path = attribute_path(given[0]);
  Value total = given.given(1) ? *given[1] : Value::integer(0);
  if (total.is(Kind::kText)) fault("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : items_of(heap, value)) {
    total = calculate(heap, Arithmetic::kAdd, total, path.of(heap, item));
  }
  return total;
}

Value batch(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("batch", arguments, {"linecount", "fill_with"}, 1);
  Heap& heap = interpreter.heap();
  const int64_t size = given.integer(0, 0);
  std::vector<Value> out, row;
  for (const Value& item : items_of(heap, value)) {
    if (static_cast<int64_t>(row.size()) == size) {
      out.push_back(heap.list(std::move(row)));
      row.clear();
    }
    row.push_back(item);
  }
  if (!row.empty()) {
    if (given.has(1) && static_cast<int64_t>(row.size()) < size) {
      heap.charge(static_cast<uint64_t>(size), sizeof(Value));
      row.resize(static_cast<size_t>(size), *given[1]);
    }
    out.push_back(heap.list(std::move(row)));
  }
  return heap.iterator(std::move(out));
}

Value slice(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("slice", arguments, {"slices", "fill_with"}, 1);
  Heap& heap = interpreter.heap();
  const std::vector<Value> all = items_of(heap, value);
  const int64_t slices = given.integer(0, 0);
  if (slices == 0) fault("integer division or modulo by zero");
  std::vector<Value> out;
  const auto count = static_cast<int64_t>(all.size());
  int64_t at = 0;
  for (int64_t i = 0; i < slices; ++i) {
    const bool extra = i < count % slices;
    const int64_t end = at + count / slices + (extra ? 1 : 0);
    std::vector<Value> row(all.begin() + at, all.begin() + end);
    if (given.has(1) && !extra) row.push_back(*given[1]);
    out.push_back(heap.list(std::move(row)));
    at = end;
  }
  return heap.iterator(std::move(out));
}

Value attribute(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("attr", arguments, {"name"}, 1);
  return get_attribute_only(interpreter.heap(), value, given.text(0));
}

}  // namespace

const std::vector<NamedFilter>& sequence_filters() {
  static const std::vector<NamedFilter> table = {
      {"attr", attribute},     {"batch", batch},        {"d", or_default},
      {"default", or_default}, {"dictsort", dict_sort}, {"first", first},
      {"items", items},        {"last", last},          {"list", list},
      {"max", extreme<true>},  {"min", extreme<false>}, {"reverse", reverse},
      {"slice", slice},        {"sort", sort},          {"sum", sum},
      {"unique", unique}};
  return table;
}

}  // namespace convoke::jinja
