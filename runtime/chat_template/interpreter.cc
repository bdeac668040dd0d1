#include "runtime/chat_template/interpreter.h"

#include <algorithm>

#include "runtime/chat_template/loop.h"
#include "runtime/chat_template/value_text.h"

namespace convoke::jinja {

namespace {
constexpr uint64_t kStepPrice = 32;
}

void Scope::set(Heap& heap, int name, Value value) {
  for (auto& [known, old] : variables) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  heap.charge(sizeof(Value) + variables.size());
  variables.emplace_back(name, std::move(value));
}

const Value* Scope::find(Heap& heap, int name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
    heap.charge(scope->variables.size() + 1);
    for (const auto& [known, value] : scope->variables) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

/// A macro as the template calls it.
class Macro : public Callable {
 public:
  Macro(const Statement& statement, Scope& scope) : statement_(statement), scope_(scope) {}
  Value call(Interpreter& interpreter, Arguments& arguments) override;
  std::string shown() const override { return "<Macro '" + statement_.macro->name + "'>"; }

 private:
  void bind(Interpreter& interpreter, Arguments& arguments, Scope& inner);
  void bind_rest(Interpreter& interpreter, Arguments& arguments, Scope& inner);
  const Statement& statement_;
  Scope& scope_;
};

namespace {

/// The argument of that name, taken away from the others.
std::optional<Value> take_named(Arguments& arguments, std::string_view name) {
  auto& named = arguments.named;
  const auto it = std::find_if(named.begin(), named.end(),
                               [&](const auto& argument) { return argument.first == name; });
  if (it == named.end()) return std::nullopt;
  Value value = std::move(it->second);
  named.erase(it);
  return value;
}

}  // namespace

void Macro::bind(Interpreter& interpreter, Arguments& arguments, Scope& inner) {
  const MacroSyntax& macro = *statement_.macro;
  Heap& heap = interpreter.heap_;
  const size_t required = macro.parameters.size() - macro.defaults.size();
  std::vector<std::optional<Value>> given(macro.parameters.size());
  for (size_t i = 0; i < given.size(); ++i) {
    const std::string& name = macro.parameters[i].second;
    if (i < arguments.positional.size()) {
      given[i] = arguments.positional[i];
    } else {
      given[i] = take_named(arguments, name);
    }
  }
  bind_rest(interpreter, arguments, inner);
  for (size_t i = 0; i < given.size(); ++i) {
    const auto& [number, name] = macro.parameters[i];
    if (!given[i]) {
      given[i] = i < required
                     ? Value::undefined(fmt::format("parameter '{}' was not provided", name))
                     : interpreter.evaluate(*macro.defaults[i - required], inner);
    }
    inner.set(heap, number, *given[i]);
  }
}

/// What no parameter has taken.
void Macro::bind_rest(Interpreter& interpreter, Arguments& arguments, Scope& inner) {
  const MacroSyntax& macro = *statement_.macro;
  const Program& program = interpreter.program_;
  Heap& heap = interpreter.heap_;
  if (macro.takes_caller) {
    auto caller = take_named(arguments, "caller");
    inner.set(heap, program.caller, caller ? *caller : Value::undefined("No caller defined"));
  }
  if (macro.takes_named_rest) {
    Dict* rest = heap.dict();
    for (auto& [name, value] : arguments.named) rest->set(heap, heap.text(name), value);
    inner.set(heap, program.kwargs, Heap::value(rest));
  } else if (!arguments.named.empty()) {
    fault("macro '{}' takes no keyword argument '{}'", macro.name, arguments.named[0].first);
  }
  const size_t taken = std::min(arguments.positional.size(), macro.parameters.size());
  if (macro.takes_rest) {
    const auto begin = arguments.positional.begin() + static_cast<std::ptrdiff_t>(taken);
    inner.set(heap, program.varargs,
              heap.tuple(std::vector<Value>(begin, arguments.positional.end())));
  } else if (taken < arguments.positional.size()) {
    fault("macro '{}' takes not more than {} argument(s)", macro.name, macro.parameters.size());
  }
}

Value Macro::call(Interpreter& interpreter, Arguments& arguments) {
  const Heap::Level level(interpreter.heap_);
  Scope* inner = interpreter.heap_.make<Scope>(&scope_);
  bind(interpreter, arguments, *inner);
  std::string out;
  interpreter.execute(statement_.body, *inner, out);
  return interpreter.text(std::move(out));
}

std::string Interpreter::run(Scope& globals) {
  std::string out;
  execute(program_.body, globals, out);
  return out;
}

Value Interpreter::call(const Value& callee, Arguments& arguments) {
  if (callee.is(Kind::kUndefined)) fault("{}", callee.text());
  if (!callee.is(Kind::kCallable)) fault("'{}' object is not callable", type_name(callee));
  return callee.callable().call(*this, arguments);
}

void Interpreter::append(std::string& out, std::string_view text) {
  heap_.charge(text.size());
  if (text.size() > output_limit_ - out.size()) {
    throw Fault(ErrorKind::kModel, fmt::format("the output exceeds {} bytes", output_limit_));
  }
  out.append(text);
}

Value Interpreter::macro(const Statement& statement, Scope& scope) {
  return Value(Kind::kCallable, heap_.make<Macro>(statement, scope));
}

Interpreter::Flow Interpreter::execute(const Block& block, Scope& scope, std::string& out) {
  for (const Statement& statement : block) {
    heap_.charge(kStepPrice);
    line_ = statement.line;
    const Flow flow = execute(statement, scope, out);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(const Statement& statement, Scope& scope, std::string& out) {
  const Heap::Level level(heap_);
  switch (statement.kind) {
    case Statement::Kind::kData:
      append(out, statement.text);
      return Flow::kNext;
    case Statement::Kind::kOutput:
      append(out, to_text(heap_, evaluate(*statement.expression, scope)));
      return Flow::kNext;
    case Statement::Kind::kIf:
      return run_if(statement, scope, out);
    case Statement::Kind::kFor:
      return run_for(statement, scope, out);
    case Statement::Kind::kSet:
      assign(*statement.target, evaluate(*statement.expression, scope), scope);
      return Flow::kNext;
    case Statement::Kind::kSetBlock:
    case Statement::Kind::kFilterBlock:
      return run_captured(statement, scope, out);
    case Statement::Kind::kMacro:
      assign(*statement.target, macro(statement, scope), scope);
      return Flow::kNext;
    case Statement::Kind::kCallBlock:
      run_call_block(statement, scope, out);
      return Flow::kNext;
    case Statement::Kind::kWith:
      return run_with(statement, scope, out);
    case Statement::Kind::kGeneration:
      return execute(statement.body, *heap_.make<Scope>(&scope), out);
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::run_if(const Statement& statement, Scope& scope, std::string& out) {
  for (const auto& [condition, body] : statement.branches) {
    if (truthy(evaluate(*condition, scope))) return execute(body, scope, out);
  }
  return execute(statement.otherwise, scope, out);
}

Interpreter::Flow Interpreter::run_for(const Statement& statement, Scope& scope, std::string& out) {
  const Value iterable = evaluate(*statement.expression, scope);
  Loop* loop = heap_.make<Loop>(*this, statement, scope, iterable);
  Scope* inner = heap_.make<Scope>(&scope);
  bool completed = false;
  while (const std::optional<Value> item = loop->next()) {
    heap_.charge(kStepPrice);
    inner->variables.clear();
    inner->set(heap_, program_.loop, Value(Kind::kLoop, loop));
    assign(*statement.target, *item, *inner);
    const Flow flow = execute(statement.body, *inner, out);
    if (flow == Flow::kBreak) break;
    // As in Jinja2, a body that `continue` left has not run to its end.
    if (flow == Flow::kNext) completed = true;
  }
  if (completed || statement.otherwise.empty()) return Flow::kNext;
  return execute(statement.otherwise, *heap_.make<Scope>(&scope), out);
}

Interpreter::Flow Interpreter::run_with(const Statement& statement, Scope& scope,
                                        std::string& out) {
  std::vector<Value> values;
  for (const auto& value : statement.values) values.push_back(evaluate(*value, scope));
  Scope* inner = heap_.make<Scope>(&scope);
  for (size_t i = 0; i < values.size(); ++i) assign(*statement.targets[i], values[i], *inner);
  return execute(statement.body, *inner, out);
}

/// {% set x %} and {% filter f %}: a body whose text goes elsewhere.
Interpreter::Flow Interpreter::run_captured(const Statement& statement, Scope& scope,
                                            std::string& out) {
  Scope* inner = heap_.make<Scope>(&scope);
  std::string captured;
  const Flow flow = execute(statement.body, *inner, captured);
  if (flow != Flow::kNext) return flow;
  Value value = text(std::move(captured));
  const bool assigns = statement.kind == Statement::Kind::kSetBlock;
  if (statement.expression) {
    value = evaluate_filter(*statement.expression, *inner, &value);
  }
  if (assigns) {
    assign(*statement.target, value, scope);
  } else {
    append(out, to_text(heap_, value));
  }
  return Flow::kNext;
}

void Interpreter::run_call_block(const Statement& statement, Scope& scope, std::string& out) {
  const Value caller = macro(statement, scope);
  append(out, to_text(heap_, evaluate_call(*statement.expression, scope, &caller)));
}

void Interpreter::assign(const Expression& target, const Value& value, Scope& scope) {
  if (target.kind == Expression::Kind::kName) return scope.set(heap_, target.name, value);
  if (target.kind == Expression::Kind::kNamespaceAttribute) {
    const Value* holder = scope.find(heap_, target.name);
    line_ = target.line;
    if (holder == nullptr || !holder->is(Kind::kNamespace)) {
      fault("cannot assign attribute on non-namespace object");
    }
    if (target.text[0] == '_')
      fault("a namespace cannot hold '{}', with an underscore", target.text);
    return holder->name_space().attributes.set(heap_, heap_.text(target.text), value);
  }
  Sequence* items = iterate(heap_, value);
  const size_t given = items->items.size() - items->next;
  line_ = target.line;
  if (given < target.items.size()) {
    fault("not enough values to unpack (expected {}, got {})", target.items.size(), given);
  }
  if (given > target.items.size()) {
    fault("too many values to unpack (expected {})", target.items.size());
  }
  for (size_t i = 0; i < target.items.size(); ++i) {
    assign(*target.items[i], items->items[items->next + i], scope);
  }
}

}  // namespace convoke::jinja
