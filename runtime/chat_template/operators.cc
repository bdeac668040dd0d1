#include "runtime/chat_template/operators.h"

#include <algorithm>
#include <cmath>

#include "runtime/chat_template/formatting.h"
#include "runtime/chat_template/python_text.h"

namespace convoke::jinja {
namespace {

const char* symbol(Arithmetic operation) {
  switch (operation) {
    case Arithmetic::kAdd:
      return "+";
    case Arithmetic::kSubtract:
      return "-";
    case Arithmetic::kMultiply:
      return "*";
    case Arithmetic::kDivide:
      return "/";
    case Arithmetic::kFloorDivide:
      return "//";
    case Arithmetic::kModulo:
      return "%";
    case Arithmetic::kPower:
      return "** or pow()";
  }
  return "";
}

[[noreturn]] void wrong_operands(Arithmetic operation, const Value& a, const Value& b) {
  if (operation == Arithmetic::kAdd && (a.is(Kind::kText) || is_sequence(a, SequenceType::kList))) {
    fault("can only concatenate {0} (not \"{1}\") to {0}", type_name(a), type_name(b));
  }
  fault("unsupported operand type(s) for {}: '{}' and '{}'", symbol(operation), type_name(a),
        type_name(b));
}

[[noreturn]] void too_large() {
  fault("integer result does not fit 64 bits");
}

Value whole_power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) too_large();
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) too_large();
  }
  return Value::integer(result);
}

Value calculate_whole(Arithmetic operation, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  switch (operation) {
    case Arithmetic::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case Arithmetic::kSubtract:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case Arithmetic::kMultiply:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case Arithmetic::kDivide:
      if (b == 0) fault("division by zero");
      return Value::real(static_cast<double>(a) / static_cast<double>(b));
    case Arithmetic::kFloorDivide:
      if (b == 0) fault("integer division or modulo by zero");
      if (b == -1) {
        overflow = __builtin_sub_overflow(int64_t{0}, a, &result);
      } else {
        result = a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0);
      }
      break;
    case Arithmetic::kModulo:
      if (b == 0) fault("integer modulo by zero");
      result = b == -1 ? 0 : a % b;
      if (result != 0 && (result < 0) != (b < 0)) result += b;
      break;
    case Arithmetic::kPower:
      return whole_power(a, b);
  }
  if (overflow) too_large();
  return Value::integer(result);
}

double float_modulo(double a, double b) {
  const double result = std::fmod(a, b);
  if (result == 0) return std::copysign(0.0, b);
  return (result < 0) != (b < 0) ? result + b : result;
}

double float_power(double a, double b) {
  if (a == 0 && b < 0) fault("0.0 cannot be raised to a negative power");
  if (a < 0 && std::isfinite(a) && std::isfinite(b) && b != std::floor(b)) {
    fault("a negative number to a fractional power is complex");
  }
  const double result = std::pow(a, b);
  if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) {
    fault("Numerical result out of range");
  }
  return result;
}

Value calculate_real(Arithmetic operation, double a, double b) {
  const bool divides = operation == Arithmetic::kDivide || operation == Arithmetic::kFloorDivide ||
                       operation == Arithmetic::kModulo;
  if (divides && b == 0) fault("float division by zero");
  switch (operation) {
    case Arithmetic::kAdd:
      return Value::real(a + b);
    case Arithmetic::kSubtract:
      return Value::real(a - b);
    case Arithmetic::kMultiply:
      return Value::real(a * b);
    case Arithmetic::kDivide:
      return Value::real(a / b);
    case Arithmetic::kFloorDivide:
      return Value::real(std::round((a - float_modulo(a, b)) / b));
    case Arithmetic::kModulo:
      return Value::real(float_modulo(a, b));
    case Arithmetic::kPower:
      return Value::real(float_power(a, b));
  }
  return {};
}

Value repeated(Heap& heap, const Value& value, int64_t times) {
  const auto count = static_cast<uint64_t>(std::max<int64_t>(times, 0));
  if (value.is(Kind::kText)) {
    heap.charge(count, value.text().size());
    std::string out;
    if (!value.text().empty()) {
      for (uint64_t i = 0; i < count; ++i) out += value.text();
    }
    return heap.text(std::move(out));
  }
  const auto& items = value.sequence().items;
  heap.charge(count, items.size() * sizeof(Value));
  std::vector<Value> out;
  if (!items.empty()) {
    for (uint64_t i = 0; i < count; ++i) out.insert(out.end(), items.begin(), items.end());
  }
  return heap.sequence(value.sequence().type, std::move(out));
}

bool can_repeat(const Value& value) {
  return value.is(Kind::kText) || is_sequence(value, SequenceType::kList) ||
         is_sequence(value, SequenceType::kTuple);
}

Value concatenated(Heap& heap, const Value& a, const Value& b) {
  if (a.is(Kind::kText) && b.is(Kind::kText)) {
    heap.charge(a.text().size() + b.text().size());
    return heap.text(a.text() + b.text());
  }
  if (a.is(Kind::kSequence) && b.is(Kind::kSequence) && can_repeat(a) &&
      a.sequence().type == b.sequence().type) {
    std::vector<Value> items = items_of(heap, a);
    const std::vector<Value> more = items_of(heap, b);
    items.insert(items.end(), more.begin(), more.end());
    return heap.sequence(a.sequence().type, std::move(items));
  }
  wrong_operands(Arithmetic::kAdd, a, b);
}

/// Where Python's slice ends on `size` items: a bound counted from the end, clamped.
int64_t clamped(const Value& bound, int64_t otherwise, int64_t size, bool backwards) {
  if (bound.is(Kind::kNone)) return otherwise;
  if (bound.is(Kind::kUndefined)) fault("{}", bound.text());
  if (!bound.is_whole()) fault("slice indices must be integers or None");
  int64_t at = bound.whole();
  if (at < 0) at = at < -size ? -1 : at + size;
  if (backwards) return std::min(at, size - 1);
  return std::clamp<int64_t>(at, 0, size);
}

struct SliceBounds {
  int64_t start, stop, step;

  SliceBounds(const Value& first, const Value& last, const Value& stride, int64_t size) {
    if (!stride.is(Kind::kNone) && !stride.is_whole()) {
      fault("slice indices must be integers or None");
    }
    step = stride.is(Kind::kNone) ? 1 : stride.whole();
    if (step == 0) fault("slice step cannot be zero");
    // A step beyond the ends takes one item; keep the additions below from overflowing.
    step = std::clamp(step, -size - 1, size + 1);
    start = clamped(first, step < 0 ? size - 1 : 0, size, step < 0);
    stop = clamped(last, step < 0 ? -1 : size, size, step < 0);
  }
  bool within(int64_t at) const { return step < 0 ? at > stop : at < stop; }
};

Value sliced_text(Heap& heap, const Value& value, const Value& start, const Value& stop,
                  const Value& step) {
  const std::string& text = value.text();
  heap.charge(value.ascii() ? 1 : text.size() / 4);
  const auto size = static_cast<int64_t>(value.ascii() ? text.size() : python::length(text));
  const SliceBounds bounds(start, stop, step, size);
  if (bounds.step == 1) {
    if (!bounds.within(bounds.start)) return heap.text("");
    const auto first = static_cast<size_t>(bounds.start), last = static_cast<size_t>(bounds.stop);
    const size_t begin = value.ascii() ? first : python::byte_offset(text, first);
    const size_t end = value.ascii() ? last : python::byte_offset(text, last);
    return heap.text(text.substr(begin, end - begin));
  }
  std::vector<uint32_t> offsets;  // of every character, and the end
  heap.charge(text.size(), sizeof(uint32_t));
  for (size_t at = 0; at < text.size(); ++at) {
    if ((static_cast<uint8_t>(text[at]) & 0xC0) != 0x80)
      offsets.push_back(static_cast<uint32_t>(at));
  }
  offsets.push_back(static_cast<uint32_t>(text.size()));
  std::string out;
  for (int64_t at = bounds.start; bounds.within(at); at += bounds.step) {
    const auto i = static_cast<size_t>(at);
    out.append(text, offsets[i], offsets[i + 1] - offsets[i]);
  }
  return heap.text(std::move(out));
}

}  // namespace

Value calculate(Heap& heap, Arithmetic operation, const Value& a, const Value& b) {
  if (a.is(Kind::kUndefined)) fault("{}", a.text());
  if (operation == Arithmetic::kModulo && a.is(Kind::kText)) return percent_format(heap, a, b);
  if (b.is(Kind::kUndefined)) fault("{}", b.text());
  if (a.is_number() && b.is_number()) {
    const bool fraction = operation == Arithmetic::kPower && b.is_whole() && b.whole() < 0;
    if (a.is_whole() && b.is_whole() && !fraction) {
      return calculate_whole(operation, a.whole(), b.whole());
    }
    return calculate_real(operation, a.number(), b.number());
  }
  if (operation == Arithmetic::kMultiply) {
    if (can_repeat(a) && b.is_whole()) return repeated(heap, a, b.whole());
    if (can_repeat(b) && a.is_whole()) return repeated(heap, b, a.whole());
  }
  if (operation == Arithmetic::kAdd) return concatenated(heap, a, b);
  wrong_operands(operation, a, b);
}

Value negated(const Value& value) {
  if (value.is(Kind::kUndefined)) fault("{}", value.text());
  if (value.is(Kind::kFloat)) return Value::real(-value.number());
  if (!value.is_whole()) fault("bad operand type for unary -: '{}'", type_name(value));
  return calculate_whole(Arithmetic::kSubtract, 0, value.whole());
}

Value plus(const Value& value) {
  if (value.is(Kind::kUndefined)) fault("{}", value.text());
  if (value.is(Kind::kFloat)) return value;
  if (!value.is_whole()) fault("bad operand type for unary +: '{}'", type_name(value));
  return Value::integer(value.whole());
}

bool contains(Heap& heap, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kText:
      if (item.is(Kind::kUndefined)) fault("{}", item.text());
      if (!item.is(Kind::kText)) {
        fault("'in <string>' requires string as left operand, not {}", type_name(item));
      }
      heap.charge(container.text().size());
      return python::find(container.text(), item.text()) != std::string::npos;
    case Kind::kDict:
      return container.dict().find(heap, item) != nullptr;
    case Kind::kUndefined:
    case Kind::kSequence:
      break;
    default:
      fault("argument of type '{}' is not iterable", type_name(container));
  }
  const std::vector<Value> items = items_of(heap, container);
  return std::any_of(items.begin(), items.end(),
                     [&](const Value& other) { return equal(heap, other, item); });
}

bool related(Heap& heap, Relation relation, const Value& a, const Value& b) {
  switch (relation) {
    case Relation::kEqual:
      return equal(heap, a, b);
    case Relation::kNotEqual:
      return !equal(heap, a, b);
    case Relation::kIn:
      return contains(heap, b, a);
    case Relation::kNotIn:
      return !contains(heap, b, a);
    case Relation::kLess:
      return order(heap, a, b, "<") == -1;
    case Relation::kLessEqual:
      return order(heap, a, b, "<=") <= 0;
    case Relation::kGreater:
      return order(heap, a, b, ">") == 1;
    case Relation::kGreaterEqual: {
      const int sign = order(heap, a, b, ">=");
      return sign == 0 || sign == 1;
    }
  }
  return false;
}

Value sliced(Heap& heap, const Value& value, const Value& start, const Value& stop,
             const Value& step) {
  if (value.is(Kind::kUndefined)) fault("{}", value.text());
  if (value.is(Kind::kText)) return sliced_text(heap, value, start, stop, step);
  const bool has_slices =
      value.is(Kind::kSequence) && value.sequence().type <= SequenceType::kRange;
  if (value.is(Kind::kDict)) fault("unhashable type: 'slice'");
  if (!has_slices) fault("'{}' object is not subscriptable", type_name(value));
  const auto& items = value.sequence().items;
  const SliceBounds bounds(start, stop, step, static_cast<int64_t>(items.size()));
  std::vector<Value> out;
  for (int64_t at = bounds.start; bounds.within(at); at += bounds.step) {
    heap.charge(sizeof(Value));
    out.push_back(items[static_cast<size_t>(at)]);
  }
  return heap.sequence(value.sequence().type, std::move(out));
}

}  // namespace convoke::jinja
