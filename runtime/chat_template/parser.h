// Tokens to a syntax tree: Jinja2's grammar without inheritance, includes and recursive loops.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/chat_template/lexer.h"
#include "runtime/chat_template/syntax_tree.h"

namespace convoke::jinja {

/// Throws Error(kModel) "name: line N: ..." for what does not parse, unknown tags, filters and
/// tests, and nesting beyond what a rendering may recurse into. As in Jinja2, an unknown filter or
/// test inside of a condition is an error only when it is reached.
Program parse_program(std::string_view source, const std::string& name);

class Parser {
 public:
  Parser(std::vector<Token> tokens, Program& program)
      : tokens_(std::move(tokens)), program_(program) {}

  /// The whole template.
  Block parse();

 private:
  /// Changes a member until the end of the scope.
  template <typename T>
  class Changed {
   public:
    Changed(T& member, T value) : member_(member), before_(member) { member = value; }
    ~Changed() { member_ = before_; }
    Changed(const Changed&) = delete;
    Changed& operator=(const Changed&) = delete;

   private:
    T& member_;
    T before_;
  };
  class Nesting;

  // parser.cc: statements
  Block parse_until(std::initializer_list<std::string_view> ends);
  Block parse_body(std::initializer_list<std::string_view> ends);
  Block parse_body_to(std::string_view end);
  void parse_statement(Block& block);
  void parse_simple(Block& block, const Token& tag);
  Statement statement(Statement::Kind kind, int line) const;
  Statement parse_if(int line);
  Statement parse_for(int line);
  Statement parse_set(int line);
  Statement parse_macro(int line);
  Statement parse_call_block(int line);
  Statement parse_with(int line);
  Statement parse_filter_block(int line);
  std::unique_ptr<MacroSyntax> parse_signature();
  Block parse_macro_body(MacroSyntax& macro, std::string_view end);
  [[noreturn]] void fail_unknown_tag(const Token& tag) const;

  // expression_parser.cc
  ExpressionPtr parse_expression();
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concatenation();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filters = true);
  ExpressionPtr parse_primary(bool as_target = false);
  ExpressionPtr parse_name(const Token& token, bool as_target);
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr value);
  ExpressionPtr parse_subscript(ExpressionPtr value);
  ExpressionPtr parse_slice(ExpressionPtr value, ExpressionPtr start, int line);
  ExpressionPtr parse_filters_and_tests(ExpressionPtr value);
  ExpressionPtr parse_filter(ExpressionPtr value);
  ExpressionPtr parse_test(ExpressionPtr value);
  ExpressionPtr parse_call(ExpressionPtr callee);
  std::unique_ptr<CallSyntax> parse_arguments();
  void parse_argument(CallSyntax& call, int line);
  std::string parse_dotted_name();
  enum class TupleOf { kExpressions, kWithoutCondition, kTargets };
  ExpressionPtr parse_tuple(TupleOf of, bool in_parentheses = false);
  ExpressionPtr parse_target(bool with_namespaces = false);
  void require_target(const Expression& target) const;

  std::unique_ptr<Expression> make(Expression::Kind kind, int line) const;
  ExpressionPtr finished(std::unique_ptr<Expression> expression) const;
  ExpressionPtr pair(Expression::Kind kind, int line, ExpressionPtr a, ExpressionPtr b) const;

  const Token& now() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  Token take();
  bool is_name(std::string_view name) const {
    return now().type == Token::Type::kName && now().text == name;
  }
  bool is_operator(std::string_view text) const {
    return now().type == Token::Type::kOperator && now().text == text;
  }
  bool skip_name(std::string_view name);
  bool skip_operator(std::string_view text);
  void expect_operator(std::string_view text);
  void expect(Token::Type type, const char* what);
  std::string expect_name();
  std::string described() const;  ///< the current token, for messages
  void note_unknown(int line, const std::string& what);
  void require_known() const;
  [[noreturn]] void fail(const std::string& what) const { fail_at(now().line, what); }
  [[noreturn]] void fail_at(int line, const std::string& what) const {
    syntax_error(program_.name, line, what);
  }

  std::vector<Token> tokens_;
  size_t at_ = 0;
  Program& program_;
  int depth_ = 0;
  int loops_ = 0;             ///< whose body we are in, as far as break can reach
  int fors_ = 0;              ///< for tags we are in
  bool conditional_ = false;  ///< inside of an if: unknown filters may stand here
  std::vector<std::pair<int, std::string>> unknown_;  ///< filters and tests, unless an if follows
  std::vector<std::pair<std::string, int>> open_tags_;
  std::vector<std::string_view> ends_;  ///< tags that would close the innermost
  std::vector<MacroSyntax*> macros_;    ///< whose bodies we are in
};

}  // namespace convoke::jinja
