// The functions that every template may call.
#include <array>
#include <ctime>

#include "runtime/chat_template/interpreter.h"
#include "runtime/chat_template/library.h"
#include "runtime/chat_template/value_text.h"

namespace convoke::jinja {
namespace {

constexpr int64_t kLongestRange = 100000;  // as in Jinja2's sandbox

int64_t range_length(int64_t start, int64_t stop, int64_t step) {
  if (step == 0) fault("range() arg 3 must not be zero");
  int64_t distance = 0;
  if (__builtin_sub_overflow(stop, start, &distance)) return kLongestRange + 1;
  if (distance == 0 || (distance < 0) != (step < 0)) return 0;
  return distance / step + (distance % step != 0 ? 1 : 0);
}

Value range(Interpreter& interpreter, Arguments& arguments) {
  const Signature given("range", arguments, {"", "", ""}, 1);
  const bool one = !given.given(1);
  const int64_t start = one ? 0 : given.integer(0, 0);
  const int64_t stop = given.integer(one ? 0 : 1, 0);
  const int64_t step = given.integer(2, 1);
  const int64_t length = range_length(start, stop, step);
  if (length > kLongestRange) {
    fault("Range too big. The sandbox blocks ranges larger than {}.", kLongestRange);
  }
  std::vector<Value> items;
  interpreter.heap().charge(static_cast<uint64_t>(length), sizeof(Value));
  for (int64_t i = 0; i < length; ++i) items.push_back(Value::integer(start + i * step));
  return interpreter.heap().sequence(SequenceType::kRange, std::move(items));
}

/// dict(mapping or pairs, **more).
void fill(Interpreter& interpreter, Dict& dict, const char* function, Arguments& arguments) {
  Heap& heap = interpreter.heap();
  if (arguments.positional.size() > 1) fault("{} expected at most 1 argument", function);
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.is(Kind::kDict)) {
      for (const auto& [key, value] : from.dict().entries) dict.set(heap, key, value);
    } else {
      for (const Value& pair : items_of(heap, from)) {
        const std::vector<Value> both = items_of(heap, pair);
        if (both.size() != 2) fault("{} update sequence element does not have length 2", function);
        dict.set(heap, both[0], both[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) dict.set(heap, heap.text(name), value);
}

Value make_dict(Interpreter& interpreter, Arguments& arguments) {
  Dict* out = interpreter.heap().dict();
  fill(interpreter, *out, "dict", arguments);
  return Heap::value(out);
}

Value make_namespace(Interpreter& interpreter, Arguments& arguments) {
  auto* out = interpreter.heap().make<Namespace>();
  fill(interpreter, out->attributes, "namespace", arguments);
  for (const auto& [key, value] : out->attributes.entries) {
    if (key.is(Kind::kText) && key.text().substr(0, 1) == "_") {
      fault("a namespace cannot hold '{}', with an underscore", key.text());
    }
  }
  return Value(Kind::kNamespace, out);
}

Value raise_exception(Interpreter& interpreter, Arguments& arguments) {
  const Signature given("raise_exception", arguments, {"message"}, 1);
  throw Error(ErrorKind::kUsage, to_text(interpreter.heap(), *given[0]));
}

Value strftime_now(Interpreter& interpreter, Arguments& arguments) {
  const Signature given("strftime_now", arguments, {"format"}, 1);
  std::tm local{};
  const std::time_t now = interpreter.now();
  if (localtime_r(&now, &local) == nullptr) fault("strftime_now(): no such time");
  // A character in front tells an empty result from one that does not fit.
  const std::string format = " " + given.text(0);
  std::array<char, 4096> buffer;
  const size_t size = std::strftime(buffer.data(), buffer.size(), format.c_str(), &local);
  if (size == 0) fault("strftime_now(): the result exceeds {} bytes", buffer.size());
  return interpreter.text(std::string(buffer.data() + 1, size - 1));
}

}  // namespace

const std::vector<NamedFunction>& global_functions() {
  static const std::vector<NamedFunction> table = {{"dict", make_dict},
                                                   {"namespace", make_namespace},
                                                   {"raise_exception", raise_exception},
                                                   {"range", range},
                                                   {"strftime_now", strftime_now}};
  return table;
}

}  // namespace convoke::jinja
