// map, select, reject, selectattr, rejectattr: filters and tests applied to every item.
#include <algorithm>

#include "runtime/chat_template/attribute_path.h"
#include "runtime/chat_template/attributes.h"
#include "runtime/chat_template/interpreter.h"
#include "runtime/chat_template/library.h"
#include "runtime/chat_template/python_text.h"

namespace convoke::jinja {
namespace {

AttributePath parsed_path(std::string_view text) {
  std::vector<Value> parts;
  for (const std::string_view part : python::split(text, ".", python::kNoLimit)) {
    const bool digits = !part.empty() && part.find_first_not_of("0123456789") == part.npos;
    const auto number = digits ? python::parse_integer(part, 10) : std::nullopt;
    parts.push_back(number ? Value::integer(*number) : Value::text(std::string(part)));
  }
  return AttributePath(std::move(parts));
}

Value map(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  Heap& heap = interpreter.heap();
  std::vector<Value> out;
  if (!truthy(value)) return heap.iterator(std::move(out));
  if (arguments.positional.empty()) {
    const Signature given("map", arguments, {"attribute", "default"}, 1);
    const AttributePath path = attribute_path(given[0]);
    const Value* otherwise = given.has(1) ? given[1] : nullptr;
    for (const Value& item : items_of(heap, value)) out.push_back(path.of(heap, item, otherwise));
    return heap.iterator(std::move(out));
  }
  const Value name = arguments.positional[0];
  const Filter filter = name.is(Kind::kText) ? find_filter(name.text()) : nullptr;
  if (filter == nullptr) {
    fault("map: no filter named {}",
          name.is(Kind::kText) ? python::quoted(name.text()) : type_name(name));
  }
  arguments.positional.erase(arguments.positional.begin());
  for (const Value& item : items_of(heap, value)) {
    Arguments each = arguments;
    out.push_back(filter(interpreter, item, each));
  }
  return heap.iterator(std::move(out));
}

/// Items whose test (of their attribute, if `kAttribute`) holds, or does not.
template <bool kWanted, bool kAttribute>
Value select(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  Heap& heap = interpreter.heap();
  std::vector<Value> out;
  if (!truthy(value)) return heap.iterator(std::move(out));
  auto& given = arguments.positional;
  if (kAttribute && given.empty()) fault("Missing parameter for attribute name");
  const AttributePath path = attribute_path(kAttribute ? &given[0] : nullptr);
  if (kAttribute) given.erase(given.begin());
  Test test = nullptr;
  if (!given.empty()) {
    test = given[0].is(Kind::kText) ? find_test(given[0].text()) : nullptr;
    if (test == nullptr) {
      fault("select: no test named {}",
            given[0].is(Kind::kText) ? python::quoted(given[0].text()) : type_name(given[0]));
    }
    given.erase(given.begin());
  }
  for (const Value& item : items_of(heap, value)) {
    heap.charge(sizeof(Value));
    const Value tested = path.of(heap, item);
    Arguments each = arguments;
    const bool holds = test == nullptr ? truthy(tested) : test(interpreter, tested, each);
    if (holds == kWanted) out.push_back(item);
  }
  return heap.iterator(std::move(out));
}

}  // namespace

Value AttributePath::of(Heap& heap, Value item, const Value* otherwise) const {
  for (const Value& part : parts_) {
    heap.charge(1);
    item = get_item(heap, item, part);
    if (otherwise != nullptr && item.is(Kind::kUndefined)) item = *otherwise;
  }
  return item;
}

AttributePath attribute_path(const Value* attribute) {
  if (attribute == nullptr || attribute->is(Kind::kNone)) return AttributePath({});
  if (attribute->is(Kind::kText)) return parsed_path(attribute->text());
  return AttributePath({*attribute});
}

std::vector<AttributePath> attribute_paths(const Value* attribute) {
  if (attribute == nullptr || !attribute->is(Kind::kText)) return {attribute_path(attribute)};
  std::vector<AttributePath> out;
  for (const std::string_view path : python::split(attribute->text(), ",", python::kNoLimit)) {
    out.push_back(parsed_path(path));
  }
  return out;
}

Value without_case(Heap& heap, const Value& value) {
  return value.is(Kind::kText) ? heap.text(python::lower(value.text())) : value;
}

const std::vector<NamedFilter>& selection_filters() {
  static const std::vector<NamedFilter> table = {{"map", map},
                                                 {"reject", select<false, false>},
                                                 {"rejectattr", select<false, true>},
                                                 {"select", select<true, false>},
                                                 {"selectattr", select<true, true>}};
  return table;
}

}  // namespace convoke::jinja
