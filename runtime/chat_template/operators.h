// Python's operators on values: arithmetic, comparison, membership, slices.
#pragma once

#include "runtime/chat_template/value.h"

namespace convoke::jinja {

enum class Arithmetic : uint8_t {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower
};
enum class Relation : uint8_t {
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn
};

/// Faults as Python raises TypeError, ZeroDivisionError and the like, and on integers beyond 64
/// bits, which Python has.
Value calculate(Heap& heap, Arithmetic operation, const Value& a, const Value& b);
Value negated(const Value& value);
Value plus(const Value& value);  ///< unary +

bool related(Heap& heap, Relation relation, const Value& a, const Value& b);
bool contains(Heap& heap, const Value& container, const Value& item);

/// value[start:stop:step], each bound an integer or None.
Value sliced(Heap& heap, const Value& value, const Value& start, const Value& stop,
             const Value& step);

}  // namespace convoke::jinja
