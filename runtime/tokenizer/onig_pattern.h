// Reads a pattern the way the reference library does and writes it for PCRE2.
//
// The reference matches Split and Replace patterns with Oniguruma in its default (Ruby-like) syntax
// and UTF-8. What differs from PCRE2, and what is done about it:
//
//   * (?m) lets the dot match newlines: becomes (?s); ^ and $ always work per line:
//   PCRE2_MULTILINE.
//   * X{n,m}+ is not possessive but "X{n,m}, once or more"; X{n}? means "X{n} or nothing";
//     {,m} is {0,m}: rewritten with a group. ++, *+ and ?+ are possessive in both.
//   * \w is Alphabetic, M, Nd, Pc and the Latin-1 superscripts and fractions; \h is a hexadecimal
//     digit, \v a vertical tab, \uHHHH a code point; [:name:] and \p{Name} of POSIX names follow
//     Unicode properties; \p{Script} means Script, not Script_Extensions: all rewritten.
//   * Nested classes are unions: flattened.
//   * U+180E and characters newer than Unicode 14: see unicode.h, with_stand_ins().
//   * Case folding is the same for single characters (U+017F matches s, U+212A matches k);
//     Oniguruma alone also folds one character to several (U+00DF to ss) under (?i). A pattern with
//     such a sequence under (?i) is refused.
//   * Back references, subexpression calls, \K, \X, absent operators, callouts, conditionals, class
//     intersection and extended mode are refused.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace convoke {

/// Why a pattern cannot be used; the caller adds file and key.
class PatternError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// `pattern` is valid UTF-8. Throws PatternError.
std::string onig_to_pcre2(std::string_view pattern);

/// Whether PCRE2 knows a script of that name (regex.cc).
bool pcre2_knows_script(const std::string& name);

/// `text` as a PCRE2 literal.
std::string quote_pattern(std::string_view text);

}  // namespace convoke
