// Patterns of tokenizer.json: a literal string or a regular expression, matched by PCRE2 with JIT.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "kernels/function_ref.h"

namespace convoke {

/// What matching needs besides the pattern: PCRE2's match data, context and JIT stack. One per
/// thread at a time.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(RegexScratch&&) noexcept;
  RegexScratch& operator=(RegexScratch&&) = delete;

  struct Handles;
  Handles& handles() { return *handles_; }

 private:
  std::unique_ptr<Handles> handles_;
};

/// Immutable once made; may be used by many threads, each with a RegexScratch of its own.
class Pattern {
 public:
  /// An Oniguruma pattern. Throws PatternError (onig_pattern.h).
  static Pattern regex(std::string_view pattern);
  static Pattern literal(std::string_view text);

  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  /// Calls `match(begin, end)` for all matches in `text` (valid UTF-8) from left to right, none
  /// overlapping; an empty match is not reported where the one before ended. Throws Error(kModel)
  /// if the pattern needs more backtracking than PCRE2's limits allow.
  void for_each_match(std::string_view text, RegexScratch& scratch,
                      FunctionRef<void(size_t, size_t)> match) const;

  /// The literal's text; empty for a regular expression.
  const std::string& literal_text() const { return literal_; }

 private:
  struct Code;
  Pattern();

  std::string literal_;
  std::string source_;
  std::unique_ptr<Code> code_;  // null for a literal
};

}  // namespace convoke
