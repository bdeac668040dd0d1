// A template's text cut into tokens, as Jinja2 does it with trim_blocks and lstrip_blocks on.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace convoke::jinja {

struct Token {
  enum class Type {
    kData,  ///< text outside tags, white space control applied
    kVariableBegin,
    kVariableEnd,
    kBlockBegin,
    kBlockEnd,
    kName,
    kString,  ///< escapes resolved
    kInteger,
    kFloat,
    kOperator,
    kEnd
  };
  Type type = Type::kEnd;
  int line = 1;
  std::string text;
};

/// Throws Error(kModel) "name: line N: ..." for what is no token, open comments and raw blocks,
/// brackets that do not match. `source` must be valid UTF-8. The last token is kEnd.
std::vector<Token> tokenize(std::string_view source, const std::string& name);

/// Throws Error(kModel) "name: line N: what".
[[noreturn]] void syntax_error(const std::string& name, int line, const std::string& what);

}  // namespace convoke::jinja
