#include "runtime/chat_template/value.h"

#include <algorithm>
#include <cmath>

#include "runtime/chat_template/python_text.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke::jinja {
namespace {

constexpr size_t kIndexedEntries = 16;
constexpr uint64_t kTextPrice = 64;

std::shared_ptr<const Text> make_text(std::string bytes) {
  const bool ascii = std::all_of(bytes.begin(), bytes.end(),
                                 [](char c) { return static_cast<uint8_t>(c) < 0x80; });
  return std::make_shared<const Text>(Text{std::move(bytes), ascii});
}

const char* sequence_name(SequenceType type) {
  switch (type) {
    case SequenceType::kList:
      return "list";
    case SequenceType::kTuple:
      return "tuple";
    case SequenceType::kRange:
      return "range";
    case SequenceType::kKeys:
      return "dict_keys";
    case SequenceType::kValues:
      return "dict_values";
    case SequenceType::kItems:
      return "dict_items";
    case SequenceType::kIterator:
      return "generator";
  }
  return "";
}

bool equal_sequences(Heap& heap, const Sequence& a, const Sequence& b) {
  if (&a == &b) return true;
  if (a.type != b.type || a.type == SequenceType::kIterator) return false;
  if (a.items.size() != b.items.size()) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    if (!equal(heap, a.items[i], b.items[i])) return false;
  }
  return true;
}

bool equal_dicts(Heap& heap, const Dict& a, const Dict& b) {
  if (&a == &b) return true;
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.find(heap, key);
    if (other == nullptr || !equal(heap, value, *other)) return false;
  }
  return true;
}

int order_numbers(const Value& a, const Value& b) {
  if (a.is_whole() && b.is_whole()) {
    return a.whole() < b.whole() ? -1 : a.whole() > b.whole() ? 1 : 0;
  }
  // A long double holds every int64 and every double.
  const auto wide = [](const Value& v) -> long double {
    return v.is(Kind::kFloat) ? static_cast<long double>(v.number())
                              : static_cast<long double>(v.whole());
  };
  const long double x = wide(a), y = wide(b);
  return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
}

}  // namespace

Value Value::boolean(bool value) {
  Value out;
  out.kind_ = Kind::kBool;
  out.boolean_ = value;
  return out;
}

Value Value::integer(int64_t value) {
  Value out;
  out.kind_ = Kind::kInt;
  out.integer_ = value;
  return out;
}

Value Value::real(double value) {
  Value out;
  out.kind_ = Kind::kFloat;
  out.real_ = value;
  return out;
}

Value Value::text(std::string bytes) {
  Value out;
  out.kind_ = Kind::kText;
  out.text_ = make_text(std::move(bytes));
  return out;
}

Value Value::undefined(std::string why) {
  Value out;
  out.kind_ = Kind::kUndefined;
  out.text_ = make_text(std::move(why));
  return out;
}

void Heap::exhausted() const {
  throw Fault(ErrorKind::kModel, "the template asks for more work than a rendering may take");
}

void Heap::too_deep() {
  --depth_;
  throw Fault(ErrorKind::kModel, "the template nests calls or values too deeply");
}

void Heap::charge(uint64_t count, uint64_t size) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(count, size, &product)) exhausted();
  charge(product);
}

Value Heap::text(std::string bytes) {
  charge(bytes.size() + kTextPrice);
  return Value::text(std::move(bytes));
}

Value Heap::sequence(SequenceType type, std::vector<Value> items) {
  charge(items.size(), sizeof(Value));
  return Value(Kind::kSequence, make<Sequence>(type, std::move(items)));
}

const Value* Dict::find(Heap& heap, std::string_view key) const {
  if (!index_.empty()) {
    heap.charge(1);
    const auto it = index_.find(key);
    return it == index_.end() ? nullptr : &entries[it->second].second;
  }
  heap.charge(entries.size());
  for (const auto& [name, value] : entries) {
    if (name.is(Kind::kText) && name.text() == key) return &value;
  }
  return nullptr;
}

const Value* Dict::find(Heap& heap, const Value& key) const {
  if (key.is(Kind::kText)) return find(heap, key.text());
  require_hashable(heap, key);
  for (const auto& [name, value] : entries) {
    if (equal(heap, name, key)) return &value;
  }
  return nullptr;
}

void Dict::set(Heap& heap, const Value& key, Value value) {
  if (const Value* known = find(heap, key)) {
    *const_cast<Value*>(known) = std::move(value);
    return;
  }
  heap.charge(2 * sizeof(Value));
  entries.emplace_back(key, std::move(value));
  if (entries.size() < kIndexedEntries) return;
  // The views stay good: they point into the texts, not into the entries.
  const size_t begin = index_.empty() ? 0 : entries.size() - 1;
  for (size_t i = begin; i < entries.size(); ++i) {
    if (entries[i].first.is(Kind::kText)) index_.emplace(entries[i].first.text(), i);
  }
}

std::string type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kText:
      return "str";
    case Kind::kSequence:
      return sequence_name(value.sequence().type);
    case Kind::kDict:
      return "dict";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kCallable:
      return "function";
    case Kind::kLoop:
      return "LoopContext";
  }
  return "";
}

bool truthy(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return value.boolean();
    case Kind::kInt:
      return value.whole() != 0;
    case Kind::kFloat:
      return value.number() != 0;
    case Kind::kText:
      return !value.text().empty();
    case Kind::kSequence:
      // As in Python, an iterator counts as true even if nothing is left in it.
      return is_sequence(value, SequenceType::kIterator) || !value.sequence().items.empty();
    case Kind::kDict:
      return !value.dict().entries.empty();
    default:
      return true;
  }
}

bool equal(Heap& heap, const Value& a, const Value& b) {
  heap.charge(1);
  if (a.is_number() && b.is_number()) return order_numbers(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  const Heap::Level level(heap);
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kText:
      heap.charge(std::min(a.text().size(), b.text().size()));
      return a.text() == b.text();
    case Kind::kSequence:
      return equal_sequences(heap, a.sequence(), b.sequence());
    case Kind::kDict:
      return equal_dicts(heap, a.dict(), b.dict());
    default:
      return a.object() == b.object();
  }
}

int order(Heap& heap, const Value& a, const Value& b, const char* operation) {
  heap.charge(1);
  if (a.is(Kind::kUndefined)) fault("{}", a.text());
  if (b.is(Kind::kUndefined)) fault("{}", b.text());
  if (a.is_number() && b.is_number()) return order_numbers(a, b);
  if (a.is(Kind::kText) && b.is(Kind::kText)) {
    heap.charge(std::min(a.text().size(), b.text().size()));
    const int sign = a.text().compare(b.text());  // bytes of UTF-8 are in order of code points
    return sign < 0 ? -1 : sign > 0 ? 1 : 0;
  }
  const bool lists = is_sequence(a, SequenceType::kList) && is_sequence(b, SequenceType::kList);
  const bool tuples = is_sequence(a, SequenceType::kTuple) && is_sequence(b, SequenceType::kTuple);
  if (!lists && !tuples) {
    fault("'{}' not supported between instances of '{}' and '{}'", operation, type_name(a),
          type_name(b));
  }
  const Heap::Level level(heap);
  const auto &x = a.sequence().items, &y = b.sequence().items;
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    if (!equal(heap, x[i], y[i])) return order(heap, x[i], y[i], operation);
  }
  return x.size() < y.size() ? -1 : x.size() > y.size() ? 1 : 0;
}

bool same(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
      return &a.text() == &b.text();
    case Kind::kNone:
      return true;
    case Kind::kBool:
    case Kind::kInt:
      return a.whole() == b.whole();
    case Kind::kFloat:
      return a.number() == b.number();
    case Kind::kText:
      return a.text() == b.text();
    default:
      return a.object() == b.object();
  }
}

void require_hashable(Heap& heap, const Value& value) {
  if (value.is(Kind::kDict)) fault("unhashable type: 'dict'");
  if (!value.is(Kind::kSequence)) return;
  const Sequence& sequence = value.sequence();
  if (sequence.type == SequenceType::kTuple) {
    const Heap::Level level(heap);
    heap.charge(sequence.items.size());
    for (const Value& item : sequence.items) require_hashable(heap, item);
  } else if (sequence.type != SequenceType::kRange && sequence.type != SequenceType::kIterator) {
    fault("unhashable type: '{}'", type_name(value));
  }
}

int64_t length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kText:
      return static_cast<int64_t>(python::length(value.text()));
    case Kind::kDict:
      return static_cast<int64_t>(value.dict().entries.size());
    case Kind::kSequence:
      if (value.sequence().type != SequenceType::kIterator) {
        return static_cast<int64_t>(value.sequence().items.size());
      }
      [[fallthrough]];
    default:
      fault("object of type '{}' has no len()", type_name(value));
  }
}

Sequence* iterate(Heap& heap, const Value& value) {
  std::vector<Value> items;
  switch (value.kind()) {
    case Kind::kUndefined:
      break;
    case Kind::kText:
      for (size_t at = 0; at < value.text().size();) {
        const size_t bytes = unicode::character_bytes(value.text()[at]);
        items.push_back(heap.text(value.text().substr(at, bytes)));
        at += bytes;
      }
      break;
    case Kind::kSequence:
      return &value.sequence();
    case Kind::kDict:
      heap.charge(value.dict().entries.size(), sizeof(Value));
      for (const auto& entry : value.dict().entries) items.push_back(entry.first);
      break;
    default:
      fault("'{}' object is not iterable", type_name(value));
  }
  return heap.make<Sequence>(SequenceType::kTuple, std::move(items));
}

std::vector<Value> items_of(Heap& heap, const Value& value) {
  Sequence* sequence = iterate(heap, value);
  heap.charge(sequence->items.size(), sizeof(Value));
  if (sequence->type != SequenceType::kIterator) return sequence->items;
  const auto begin = sequence->items.begin() + static_cast<std::ptrdiff_t>(sequence->next);
  std::vector<Value> left(begin, sequence->items.end());
  sequence->next = sequence->items.size();
  return left;
}

}  // namespace convoke::jinja
