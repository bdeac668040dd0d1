// A parsed template. Names are numbered, so that scopes compare numbers.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/chat_template/library.h"
#include "runtime/chat_template/operators.h"
#include "runtime/chat_template/value.h"

namespace convoke::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<const Expression>;

struct CallSyntax {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr rest;        ///< *rest; or null
  ExpressionPtr named_rest;  ///< **named_rest; or null
};

struct Expression {
  enum class Kind {
    kConstant,            ///< constant
    kName,                ///< name
    kNamespaceAttribute,  ///< name.text, only as a target of an assignment
    kList,                ///< items
    kTuple,
    kDict,       ///< items: key, value, key, value ..
    kAttribute,  ///< items[0].text
    kItem,       ///< items[0][items[1]]
    kSlice,      ///< items[0][items[1]:items[2]:items[3]], null bounds are absent
    kCall,       ///< items[0](call)
    kFilter,     ///< items[0] | filter(call); items[0] is null at the start of a filter block
    kTest,       ///< items[0] is test(call)
    kNot,        ///< items[0]
    kNegate,
    kPlus,
    kAnd,  ///< items[0], items[1]
    kOr,
    kCompare,      ///< items[0] relations[0] items[1] relations[1] ..
    kArithmetic,   ///< items[0] arithmetic items[1]
    kConcatenate,  ///< items
    kConditional,  ///< items[1] if items[0] else items[2], which may be null
  };
  Kind kind = Kind::kConstant;
  int line = 0;
  int depth = 1;  ///< levels below and with this one
  int name = -1;
  std::string text;  ///< an attribute's, filter's or test's name
  Value constant;
  std::vector<ExpressionPtr> items;
  std::vector<Relation> relations;
  Arithmetic arithmetic = Arithmetic::kAdd;
  std::unique_ptr<CallSyntax> call;
  Filter filter = nullptr;  ///< null: unknown, an error if it is ever reached
  Test test = nullptr;
};

struct Statement;
using Block = std::vector<Statement>;

struct MacroSyntax {
  std::string name;
  std::vector<std::pair<int, std::string>> parameters;
  std::vector<ExpressionPtr> defaults;  ///< of the last parameters
  bool takes_rest = false;              ///< its body uses varargs, kwargs, caller
  bool takes_named_rest = false;
  bool takes_caller = false;
};

struct Statement {
  enum class Kind {
    kData,         ///< text
    kOutput,       ///< expression
    kIf,           ///< branches, otherwise
    kFor,          ///< for target in expression if test: body, otherwise
    kSet,          ///< target = expression
    kSetBlock,     ///< target = body, through the filters of expression (or null)
    kMacro,        ///< macro, body
    kCallBlock,    ///< macro is the caller, expression the call, body
    kFilterBlock,  ///< body through the filters of expression
    kWith,         ///< targets = values: body
    kGeneration,   ///< body
    kBreak,
    kContinue
  };
  Kind kind = Kind::kData;
  int line = 0;
  std::string text;
  ExpressionPtr target, expression, test;
  std::vector<std::pair<ExpressionPtr, Block>> branches;
  std::vector<ExpressionPtr> targets, values;
  std::unique_ptr<MacroSyntax> macro;
  Block body, otherwise;
};

/// Numbers for names, the same for the whole template.
class NameTable {
 public:
  int number(const std::string& name);
  int find(const std::string& name) const;  ///< -1: the template does not use it
  const std::string& name(int number) const { return names_[static_cast<size_t>(number)]; }

 private:
  std::unordered_map<std::string, int> numbers_;
  std::vector<std::string> names_;
};

struct Program {
  std::string name;
  NameTable names;
  int loop = 0, varargs = 0, kwargs = 0, caller = 0;  ///< numbers of names with a meaning
  Block body;
};

}  // namespace convoke::jinja
