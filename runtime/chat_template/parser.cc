#include "runtime/chat_template/parser.h"

#include <algorithm>

#include "runtime/chat_template/nesting.h"
#include "runtime/model_files/shown_text.h"

namespace convoke::jinja {

using Type = Token::Type;

int NameTable::number(const std::string& name) {
  const auto [it, added] = numbers_.emplace(name, static_cast<int>(names_.size()));
  if (added) names_.push_back(name);
  return it->second;
}

int NameTable::find(const std::string& name) const {
  const auto it = numbers_.find(name);
  return it == numbers_.end() ? -1 : it->second;
}

Program parse_program(std::string_view source, const std::string& name) {
  Program program;
  program.name = name;
  program.loop = program.names.number("loop");
  program.varargs = program.names.number("varargs");
  program.kwargs = program.names.number("kwargs");
  program.caller = program.names.number("caller");
  program.body = Parser(tokenize(source, name), program).parse();
  return program;
}

Token Parser::take() {
  Token token = now();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool Parser::skip_name(std::string_view name) {
  const bool is = is_name(name);
  if (is) take();
  return is;
}

bool Parser::skip_operator(std::string_view text) {
  const bool is = is_operator(text);
  if (is) take();
  return is;
}

std::string Parser::described() const {
  switch (now().type) {
    case Type::kData:
      return "template text";
    case Type::kVariableBegin:
      return "'{{'";
    case Type::kVariableEnd:
      return "'}}'";
    case Type::kBlockBegin:
      return "'{%'";
    case Type::kBlockEnd:
      return "'%}'";
    case Type::kEnd:
      return "the end of the template";
    default:
      return shown_text(now().text);
  }
}

void Parser::expect_operator(std::string_view text) {
  if (!skip_operator(text)) fail(fmt::format("expected '{}', found {}", text, described()));
}

void Parser::expect(Type type, const char* what) {
  if (now().type != type) fail(fmt::format("expected {}, found {}", what, described()));
  take();
}

std::string Parser::expect_name() {
  if (now().type != Type::kName) fail(fmt::format("expected a name, found {}", described()));
  return take().text;
}

Statement Parser::statement(Statement::Kind kind, int line) const {
  Statement out;
  out.kind = kind;
  out.line = line;
  return out;
}

Block Parser::parse() {
  return parse_until({});
}

/// Up to a tag of one of these names, which becomes the current token; without names, to the end.
Block Parser::parse_until(std::initializer_list<std::string_view> ends) {
  const Nesting nesting(*this);
  const Changed<std::vector<std::string_view>> changed(ends_, std::vector<std::string_view>(ends));
  Block block;
  while (now().type != Type::kEnd) {
    const Token token = take();
    if (token.type == Type::kData) {
      Statement data = statement(Statement::Kind::kData, token.line);
      data.text = token.text;
      block.push_back(std::move(data));
    } else if (token.type == Type::kVariableBegin) {
      Statement output = statement(Statement::Kind::kOutput, token.line);
      output.expression = parse_tuple(TupleOf::kExpressions);
      expect(Type::kVariableEnd, "'}}'");
      block.push_back(std::move(output));
    } else {
      const bool ended = now().type == Type::kName &&
                         std::find(ends.begin(), ends.end(), now().text) != ends.end();
      if (ended) return block;
      parse_statement(block);
      expect(Type::kBlockEnd, "'%}'");
    }
    require_known();
  }
  if (ends.size() > 0) {
    fail(fmt::format("the template ends inside of {{% {} %}} of line {}", open_tags_.back().first,
                     open_tags_.back().second));
  }
  return block;
}

/// From the end of the opening tag to the name of the closing one.
Block Parser::parse_body(std::initializer_list<std::string_view> ends) {
  skip_operator(":");
  expect(Type::kBlockEnd, "'%}'");
  return parse_until(ends);
}

Block Parser::parse_body_to(std::string_view end) {
  Block body = parse_body({end});
  take();
  return body;
}

void Parser::fail_unknown_tag(const Token& tag) const {
  std::string what = fmt::format("unknown tag {}", shown_text(tag.text));
  if (!ends_.empty()) {
    what += fmt::format("; {{% {} %}} of line {} wants {}", open_tags_.back().first,
                        open_tags_.back().second, fmt::join(ends_, " or "));
  }
  fail_at(tag.line, what);
}

void Parser::parse_statement(Block& block) {
  if (now().type != Type::kName) fail(fmt::format("expected a tag name, found {}", described()));
  const Token tag = take();
  open_tags_.emplace_back(tag.text, tag.line);
  if (tag.text == "if") {
    block.push_back(parse_if(tag.line));
  } else if (tag.text == "for") {
    block.push_back(parse_for(tag.line));
  } else if (tag.text == "set") {
    block.push_back(parse_set(tag.line));
  } else if (tag.text == "macro") {
    block.push_back(parse_macro(tag.line));
  } else if (tag.text == "call") {
    block.push_back(parse_call_block(tag.line));
  } else if (tag.text == "filter") {
    block.push_back(parse_filter_block(tag.line));
  } else if (tag.text == "with") {
    block.push_back(parse_with(tag.line));
  } else {
    open_tags_.pop_back();
    return parse_simple(block, tag);
  }
  open_tags_.pop_back();
}

void Parser::parse_simple(Block& block, const Token& tag) {
  if (tag.text == "generation") {
    open_tags_.emplace_back(tag.text, tag.line);
    const Changed<int> no_loop(loops_, 0);
    const Changed<bool> unconditional(conditional_, false);
    Statement out = statement(Statement::Kind::kGeneration, tag.line);
    out.body = parse_body_to("endgeneration");
    block.push_back(std::move(out));
    open_tags_.pop_back();
  } else if (tag.text == "print") {
    while (now().type != Type::kBlockEnd) {
      Statement out = statement(Statement::Kind::kOutput, tag.line);
      out.expression = parse_expression();
      block.push_back(std::move(out));
      if (now().type != Type::kBlockEnd) expect_operator(",");
    }
  } else if (tag.text == "break" || tag.text == "continue") {
    if (loops_ == 0) fail_at(tag.line, fmt::format("{{% {} %}} outside of a loop", tag.text));
    block.push_back(statement(
        tag.text == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue, tag.line));
  } else {
    fail_unknown_tag(tag);
  }
}

Statement Parser::parse_if(int line) {
  Statement out = statement(Statement::Kind::kIf, line);
  const Changed<bool> conditional(conditional_, true);
  while (true) {
    ExpressionPtr condition = parse_tuple(TupleOf::kWithoutCondition);
    Block body = parse_body({"elif", "else", "endif"});
    out.branches.emplace_back(std::move(condition), std::move(body));
    const Token next = take();
    if (next.text == "elif") continue;
    if (next.text == "else") out.otherwise = parse_body_to("endif");
    return out;
  }
}

Statement Parser::parse_for(int line) {
  Statement out = statement(Statement::Kind::kFor, line);
  const Changed<int> inside(fors_, fors_ + 1);
  out.target = parse_target();
  if (!skip_name("in")) fail(fmt::format("expected 'in', found {}", described()));
  out.expression = parse_tuple(TupleOf::kWithoutCondition);
  const Changed<bool> unconditional(conditional_, false);
  if (skip_name("if")) out.test = parse_expression();
  if (is_name("recursive")) fail("recursive loops are not supported");
  {
    const Changed<int> looped(loops_, loops_ + 1);
    out.body = parse_body({"endfor", "else"});
  }
  if (take().text == "else") out.otherwise = parse_body_to("endfor");
  return out;
}

Statement Parser::parse_set(int line) {
  Statement out = statement(Statement::Kind::kSet, line);
  out.target = parse_target(true);
  if (skip_operator("=")) {
    out.expression = parse_tuple(TupleOf::kExpressions);
    return out;
  }
  out.kind = Statement::Kind::kSetBlock;
  const Changed<bool> unconditional(conditional_, false);
  while (is_operator("|")) {
    take();
    out.expression = parse_filter(std::move(out.expression));
  }
  out.body = parse_body_to("endset");
  return out;
}

std::unique_ptr<MacroSyntax> Parser::parse_signature() {
  auto macro = std::make_unique<MacroSyntax>();
  expect_operator("(");
  while (!is_operator(")")) {
    if (!macro->parameters.empty()) expect_operator(",");
    const std::string name = expect_name();
    macro->parameters.emplace_back(program_.names.number(name), name);
    if (skip_operator("=")) {
      macro->defaults.push_back(parse_expression());
    } else if (!macro->defaults.empty()) {
      fail("a parameter without a default follows one with a default");
    }
  }
  take();
  return macro;
}

Block Parser::parse_macro_body(MacroSyntax& macro, std::string_view end) {
  const Changed<int> no_loop(loops_, 0);
  const Changed<bool> unconditional(conditional_, false);
  macros_.push_back(&macro);
  Block body = parse_body_to(end);
  macros_.pop_back();
  // A parameter of that name is no request for what is left over.
  const size_t required = macro.parameters.size() - macro.defaults.size();
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const std::string& name = macro.parameters[i].second;
    if (name == "caller" && macro.takes_caller && i < required) {
      fail("the parameter caller must have a default");
    }
    macro.takes_rest &= name != "varargs";
    macro.takes_named_rest &= name != "kwargs";
    macro.takes_caller &= name != "caller";
  }
  return body;
}

Statement Parser::parse_macro(int line) {
  Statement out = statement(Statement::Kind::kMacro, line);
  const std::string name = expect_name();
  out.macro = parse_signature();
  out.macro->name = name;
  auto target = make(Expression::Kind::kName, line);
  target->name = program_.names.number(name);
  out.target = finished(std::move(target));
  out.body = parse_macro_body(*out.macro, "endmacro");
  return out;
}

Statement Parser::parse_call_block(int line) {
  Statement out = statement(Statement::Kind::kCallBlock, line);
  out.macro = is_operator("(") ? parse_signature() : std::make_unique<MacroSyntax>();
  out.macro->name = "caller";
  out.expression = parse_expression();
  if (out.expression->kind != Expression::Kind::kCall) {
    fail_at(line, "{% call %} wants a call of a macro");
  }
  out.body = parse_macro_body(*out.macro, "endcall");
  return out;
}

Statement Parser::parse_filter_block(int line) {
  Statement out = statement(Statement::Kind::kFilterBlock, line);
  const Changed<bool> unconditional(conditional_, false);
  out.expression = parse_filter(nullptr);
  while (skip_operator("|")) out.expression = parse_filter(std::move(out.expression));
  out.body = parse_body_to("endfilter");
  return out;
}

Statement Parser::parse_with(int line) {
  Statement out = statement(Statement::Kind::kWith, line);
  const Changed<bool> unconditional(conditional_, false);
  while (now().type != Type::kBlockEnd) {
    if (!out.targets.empty()) expect_operator(",");
    out.targets.push_back(parse_target());
    expect_operator("=");
    out.values.push_back(parse_expression());
  }
  out.body = parse_body_to("endwith");
  return out;
}

}  // namespace convoke::jinja
