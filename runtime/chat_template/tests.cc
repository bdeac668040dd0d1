// What may stand after `is`.
#include <unordered_map>

#include "runtime/chat_template/interpreter.h"
#include "runtime/chat_template/library.h"
#include "runtime/chat_template/operators.h"
#include "runtime/chat_template/python_text.h"
#include "runtime/chat_template/value_text.h"

namespace convoke::jinja {
namespace {

template <bool (*kIs)(const Value&)>
bool simple(Interpreter&, const Value& value, Arguments& arguments) {
  const Signature given("test", arguments, {});
  return kIs(value);
}

template <Kind kKind>
bool is_kind(const Value& value) {
  return value.is(kKind);
}

bool is_defined(const Value& value) {
  return !value.is(Kind::kUndefined);
}

template <bool kWanted>
bool is_bool(const Value& value) {
  return value.is(Kind::kBool) && value.boolean() == kWanted;
}

bool is_number(const Value& value) {
  return value.is_number();
}

/// What has a length and items by key: undefined has both, a set of a dict's keys has not.
bool is_sequence_like(const Value& value) {
  if (value.is(Kind::kSequence)) return value.sequence().type <= SequenceType::kRange;
  return value.is(Kind::kText) || value.is(Kind::kDict) || value.is(Kind::kUndefined);
}

bool is_iterable(const Value& value) {
  return value.is(Kind::kSequence) || value.is(Kind::kText) || value.is(Kind::kDict) ||
         value.is(Kind::kUndefined) || value.is(Kind::kLoop);
}

bool is_callable(const Value& value) {
  return value.is(Kind::kCallable) || value.is(Kind::kUndefined) || value.is(Kind::kLoop);
}

bool never(const Value&) {
  return false;
}

template <Relation kRelation>
bool compares(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("test", arguments, {""}, 1);
  return related(interpreter.heap(), kRelation, value, *given[0]);
}

bool is_in(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("in", arguments, {"seq"}, 1);
  return contains(interpreter.heap(), *given[0], value);
}

bool is_same(Interpreter&, const Value& value, Arguments& arguments) {
  const Signature given("sameas", arguments, {"other"}, 1);
  return same(value, *given[0]);
}

bool leaves(Interpreter& interpreter, const Value& value, int64_t divisor, int64_t rest) {
  Heap& heap = interpreter.heap();
  const Value result = calculate(heap, Arithmetic::kModulo, value, Value::integer(divisor));
  return equal(heap, result, Value::integer(rest));
}

template <int64_t kRest>
bool is_parity(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("test", arguments, {});
  return leaves(interpreter, value, 2, kRest);
}

bool is_divisible(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("divisibleby", arguments, {"num"}, 1);
  Heap& heap = interpreter.heap();
  return equal(heap, calculate(heap, Arithmetic::kModulo, value, *given[0]), Value::integer(0));
}

template <bool (*kIs)(std::string_view)>
bool text_is(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("test", arguments, {});
  return kIs(to_text(interpreter.heap(), value));
}

bool is_filter(Interpreter&, const Value& value, Arguments& arguments) {
  const Signature given("filter", arguments, {});
  return value.is(Kind::kText) && find_filter(value.text()) != nullptr;
}

bool is_test(Interpreter&, const Value& value, Arguments& arguments) {
  const Signature given("test", arguments, {});
  return value.is(Kind::kText) && find_test(value.text()) != nullptr;
}

}  // namespace

Test find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, Test> table = {
      {"!=", compares<Relation::kNotEqual>},
      {"<", compares<Relation::kLess>},
      {"<=", compares<Relation::kLessEqual>},
      {"==", compares<Relation::kEqual>},
      {">", compares<Relation::kGreater>},
      {">=", compares<Relation::kGreaterEqual>},
      {"boolean", simple<is_kind<Kind::kBool>>},
      {"callable", simple<is_callable>},
      {"defined", simple<is_defined>},
      {"divisibleby", is_divisible},
      {"eq", compares<Relation::kEqual>},
      {"equalto", compares<Relation::kEqual>},
      {"escaped", simple<never>},
      {"even", is_parity<0>},
      {"false", simple<is_bool<false>>},
      {"filter", is_filter},
      {"float", simple<is_kind<Kind::kFloat>>},
      {"ge", compares<Relation::kGreaterEqual>},
      {"greaterthan", compares<Relation::kGreater>},
      {"gt", compares<Relation::kGreater>},
      {"in", is_in},
      {"integer", simple<is_kind<Kind::kInt>>},
      {"iterable", simple<is_iterable>},
      {"le", compares<Relation::kLessEqual>},
      {"lessthan", compares<Relation::kLess>},
      {"lower", text_is<python::is_lower>},
      {"lt", compares<Relation::kLess>},
      {"mapping", simple<is_kind<Kind::kDict>>},
      {"ne", compares<Relation::kNotEqual>},
      {"none", simple<is_kind<Kind::kNone>>},
      {"number", simple<is_number>},
      {"odd", is_parity<1>},
      {"sameas", is_same},
      {"sequence", simple<is_sequence_like>},
      {"string", simple<is_kind<Kind::kText>>},
      {"test", is_test},
      {"true", simple<is_bool<true>>},
      {"undefined", simple<is_kind<Kind::kUndefined>>},
      {"upper", text_is<python::is_upper>},
  };
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

}  // namespace convoke::jinja
