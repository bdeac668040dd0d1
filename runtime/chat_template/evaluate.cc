// Expressions.
#include "runtime/chat_template/attributes.h"
#include "runtime/chat_template/interpreter.h"
#include "runtime/chat_template/value_text.h"

namespace convoke::jinja {

namespace {
constexpr uint64_t kExpressionPrice = 32;
using ExpressionKind = Expression::Kind;
}  // namespace

Value Interpreter::evaluate(const Expression& expression, Scope& scope) {
  heap_.charge(kExpressionPrice);
  const Heap::Level level(heap_);
  switch (expression.kind) {
    case ExpressionKind::kConstant:
      return expression.constant;
    case ExpressionKind::kName:
      return evaluate_name(expression, scope);
    case ExpressionKind::kNamespaceAttribute:
      break;
    case ExpressionKind::kList:
    case ExpressionKind::kTuple:
    case ExpressionKind::kDict:
      return evaluate_collection(expression, scope);
    case ExpressionKind::kAttribute:
    case ExpressionKind::kItem:
      return evaluate_access(expression, scope);
    case ExpressionKind::kSlice:
      return evaluate_slice(expression, scope);
    case ExpressionKind::kCall:
      return evaluate_call(expression, scope, nullptr);
    case ExpressionKind::kFilter:
      return evaluate_filter(expression, scope, nullptr);
    case ExpressionKind::kTest:
      return Value::boolean(evaluate_test(expression, scope));
    case ExpressionKind::kNot:
    case ExpressionKind::kAnd:
    case ExpressionKind::kOr:
    case ExpressionKind::kCompare:
    case ExpressionKind::kConditional:
      return evaluate_logic(expression, scope);
    case ExpressionKind::kNegate:
    case ExpressionKind::kPlus:
    case ExpressionKind::kArithmetic:
    case ExpressionKind::kConcatenate:
      return evaluate_operator(expression, scope);
  }
  return {};
}

Value Interpreter::evaluate_name(const Expression& expression, Scope& scope) {
  line_ = expression.line;
  if (const Value* value = scope.find(heap_, expression.name)) return *value;
  return Value::undefined("'" + program_.names.name(expression.name) + "' is undefined");
}

Value Interpreter::evaluate_collection(const Expression& expression, Scope& scope) {
  std::vector<Value> items;
  for (const auto& item : expression.items) items.push_back(evaluate(*item, scope));
  if (expression.kind == ExpressionKind::kList) return heap_.list(std::move(items));
  if (expression.kind == ExpressionKind::kTuple) return heap_.tuple(std::move(items));
  Dict* dict = heap_.dict();
  line_ = expression.line;
  for (size_t i = 0; i < items.size(); i += 2) dict->set(heap_, items[i], items[i + 1]);
  return Heap::value(dict);
}

Value Interpreter::evaluate_access(const Expression& expression, Scope& scope) {
  const Value object = evaluate(*expression.items[0], scope);
  if (expression.kind == ExpressionKind::kAttribute) {
    line_ = expression.line;
    return get_attribute(heap_, object, expression.text);
  }
  const Value key = evaluate(*expression.items[1], scope);
  line_ = expression.line;
  return get_item(heap_, object, key);
}

Value Interpreter::evaluate_slice(const Expression& expression, Scope& scope) {
  Value parts[4];
  for (size_t i = 0; i < 4; ++i) {
    if (expression.items[i]) parts[i] = evaluate(*expression.items[i], scope);
  }
  line_ = expression.line;
  return sliced(heap_, parts[0], parts[1], parts[2], parts[3]);
}

Value Interpreter::evaluate_logic(const Expression& expression, Scope& scope) {
  const auto& items = expression.items;
  Value first = evaluate(*items[0], scope);
  switch (expression.kind) {
    case ExpressionKind::kNot:
      return Value::boolean(!truthy(first));
    case ExpressionKind::kAnd:
      return truthy(first) ? evaluate(*items[1], scope) : first;
    case ExpressionKind::kOr:
      return truthy(first) ? first : evaluate(*items[1], scope);
    case ExpressionKind::kConditional:
      if (truthy(first)) return evaluate(*items[1], scope);
      if (items[2]) return evaluate(*items[2], scope);
      return Value::undefined(
          fmt::format("the inline if-expression on line {} evaluated to false and no else section "
                      "was defined.",
                      expression.line));
    default:
      break;
  }
  for (size_t i = 0; i < expression.relations.size(); ++i) {
    Value second = evaluate(*items[i + 1], scope);
    line_ = expression.line;
    if (!related(heap_, expression.relations[i], first, second)) return Value::boolean(false);
    first = std::move(second);
  }
  return Value::boolean(true);
}

Value Interpreter::evaluate_operator(const Expression& expression, Scope& scope) {
  if (expression.kind == ExpressionKind::kConcatenate) {
    std::string out;
    for (const auto& item : expression.items) append(out, to_text(heap_, evaluate(*item, scope)));
    return text(std::move(out));
  }
  const Value first = evaluate(*expression.items[0], scope);
  if (expression.kind == ExpressionKind::kArithmetic) {
    const Value second = evaluate(*expression.items[1], scope);
    line_ = expression.line;
    return calculate(heap_, expression.arithmetic, first, second);
  }
  line_ = expression.line;
  return expression.kind == ExpressionKind::kNegate ? negated(first) : plus(first);
}

Arguments Interpreter::evaluate_arguments(const CallSyntax& call, Scope& scope) {
  Arguments out;
  for (const auto& argument : call.positional) out.positional.push_back(evaluate(*argument, scope));
  for (const auto& [name, value] : call.named)
    out.named.emplace_back(name, evaluate(*value, scope));
  if (call.rest) {
    for (Value& value : items_of(heap_, evaluate(*call.rest, scope))) {
      out.positional.push_back(std::move(value));
    }
  }
  if (call.named_rest) {
    const Value rest = evaluate(*call.named_rest, scope);
    if (!rest.is(Kind::kDict))
      fault("argument after ** must be a mapping, not {}", type_name(rest));
    heap_.charge(rest.dict().entries.size(), sizeof(Value));
    for (const auto& [name, value] : rest.dict().entries) {
      if (!name.is(Kind::kText)) fault("keywords must be strings");
      heap_.charge(out.named.size());
      for (const auto& known : out.named) {
        if (known.first == name.text()) fault("got multiple values for keyword '{}'", known.first);
      }
      out.named.emplace_back(name.text(), value);
    }
  }
  return out;
}

Value Interpreter::evaluate_call(const Expression& expression, Scope& scope, const Value* caller) {
  const Value callee = evaluate(*expression.items[0], scope);
  Arguments arguments = evaluate_arguments(*expression.call, scope);
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  line_ = expression.line;
  return call(callee, arguments);
}

/// `start` stands for the value that a filter block begins with.
Value Interpreter::evaluate_filter(const Expression& expression, Scope& scope, const Value* start) {
  const Heap::Level level(heap_);
  const ExpressionPtr& input = expression.items[0];
  Value value;
  if (!input) {
    value = *start;
  } else if (start != nullptr) {
    value = evaluate_filter(*input, scope, start);
  } else {
    value = evaluate(*input, scope);
  }
  Arguments arguments = evaluate_arguments(*expression.call, scope);
  line_ = expression.line;
  if (expression.filter == nullptr) {
    throw Fault(ErrorKind::kModel, "no filter named '" + expression.text + "'");
  }
  return expression.filter(*this, value, arguments);
}

bool Interpreter::evaluate_test(const Expression& expression, Scope& scope) {
  const Value value = evaluate(*expression.items[0], scope);
  Arguments arguments = evaluate_arguments(*expression.call, scope);
  line_ = expression.line;
  if (expression.test == nullptr) {
    throw Fault(ErrorKind::kModel, "no test named '" + expression.text + "'");
  }
  return expression.test(*this, value, arguments);
}

}  // namespace convoke::jinja
