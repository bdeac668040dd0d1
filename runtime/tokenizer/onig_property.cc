#include "runtime/tokenizer/onig_property.h"

#include <fmt/format.h>

#include <string>
#include <unordered_map>

#include "runtime/tokenizer/onig_pattern.h"

namespace convoke {

const char* const kOnigWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
const char* const kOnigWordOutside =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";
const char* const kOnigHexDigit = "0-9A-Fa-f";

namespace {

/// Names are compared without case, spaces, hyphens and underscores.
std::string canonical(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c == ' ' || c == '_' || c == '-') continue;
    out.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c);
  }
  return out;
}

const std::unordered_map<std::string, std::string>& general_categories() {
  static const std::unordered_map<std::string, std::string> names = [] {
    std::unordered_map<std::string, std::string> map = {{"letter", "L"},
                                                        {"uppercaseletter", "Lu"},
                                                        {"lowercaseletter", "Ll"},
                                                        {"titlecaseletter", "Lt"},
                                                        {"modifierletter", "Lm"},
                                                        {"otherletter", "Lo"},
                                                        {"mark", "M"},
                                                        {"nonspacingmark", "Mn"},
                                                        {"spacingmark", "Mc"},
                                                        {"enclosingmark", "Me"},
                                                        {"number", "N"},
                                                        {"decimalnumber", "Nd"},
                                                        {"letternumber", "Nl"},
                                                        {"othernumber", "No"},
                                                        {"punctuation", "P"},
                                                        {"connectorpunctuation", "Pc"},
                                                        {"dashpunctuation", "Pd"},
                                                        {"openpunctuation", "Ps"},
                                                        {"closepunctuation", "Pe"},
                                                        {"initialpunctuation", "Pi"},
                                                        {"finalpunctuation", "Pf"},
                                                        {"otherpunctuation", "Po"},
                                                        {"symbol", "S"},
                                                        {"mathsymbol", "Sm"},
                                                        {"currencysymbol", "Sc"},
                                                        {"modifiersymbol", "Sk"},
                                                        {"othersymbol", "So"},
                                                        {"separator", "Z"},
                                                        {"spaceseparator", "Zs"},
                                                        {"lineseparator", "Zl"},
                                                        {"paragraphseparator", "Zp"},
                                                        {"other", "C"},
                                                        {"control", "Cc"},
                                                        {"format", "Cf"},
                                                        {"privateuse", "Co"},
                                                        {"unassigned", "Cn"}};
    for (const char* code :
         {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd",
          "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm",
          "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Co", "Cn"}) {
      map.emplace(canonical(code), code);
    }
    return map;
  }();
  return names;
}

const std::unordered_map<std::string, std::string>& posix_sets() {
  static const std::unordered_map<std::string, std::string> sets = {
      {"alnum", R"(\p{Alphabetic}\p{Nd})"},
      {"alpha", R"(\p{Alphabetic})"},
      {"digit", R"(\p{Nd})"},
      {"upper", R"(\p{Uppercase})"},
      {"lower", R"(\p{Lowercase})"},
      {"space", R"(\s)"},
      {"punct", R"(\p{P}\p{S})"},
      {"xdigit", kOnigHexDigit},
      {"word", kOnigWord},
      {"cntrl", R"(\p{Cc})"},
      {"blank", R"(\p{Zs}\t)"},
      {"ascii", R"(\x{0}-\x{7f})"},
      {"any", R"(\x{0}-\x{10ffff})"}};
  return sets;
}

}  // namespace

NamedSet onig_property(std::string_view name, bool posix) {
  const std::string key = canonical(name);
  if (key == "punct" && !posix) return {"\\p{P}", true};  // symbols only in brackets
  if (const auto it = general_categories().find(key); it != general_categories().end()) {
    return {fmt::format("\\p{{{}}}", it->second), true};
  }
  if (const auto it = posix_sets().find(key); it != posix_sets().end()) return {it->second, false};
  for (const char c : name) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == ' ' || c == '-';
    if (!plain) throw PatternError(fmt::format("\\p{{{}}} is not a property name", name));
  }
  if (pcre2_knows_script(key)) return {fmt::format("\\p{{sc:{}}}", key), true};
  return {fmt::format("\\p{{{}}}", key), true};
}

}  // namespace convoke
