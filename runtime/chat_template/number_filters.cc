// Filters that make numbers.
#include <array>
#include <charconv>
#include <cmath>

#include "runtime/chat_template/interpreter.h"
#include "runtime/chat_template/library.h"
#include "runtime/chat_template/operators.h"
#include "runtime/chat_template/python_text.h"

namespace convoke::jinja {
namespace {

Value absolute(Interpreter&, const Value& value, Arguments& arguments) {
  const Signature given("abs", arguments, {});
  if (value.is(Kind::kUndefined)) fault("{}", value.text());
  if (value.is(Kind::kFloat)) return Value::real(std::fabs(value.number()));
  if (!value.is_whole()) fault("bad operand type for abs(): '{}'", type_name(value));
  return value.whole() < 0 ? negated(value) : plus(value);
}

/// int() of a float that is one; faults where Python's result does not fit 64 bits.
int64_t cut(double value) {
  if (!(std::fabs(value) < 0x1p63)) fault("cannot convert float to 64-bit integer");
  return static_cast<int64_t>(value);
}

Value integer(Interpreter&, const Value& value, Arguments& arguments) {
  const Signature given("int", arguments, {"default", "base"});
  const Value otherwise = given.given(0) ? *given[0] : Value::integer(0);
  const int64_t base = given.integer(1, 10);
  if (value.is(Kind::kUndefined)) fault("{}", value.text());
  if (value.is_whole()) return Value::integer(value.whole());
  std::optional<double> number;
  if (value.is(Kind::kFloat)) number = value.number();
  if (value.is(Kind::kText)) {
    const bool has_base = base == 0 || (base >= 2 && base <= 36);
    if (has_base) {
      const auto whole = python::parse_integer(value.text(), static_cast<int>(base));
      if (whole) return Value::integer(*whole);
    }
    number = python::parse_float(value.text());
    if (number && std::isinf(*number)) return otherwise;
  }
  if (!number || std::isnan(*number)) return otherwise;
  return Value::integer(cut(*number));
}

Value real(Interpreter&, const Value& value, Arguments& arguments) {
  const Signature given("float", arguments, {"default"});
  if (value.is(Kind::kUndefined)) fault("{}", value.text());
  if (value.is_number()) return Value::real(value.number());
  const auto number = value.is(Kind::kText) ? python::parse_float(value.text()) : std::nullopt;
  if (number) return Value::real(*number);
  return given.given(0) ? *given[0] : Value::real(0.0);
}

/// round() of a float: from its exact decimal digits, ties to even.
double rounded(double value, int64_t digits) {
  if (!std::isfinite(value) || digits > 330) return value;
  if (digits < -310) return std::copysign(0.0, value);
  if (digits < 0) {
    const double unit = std::pow(10.0, static_cast<double>(-digits));
    return std::nearbyint(value / unit) * unit;
  }
  std::array<char, 1024> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::fixed, static_cast<int>(digits));
  double out = value;
  std::from_chars(buffer.data(), end.ptr, out);
  return out;
}

/// round() of an integer to tens, hundreds ..: ties to even.
Value rounded_whole(Heap& heap, const Value& value, int64_t digits) {
  if (digits >= 0) return Value::integer(value.whole());
  if (digits < -18) return Value::integer(0);
  int64_t unit = 1;
  for (int64_t i = 0; i < -digits; ++i) unit *= 10;
  const int64_t floor =
      calculate(heap, Arithmetic::kFloorDivide, value, Value::integer(unit)).whole();
  const int64_t rest = value.whole() - floor * unit;
  const bool up = rest > unit / 2 || (rest == unit / 2 && floor % 2 != 0);
  return calculate(heap, Arithmetic::kMultiply, Value::integer(floor + (up ? 1 : 0)),
                   Value::integer(unit));
}

Value round(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Signature given("round", arguments, {"precision", "method"});
  const int64_t digits = given.integer(0, 0);
  const std::string method = given.given(1) ? given.text(1) : "common";
  if (method != "common" && method != "ceil" && method != "floor") {
    fault("method must be common, ceil or floor");
  }
  if (value.is(Kind::kUndefined)) fault("{}", value.text());
  if (!value.is_number()) fault("type {} doesn't define __round__ method", type_name(value));
  if (method == "common") {
    if (value.is_whole()) return rounded_whole(interpreter.heap(), value, digits);
    return Value::real(rounded(value.number(), digits));
  }
  const double unit = std::pow(10.0, static_cast<double>(digits));
  const double scaled = value.number() * unit;
  if (!std::isfinite(scaled)) fault("cannot round {} to {} digits", value.number(), digits);
  return Value::real((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit);
}

Value count(Interpreter&, const Value& value, Arguments& arguments) {
  const Signature given("length", arguments, {});
  return Value::integer(length(value));
}

}  // namespace

const std::vector<NamedFilter>& number_filters() {
  static const std::vector<NamedFilter> table = {{"abs", absolute}, {"count", count},
                                                 {"float", real},   {"int", integer},
                                                 {"length", count}, {"round", round}};
  return table;
}

}  // namespace convoke::jinja
