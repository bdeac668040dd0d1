#include "runtime/chat_template/loop.h"

namespace convoke::jinja {

struct Loop::Method : Callable {
  Method(Loop& l, bool c) : loop(l), cycles(c) {}

  Value call(Interpreter& interpreter, Arguments& arguments) override {
    const auto& given = arguments.positional;
    if (!arguments.named.empty()) fault("{}() takes no keyword arguments", name());
    if (cycles) {
      if (given.empty()) fault("no items for cycling given");
      return given[static_cast<size_t>(loop.index_) % given.size()];
    }
    Heap& heap = interpreter.heap();
    bool same = loop.changed_ && loop.changed_->size() == given.size();
    for (size_t i = 0; same && i < given.size(); ++i)
      same = equal(heap, (*loop.changed_)[i], given[i]);
    if (!same) loop.changed_ = given;
    return Value::boolean(!same);
  }
  std::string shown() const override { return std::string("<method loop.") + name() + ">"; }
  const char* name() const { return cycles ? "cycle" : "changed"; }

  Loop& loop;
  bool cycles;
};

Loop::Loop(Interpreter& interpreter, const Statement& statement, Scope& scope,
           const Value& iterable)
    : interpreter_(interpreter),
      statement_(statement),
      scope_(scope),
      items_(iterate(interpreter.heap(), iterable)),
      at_(items_->type == SequenceType::kIterator ? &items_->next : &own_at_),
      tested_(statement.test != nullptr) {
  if (tested_) test_scope_ = interpreter.heap().make<Scope>(&scope);
}

std::optional<Value> Loop::fetch() {
  while (*at_ < items_->items.size()) {
    Value item = items_->items[(*at_)++];
    if (!tested_) return item;
    interpreter_.heap().charge(sizeof(Value));
    test_scope_->variables.clear();
    interpreter_.assign(*statement_.target, item, *test_scope_);
    if (truthy(interpreter_.evaluate(*statement_.test, *test_scope_))) return item;
  }
  return std::nullopt;
}

const std::optional<Value>& Loop::peek() {
  if (!peeked_) {
    ahead_ = fetch();
    peeked_ = true;
  }
  return ahead_;
}

std::optional<Value> Loop::next() {
  std::optional<Value> item = peeked_ ? std::move(ahead_) : fetch();
  peeked_ = false;
  ahead_.reset();
  if (!item) return item;
  ++index_;
  previous_ = std::move(current_);
  current_ = item;
  return item;
}

int64_t Loop::length() {
  if (length_) return *length_;
  if (!tested_ && items_->type != SequenceType::kIterator) {
    length_ = static_cast<int64_t>(items_->items.size());
    return *length_;
  }
  // What is left must be fetched to be counted.
  Heap& heap = interpreter_.heap();
  std::vector<Value> rest;
  while (std::optional<Value> item = fetch()) {
    heap.charge(sizeof(Value));
    rest.push_back(std::move(*item));
  }
  length_ = index_ + 1 + static_cast<int64_t>(rest.size()) + (peeked_ && ahead_ ? 1 : 0);
  items_ = heap.make<Sequence>(SequenceType::kTuple, std::move(rest));
  own_at_ = 0;
  at_ = &own_at_;
  tested_ = false;
  return *length_;
}

Value Loop::neighbour(const std::optional<Value>& value, const char* which) const {
  if (value) return *value;
  return Value::undefined(std::string("there is no ") + which + " item");
}

Value Loop::method(const char* name) {
  return Value(Kind::kCallable,
               interpreter_.heap().make<Method>(*this, std::string_view(name) == "cycle"));
}

Value Loop::attribute(std::string_view name) {
  if (name == "index") return Value::integer(index_ + 1);
  if (name == "index0") return Value::integer(index_);
  if (name == "first") return Value::boolean(index_ == 0);
  if (name == "last") return Value::boolean(!peek());
  if (name == "length") return Value::integer(length());
  if (name == "revindex") return Value::integer(length() - index_);
  if (name == "revindex0") return Value::integer(length() - index_ - 1);
  if (name == "previtem") return neighbour(index_ == 0 ? std::nullopt : previous_, "previous");
  if (name == "nextitem") return neighbour(peek(), "next");
  if (name == "depth") return Value::integer(1);
  if (name == "depth0") return Value::integer(0);
  if (name == "cycle") return method("cycle");
  if (name == "changed") return method("changed");
  return Value::undefined(fmt::format("'LoopContext' object has no attribute '{}'", name));
}

}  // namespace convoke::jinja
