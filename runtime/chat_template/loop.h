// The variable `loop`, which also fetches a loop's items: as late as Jinja2 does, because the test
// of a loop may depend on what its body has done.
#pragma once

#include <optional>

#include "runtime/chat_template/interpreter.h"

namespace convoke::jinja {

class Loop : public LoopObject {
 public:
  /// `scope` is where the for tag stands.
  Loop(Interpreter& interpreter, const Statement& statement, Scope& scope, const Value& iterable);

  std::optional<Value> next();  ///< the next item that passes the test; nullopt at the end
  Value attribute(std::string_view name) override;

 private:
  std::optional<Value> fetch();
  const std::optional<Value>& peek();
  int64_t length();
  Value neighbour(const std::optional<Value>& value, const char* which) const;
  Value method(const char* name);

  struct Method;
  Interpreter& interpreter_;
  const Statement& statement_;
  Scope& scope_;
  Scope* test_scope_ = nullptr;
  Sequence* items_;
  size_t own_at_ = 0;
  size_t* at_;  ///< in items_; an iterator's own, so that what is taken from it is gone
  bool tested_;
  int64_t index_ = -1;
  std::optional<Value> previous_, current_;
  std::optional<Value> ahead_;
  bool peeked_ = false;
  std::optional<int64_t> length_;
  std::optional<std::vector<Value>> changed_;
};

}  // namespace convoke::jinja
