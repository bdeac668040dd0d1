// Runs a syntax tree. One interpreter renders once.
#pragma once

#include <ctime>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/chat_template/syntax_tree.h"
#include "runtime/chat_template/value.h"

namespace convoke::jinja {

/// Variables of a loop's body, a macro or the template. Macros keep the scope they were made in.
struct Scope : Object {
  explicit Scope(Scope* p) : parent(p) {}
  void set(Heap& heap, int name, Value value);
  const Value* find(Heap& heap, int name) const;  ///< here or further out; nullptr: nowhere

  Scope* parent;
  std::vector<std::pair<int, Value>> variables;
};

class Interpreter {
 public:
  /// `program` and `heap` must outlive the interpreter; `now` is what strftime_now prints, in local
  /// time. No output, nor the value of a block, is longer than `output_limit` bytes.
  Interpreter(const Program& program, Heap& heap, std::time_t now, size_t output_limit)
      : program_(program), heap_(heap), now_(now), output_limit_(output_limit) {}

  /// Renders with the variables of `globals`. Throws Fault, and Error(kUsage) for what the template
  /// raises itself.
  std::string run(Scope& globals);

  Heap& heap() { return heap_; }
  std::time_t now() const { return now_; }
  int line() const { return line_; }  ///< of what was evaluated last
  Value text(std::string bytes) { return heap_.text(std::move(bytes)); }

  Value call(const Value& callee, Arguments& arguments);

 private:
  friend class Loop;
  friend class Macro;
  enum class Flow { kNext, kBreak, kContinue };

  // statements: interpreter.cc
  Flow execute(const Block& block, Scope& scope, std::string& out);
  Flow execute(const Statement& statement, Scope& scope, std::string& out);
  Flow run_if(const Statement& statement, Scope& scope, std::string& out);
  Flow run_for(const Statement& statement, Scope& scope, std::string& out);
  Flow run_with(const Statement& statement, Scope& scope, std::string& out);
  Flow run_captured(const Statement& statement, Scope& scope, std::string& out);
  void run_call_block(const Statement& statement, Scope& scope, std::string& out);
  void assign(const Expression& target, const Value& value, Scope& scope);
  void append(std::string& out, std::string_view text);
  Value macro(const Statement& statement, Scope& scope);

  // expressions: evaluate.cc
  Value evaluate(const Expression& expression, Scope& scope);
  Value evaluate_name(const Expression& expression, Scope& scope);
  Value evaluate_collection(const Expression& expression, Scope& scope);
  Value evaluate_access(const Expression& expression, Scope& scope);
  Value evaluate_logic(const Expression& expression, Scope& scope);
  Value evaluate_operator(const Expression& expression, Scope& scope);
  Value evaluate_slice(const Expression& expression, Scope& scope);
  Value evaluate_call(const Expression& expression, Scope& scope, const Value* caller);
  Value evaluate_filter(const Expression& expression, Scope& scope, const Value* start);
  bool evaluate_test(const Expression& expression, Scope& scope);
  Arguments evaluate_arguments(const CallSyntax& call, Scope& scope);

  const Program& program_;
  Heap& heap_;
  std::time_t now_;
  size_t output_limit_;
  int line_ = 1;
};

}  // namespace convoke::jinja
