#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "runtime/chat_template/nesting.h"
#include "runtime/chat_template/parser.h"
#include "runtime/chat_template/python_text.h"

namespace convoke::jinja {
namespace {

using Node = Expression::Kind;
using Type = Token::Type;

void deepen(Expression& expression, const ExpressionPtr& child) {
  if (child) expression.depth = std::max(expression.depth, child->depth + 1);
}

}  // namespace

void Parser::note_unknown(int line, const std::string& what) {
  if (!conditional_) unknown_.emplace_back(line, what);
}

void Parser::require_known() const {
  if (!unknown_.empty()) fail_at(unknown_[0].first, unknown_[0].second);
}

std::unique_ptr<Expression> Parser::make(Node kind, int line) const {
  auto out = std::make_unique<Expression>();
  out->kind = kind;
  out->line = line;
  return out;
}

/// Notes the depth: chains such as a + b + c nest without the parser recursing.
ExpressionPtr Parser::finished(std::unique_ptr<Expression> expression) const {
  for (const ExpressionPtr& item : expression->items) deepen(*expression, item);
  if (expression->call) {
    for (const auto& argument : expression->call->positional) deepen(*expression, argument);
    for (const auto& argument : expression->call->named) deepen(*expression, argument.second);
    deepen(*expression, expression->call->rest);
    deepen(*expression, expression->call->named_rest);
  }
  if (expression->depth > kMaxNesting) fail_at(expression->line, "the template nests too deeply");
  return expression;
}

ExpressionPtr Parser::pair(Node kind, int line, ExpressionPtr a, ExpressionPtr b) const {
  auto out = make(kind, line);
  out->items.push_back(std::move(a));
  if (b) out->items.push_back(std::move(b));
  return finished(std::move(out));
}

ExpressionPtr Parser::parse_expression() {
  const Nesting nesting(*this);
  int line = now().line;
  const size_t known = unknown_.size();
  ExpressionPtr value = parse_or();
  while (skip_name("if")) {
    unknown_.resize(known);  // what is before the `if` is conditional, too
    const Changed<bool> conditional(conditional_, true);
    auto out = make(Node::kConditional, line);
    out->items.push_back(parse_or());
    out->items.push_back(std::move(value));
    out->items.push_back(skip_name("else") ? parse_expression() : nullptr);
    value = finished(std::move(out));
    line = now().line;
  }
  return value;
}

ExpressionPtr Parser::parse_or() {
  ExpressionPtr left = parse_and();
  while (is_name("or")) {
    const int line = take().line;
    left = pair(Node::kOr, line, std::move(left), parse_and());
  }
  return left;
}

ExpressionPtr Parser::parse_and() {
  ExpressionPtr left = parse_not();
  while (is_name("and")) {
    const int line = take().line;
    left = pair(Node::kAnd, line, std::move(left), parse_not());
  }
  return left;
}

ExpressionPtr Parser::parse_not() {
  const Nesting nesting(*this);
  if (!is_name("not")) return parse_compare();
  const int line = take().line;
  return pair(Node::kNot, line, parse_not(), nullptr);
}

ExpressionPtr Parser::parse_compare() {
  constexpr std::pair<std::string_view, Relation> kRelations[] = {
      {"==", Relation::kEqual},     {"!=", Relation::kNotEqual}, {"<", Relation::kLess},
      {"<=", Relation::kLessEqual}, {">", Relation::kGreater},   {">=", Relation::kGreaterEqual}};
  auto out = make(Node::kCompare, now().line);
  out->items.push_back(parse_sum());
  while (true) {
    const auto* found = std::find_if(std::begin(kRelations), std::end(kRelations),
                                     [&](const auto& row) { return is_operator(row.first); });
    if (found != std::end(kRelations)) {
      take();
      out->relations.push_back(found->second);
    } else if (skip_name("in")) {
      out->relations.push_back(Relation::kIn);
    } else if (is_name("not") && ahead().type == Type::kName && ahead().text == "in") {
      take();
      take();
      out->relations.push_back(Relation::kNotIn);
    } else {
      break;
    }
    out->items.push_back(parse_sum());
  }
  if (out->relations.empty()) return std::move(out->items[0]);
  return finished(std::move(out));
}

ExpressionPtr Parser::parse_sum() {
  ExpressionPtr left = parse_concatenation();
  while (is_operator("+") || is_operator("-")) {
    auto out = make(Node::kArithmetic, now().line);
    out->arithmetic = take().text == "+" ? Arithmetic::kAdd : Arithmetic::kSubtract;
    out->items.push_back(std::move(left));
    out->items.push_back(parse_concatenation());
    left = finished(std::move(out));
  }
  return left;
}

ExpressionPtr Parser::parse_concatenation() {
  auto out = make(Node::kConcatenate, now().line);
  out->items.push_back(parse_product());
  while (skip_operator("~")) out->items.push_back(parse_product());
  if (out->items.size() == 1) return std::move(out->items[0]);
  return finished(std::move(out));
}

ExpressionPtr Parser::parse_product() {
  constexpr std::pair<std::string_view, Arithmetic> kOperators[] = {
      {"*", Arithmetic::kMultiply},
      {"/", Arithmetic::kDivide},
      {"//", Arithmetic::kFloorDivide},
      {"%", Arithmetic::kModulo}};
  ExpressionPtr left = parse_power();
  while (true) {
    const auto* found = std::find_if(std::begin(kOperators), std::end(kOperators),
                                     [&](const auto& row) { return is_operator(row.first); });
    if (found == std::end(kOperators)) return left;
    auto out = make(Node::kArithmetic, take().line);
    out->arithmetic = found->second;
    out->items.push_back(std::move(left));
    out->items.push_back(parse_power());
    left = finished(std::move(out));
  }
}

ExpressionPtr Parser::parse_power() {
  ExpressionPtr left = parse_unary();
  while (is_operator("**")) {
    auto out = make(Node::kArithmetic, take().line);
    out->arithmetic = Arithmetic::kPower;
    out->items.push_back(std::move(left));
    out->items.push_back(parse_unary());
    left = finished(std::move(out));
  }
  return left;
}

ExpressionPtr Parser::parse_unary(bool with_filters) {
  const Nesting nesting(*this);
  ExpressionPtr value;
  if (is_operator("-") || is_operator("+")) {
    const Token sign = take();
    value = pair(sign.text == "-" ? Node::kNegate : Node::kPlus, sign.line, parse_unary(false),
                 nullptr);
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  return with_filters ? parse_filters_and_tests(std::move(value)) : std::move(value);
}

ExpressionPtr Parser::parse_name(const Token& token, bool as_target) {
  const std::string& name = token.text;
  if (name == "true" || name == "True" || name == "false" || name == "False" || name == "none" ||
      name == "None") {
    auto out = make(Node::kConstant, token.line);
    const char first = static_cast<char>(name[0] | 0x20);
    if (first != 'n') out->constant = Value::boolean(first == 't');
    return finished(std::move(out));
  }
  const bool attribute = as_target && is_operator(".");
  auto out = make(attribute ? Node::kNamespaceAttribute : Node::kName, token.line);
  out->name = program_.names.number(name);
  if (attribute) {
    take();
    out->text = expect_name();
  }
  for (MacroSyntax* macro : macros_) {
    macro->takes_rest |= name == "varargs";
    macro->takes_named_rest |= name == "kwargs";
    macro->takes_caller |= name == "caller";
  }
  return finished(std::move(out));
}

ExpressionPtr Parser::parse_primary(bool as_target) {
  if (is_operator("[")) return parse_list();
  if (is_operator("{")) return parse_dict();
  const std::string what = described();
  const Token token = take();
  if (token.type == Type::kName) return parse_name(token, as_target);
  if (token.type == Type::kOperator && token.text == "(") {
    ExpressionPtr inner = parse_tuple(TupleOf::kExpressions, true);
    expect_operator(")");
    return inner;
  }
  auto out = make(Node::kConstant, token.line);
  if (token.type == Type::kString) {
    std::string text = token.text;
    while (now().type == Type::kString) text += take().text;
    out->constant = Value::text(std::move(text));
  } else if (token.type == Type::kInteger) {
    const auto number = python::parse_integer(token.text, 0);
    if (!number)
      fail_at(token.line, fmt::format("the integer {} does not fit 64 bits", token.text));
    out->constant = Value::integer(*number);
  } else if (token.type == Type::kFloat) {
    out->constant = Value::real(python::parse_float(token.text).value_or(0.0));
  } else {
    fail_at(token.line, "expected an expression, found " + what);
  }
  return finished(std::move(out));
}

ExpressionPtr Parser::parse_list() {
  auto out = make(Node::kList, take().line);
  while (!is_operator("]")) {
    if (!out->items.empty()) expect_operator(",");
    if (is_operator("]")) break;
    out->items.push_back(parse_expression());
  }
  take();
  return finished(std::move(out));
}

ExpressionPtr Parser::parse_dict() {
  auto out = make(Node::kDict, take().line);
  while (!is_operator("}")) {
    if (!out->items.empty()) expect_operator(",");
    if (is_operator("}")) break;
    out->items.push_back(parse_expression());
    expect_operator(":");
    out->items.push_back(parse_expression());
  }
  take();
  return finished(std::move(out));
}

ExpressionPtr Parser::parse_postfix(ExpressionPtr value) {
  while (true) {
    if (is_operator(".") || is_operator("[")) {
      value = parse_subscript(std::move(value));
    } else if (is_operator("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPtr Parser::parse_subscript(ExpressionPtr value) {
  const Token token = take();
  if (token.text == ".") {
    if (now().type == Type::kName) {
      auto out = make(Node::kAttribute, token.line);
      out->text = take().text;
      out->items.push_back(std::move(value));
      return finished(std::move(out));
    }
    if (now().type != Type::kInteger) fail("expected a name or number, found " + described());
    return pair(Node::kItem, token.line, std::move(value), parse_primary());
  }
  if (is_operator(":")) return parse_slice(std::move(value), nullptr, token.line);
  auto tuple = make(Node::kTuple, token.line);
  while (!is_operator("]")) {
    if (!tuple->items.empty()) expect_operator(",");
    tuple->items.push_back(parse_expression());
    if (!is_operator(":")) continue;
    if (tuple->items.size() > 1) fail("slices of several dimensions are not supported");
    return parse_slice(std::move(value), std::move(tuple->items[0]), token.line);
  }
  take();
  ExpressionPtr key =
      tuple->items.size() == 1 ? std::move(tuple->items[0]) : finished(std::move(tuple));
  return pair(Node::kItem, token.line, std::move(value), std::move(key));
}

/// From the first colon on.
ExpressionPtr Parser::parse_slice(ExpressionPtr value, ExpressionPtr start, int line) {
  auto out = make(Node::kSlice, line);
  out->items.push_back(std::move(value));
  out->items.push_back(std::move(start));
  for (int i = 0; i < 2; ++i) {
    const bool given = skip_operator(":") && !is_operator(":") && !is_operator("]");
    out->items.push_back(given ? parse_expression() : nullptr);
  }
  expect_operator("]");
  return finished(std::move(out));
}

ExpressionPtr Parser::parse_filters_and_tests(ExpressionPtr value) {
  while (true) {
    if (skip_operator("|")) {
      value = parse_filter(std::move(value));
    } else if (is_name("is")) {
      value = parse_test(std::move(value));
    } else if (is_operator("(")) {
      value = parse_call(std::move(value));
    } else {
      return value;
    }
  }
}

std::string Parser::parse_dotted_name() {
  std::string name = expect_name();
  while (skip_operator(".")) name.append(1, '.').append(expect_name());
  return name;
}

/// From the filter's name on; `value` may be null.
ExpressionPtr Parser::parse_filter(ExpressionPtr value) {
  auto out = make(Node::kFilter, now().line);
  out->text = parse_dotted_name();
  out->filter = find_filter(out->text);
  if (out->filter == nullptr) note_unknown(out->line, "no filter named '" + out->text + "'");
  out->call = is_operator("(") ? parse_arguments() : std::make_unique<CallSyntax>();
  out->items.push_back(std::move(value));
  return finished(std::move(out));
}

ExpressionPtr Parser::parse_test(ExpressionPtr value) {
  auto out = make(Node::kTest, take().line);
  const bool negated = skip_name("not");
  out->text = parse_dotted_name();
  out->test = find_test(out->text);
  if (out->test == nullptr) note_unknown(out->line, "no test named '" + out->text + "'");
  out->items.push_back(std::move(value));
  const bool literal = now().type == Type::kString || now().type == Type::kInteger ||
                       now().type == Type::kFloat || is_operator("[") || is_operator("{");
  const bool name =
      now().type == Type::kName && !is_name("else") && !is_name("or") && !is_name("and");
  if (is_operator("(")) {
    out->call = parse_arguments();
  } else {
    out->call = std::make_unique<CallSyntax>();
    if (is_name("is")) fail("tests cannot be chained with is");
    if (literal || name) out->call->positional.push_back(parse_postfix(parse_primary()));
  }
  const int line = out->line;
  ExpressionPtr test = finished(std::move(out));
  return negated ? pair(Node::kNot, line, std::move(test), nullptr) : std::move(test);
}

ExpressionPtr Parser::parse_call(ExpressionPtr callee) {
  auto out = make(Node::kCall, now().line);
  out->call = parse_arguments();
  out->items.push_back(std::move(callee));
  return finished(std::move(out));
}

void Parser::parse_argument(CallSyntax& call, int line) {
  const auto require = [&](bool holds) {
    if (!holds) fail_at(line, "invalid order of arguments in a call");
  };
  if (skip_operator("*")) {
    require(!call.rest && !call.named_rest);
    call.rest = parse_expression();
  } else if (skip_operator("**")) {
    require(!call.named_rest);
    call.named_rest = parse_expression();
  } else if (now().type == Type::kName && ahead().type == Type::kOperator && ahead().text == "=") {
    require(!call.named_rest);
    const std::string name = take().text;
    take();
    for (const auto& known : call.named) {
      if (known.first == name) fail_at(line, "the argument '" + name + "' is given twice");
    }
    call.named.emplace_back(name, parse_expression());
  } else {
    require(!call.rest && !call.named_rest && call.named.empty());
    call.positional.push_back(parse_expression());
  }
}

std::unique_ptr<CallSyntax> Parser::parse_arguments() {
  auto call = std::make_unique<CallSyntax>();
  const int line = take().line;
  for (bool first = true; !is_operator(")"); first = false) {
    if (!first) {
      expect_operator(",");
      if (is_operator(")")) break;
    }
    parse_argument(*call, line);
  }
  take();
  return call;
}

/// Expressions with commas between them make a tuple, one alone is itself.
ExpressionPtr Parser::parse_tuple(TupleOf of, bool in_parentheses) {
  auto tuple = make(Node::kTuple, now().line);
  bool is_tuple = false;
  while (true) {
    const bool ended =
        now().type == Type::kVariableEnd || now().type == Type::kBlockEnd || is_operator(")");
    if (ended) break;
    tuple->items.push_back(of == TupleOf::kTargets            ? parse_primary(true)
                           : of == TupleOf::kWithoutCondition ? parse_or()
                                                              : parse_expression());
    if (!skip_operator(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !tuple->items.empty()) return std::move(tuple->items[0]);
  if (!is_tuple && !in_parentheses) fail("expected an expression, found " + described());
  return finished(std::move(tuple));
}

ExpressionPtr Parser::parse_target(bool with_namespaces) {
  ExpressionPtr target = parse_tuple(TupleOf::kTargets);
  require_target(*target);
  const auto is_attribute = [](const Expression& e) { return e.kind == Node::kNamespaceAttribute; };
  bool attribute = is_attribute(*target);
  for (const auto& item : target->items) attribute |= is_attribute(*item);
  if (attribute && !with_namespaces) fail_at(target->line, "cannot assign to an attribute here");
  return target;
}

void Parser::require_target(const Expression& target) const {
  if (target.kind == Node::kTuple) {
    for (const auto& item : target.items) require_target(*item);
    return;
  }
  if (target.kind != Node::kName && target.kind != Node::kNamespaceAttribute) {
    fail_at(target.line, "cannot assign to an expression or constant");
  }
  if (target.kind == Node::kName && target.name == program_.loop && fors_ > 0) {
    fail_at(target.line, "cannot assign to the special variable loop inside of a for loop");
  }
}

}  // namespace convoke::jinja
