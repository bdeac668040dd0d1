// The values that a chat template computes with: those of Python, as far as templates use them.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/check.h"

namespace convoke::jinja {

class Interpreter;

/// What goes wrong while a template runs; ChatTemplate::render adds its name and the line.
class Fault : public std::runtime_error {
 public:
  Fault(ErrorKind kind, const std::string& what) : std::runtime_error(what), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

/// Throws a Fault that the messages can cause: an undefined value, a type that does not fit.
template <typename... Args>
[[noreturn]] void fault(fmt::format_string<Args...> format, Args&&... args) {
  throw Fault(ErrorKind::kUsage, fmt::format(format, std::forward<Args>(args)...));
}

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kText,
  kSequence,
  kDict,
  kNamespace,
  kCallable,
  kLoop
};

struct Text {
  std::string bytes;  ///< valid UTF-8
  bool ascii = true;
};

struct Object {
  virtual ~Object() = default;
};
struct Sequence;
struct Dict;
struct Namespace;
struct Callable;
struct LoopObject;

/// Objects belong to the Heap of one rendering; a value that refers to one must not outlive it.
class Value {
 public:
  Value() : integer_(0) {}  ///< None
  static Value boolean(bool value);
  static Value integer(int64_t value);
  static Value real(double value);
  static Value text(std::string bytes);  ///< not counted by any Heap: for constants
  /// `why` is the message of the fault that using it raises.
  static Value undefined(std::string why);
  Value(Kind kind, Object* object) : kind_(kind), object_(object) {}

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_number() const { return kind_ >= Kind::kBool && kind_ <= Kind::kFloat; }
  bool is_whole() const { return kind_ == Kind::kBool || kind_ == Kind::kInt; }

  bool boolean() const { return boolean_; }
  int64_t whole() const { return is(Kind::kBool) ? int64_t{boolean_} : integer_; }
  double number() const { return is(Kind::kFloat) ? real_ : static_cast<double>(whole()); }
  const std::string& text() const { return text_->bytes; }  ///< of a text; why it is undefined
  bool ascii() const { return text_->ascii; }
  Object* object() const { return object_; }
  Sequence& sequence() const;
  Dict& dict() const;
  Namespace& name_space() const;
  Callable& callable() const;
  LoopObject& loop() const;

 private:
  friend class Heap;
  Kind kind_ = Kind::kNone;
  union {
    bool boolean_;
    int64_t integer_;
    double real_;
    Object* object_;
  };
  std::shared_ptr<const Text> text_;
};

enum class SequenceType : uint8_t { kList, kTuple, kRange, kKeys, kValues, kItems, kIterator };

struct Sequence : Object {
  Sequence(SequenceType t, std::vector<Value> i) : type(t), items(std::move(i)) {}
  SequenceType type;
  std::vector<Value> items;
  size_t next = 0;  ///< of an iterator: what has been taken from it is gone
};

class Heap;

struct Dict : Object {
  const Value* find(Heap& heap, const Value& key) const;  ///< nullptr if absent
  const Value* find(Heap& heap, std::string_view key) const;
  void set(Heap& heap, const Value& key, Value value);  ///< faults on keys that cannot be hashed
  std::vector<std::pair<Value, Value>> entries;         ///< in order of insertion

 private:
  std::unordered_map<std::string_view, size_t> index_;  ///< texts, once there are many entries
};

struct Namespace : Object {
  Dict attributes;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

struct Callable : Object {
  virtual Value call(Interpreter& interpreter, Arguments& arguments) = 0;
  virtual std::string shown() const = 0;  ///< what printing it gives
};

struct LoopObject : Object {
  virtual Value attribute(std::string_view name) = 0;
};

/// Whatever one rendering allocates, and its bounds: a template that asks for more work than it may
/// take, or nests too deeply, faults with ErrorKind::kModel.
class Heap {
 public:
  /// Work is counted in bytes made and looked at, with fixed prices for steps and objects; see
  /// ChatTemplate::render.
  explicit Heap(uint64_t work) : left_(work) {}
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  void charge(uint64_t units) {
    if (units > left_) exhausted();
    left_ -= units;
  }
  /// Of `count` pieces of `size` bytes, without overflow.
  void charge(uint64_t count, uint64_t size);

  Value text(std::string bytes);
  Value sequence(SequenceType type, std::vector<Value> items);
  Value list(std::vector<Value> items) { return sequence(SequenceType::kList, std::move(items)); }
  Value tuple(std::vector<Value> items) { return sequence(SequenceType::kTuple, std::move(items)); }
  Value iterator(std::vector<Value> items) {
    return sequence(SequenceType::kIterator, std::move(items));
  }
  Dict* dict() { return make<Dict>(); }
  static Value value(Dict* dict) { return Value(Kind::kDict, dict); }

  template <typename T, typename... Args>
  T* make(Args&&... args) {
    charge(sizeof(T) + kObjectPrice);
    auto owned = std::make_unique<T>(std::forward<Args>(args)...);
    T* result = owned.get();
    objects_.push_back(std::move(owned));
    return result;
  }

  /// One level of whatever recurses: expressions, calls, comparisons of nested lists.
  class Level {
   public:
    explicit Level(Heap& heap) : heap_(heap) {
      if (++heap_.depth_ > kMaxDepth) heap_.too_deep();
    }
    ~Level() { --heap_.depth_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Heap& heap_;
  };

 private:
  static constexpr uint64_t kObjectPrice = 64;
  static constexpr int kMaxDepth = 600;
  [[noreturn]] void exhausted() const;
  [[noreturn]] void too_deep();

  uint64_t left_;
  int depth_ = 0;
  std::vector<std::unique_ptr<Object>> objects_;
};

inline Sequence& Value::sequence() const {
  return static_cast<Sequence&>(*object_);
}
inline Dict& Value::dict() const {
  return static_cast<Dict&>(*object_);
}
inline Namespace& Value::name_space() const {
  return static_cast<Namespace&>(*object_);
}
inline Callable& Value::callable() const {
  return static_cast<Callable&>(*object_);
}
inline LoopObject& Value::loop() const {
  return static_cast<LoopObject&>(*object_);
}

inline bool is_sequence(const Value& value, SequenceType type) {
  return value.is(Kind::kSequence) && value.sequence().type == type;
}

std::string type_name(const Value& value);  ///< Python's: "str", "NoneType"
bool truthy(const Value& value);
bool equal(Heap& heap, const Value& a, const Value& b);
/// -1, 0, 1, or 2 where neither is less (NaN). Faults, naming `operation`, on types without order.
int order(Heap& heap, const Value& a, const Value& b, const char* operation);
/// Whether both are the same object, as far as a template can know it.
bool same(const Value& a, const Value& b);
/// Faults where Python's hash() does: lists, dicts and tuples of them.
void require_hashable(Heap& heap, const Value& value);

/// len(); faults on values without one.
int64_t length(const Value& value);
/// What iterating over it gives; an iterator is used up. Faults on values that have no items.
std::vector<Value> items_of(Heap& heap, const Value& value);
/// The same as a sequence to be taken from one by one, shared where it is one already.
Sequence* iterate(Heap& heap, const Value& value);

}  // namespace convoke::jinja
