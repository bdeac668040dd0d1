#pragma once

#include "runtime/chat_template/parser.h"

namespace convoke::jinja {

/// Levels of tags and expressions in one another. Rendering recurses along them, several times over
/// where macros call macros, so the bound is well below what a stack could take.
inline constexpr int kMaxNesting = 150;

class Parser::Nesting {
 public:
  explicit Nesting(Parser& parser) : parser_(parser) {
    if (++parser_.depth_ > kMaxNesting) parser_.fail("the template nests too deeply");
  }
  ~Nesting() { --parser_.depth_; }
  Nesting(const Nesting&) = delete;
  Nesting& operator=(const Nesting&) = delete;

 private:
  Parser& parser_;
};

}  // namespace convoke::jinja
