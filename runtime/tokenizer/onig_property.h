// Character sets of Oniguruma by name, written as the inside of a PCRE2 class.
#pragma once

#include <string>
#include <string_view>

namespace convoke {

/// A set is the inside of a class; `simple` tells that it is one \p{...} item, whose complement is
/// \P{...}.
struct NamedSet {
  std::string items;
  bool simple = false;
};

extern const char* const kOnigWord;         ///< \w in a class, [[:word:]]
extern const char* const kOnigWordOutside;  ///< \w outside of classes: Latin-1 superscripts, too
extern const char* const kOnigHexDigit;     ///< \h

/// Set of \p{name}, or of [:name:] with `posix`. Throws PatternError for a name nobody knows.
NamedSet onig_property(std::string_view name, bool posix);

}  // namespace convoke
