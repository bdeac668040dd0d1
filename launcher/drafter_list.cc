#include "launcher/drafter_list.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "kernels/check.h"
#include "runtime/drafters/registry.h"

namespace convoke {

namespace {

constexpr std::string_view kRandom = "random";

/// The part up to ':' or ',' is the name of a method.
bool begins_with_method(std::string_view text) {
  const std::string_view name = text.substr(0, text.find_first_of(":,"));
  return std::ranges::any_of(draft_methods(), [&](const auto& m) { return name == m.name; });
}

/// Looks like METHOD:ARGUMENT: a word and a colon. Within a list that is a misspelt method rather
/// than a piece of a path.
bool looks_like_entry(std::string_view text) {
  const size_t end = text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-_");
  return end != 0 && end != std::string_view::npos && text[end] == ':';
}

size_t end_of_entry(std::string_view text) {
  const size_t first = text.find_first_of(":,");
  if (first == std::string_view::npos || text[first] == ',') return std::min(first, text.size());
  for (size_t comma = text.find(',', first); comma != std::string_view::npos;
       comma = text.find(',', comma + 1)) {
    const std::string_view rest = text.substr(comma + 1);
    if (rest.empty() || rest[0] == ',' || begins_with_method(rest) || looks_like_entry(rest)) {
      return comma;
    }
  }
  return text.size();
}

/// ":" and the argument with the directory's last part alone, or nothing.
std::string short_argument(const DrafterSpec& spec) {
  if (spec.argument.empty()) return "";
  const size_t comma = std::min(spec.argument.find(','), spec.argument.size());
  std::string path = spec.argument.substr(0, comma);
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return fmt::format(":{}{}", path.substr(path.rfind('/') + 1), spec.argument.substr(comma));
}

}  // namespace

std::vector<DrafterSpec> parse_drafter_list(std::string_view flag, const std::string& text) {
  std::vector<DrafterSpec> drafters;
  if (text.empty()) throw_error(ErrorKind::kUsage, "{}: is empty", flag);
  const bool semicolons = text.find(';') != std::string::npos;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t length = semicolons ? std::min(text.find(';', begin), text.size()) - begin
                                     : end_of_entry(std::string_view(text).substr(begin));
    // "DIR;" is how a single entry says that its commas are its own.
    if (semicolons && length == 0 && begin == text.size() && !drafters.empty()) break;
    if (length == 0) throw_error(ErrorKind::kUsage, "{}: an entry is empty", flag);
    drafters.push_back(DrafterSpec::parse(text.substr(begin, length)));
    begin += length + 1;
  }
  return drafters;
}

bool has_random_weights(const DrafterSpec& spec) {
  return std::string_view(spec.argument).substr(0, spec.argument.find(',')) == kRandom;
}

std::vector<std::string> drafter_labels(const std::vector<DrafterSpec>& drafters) {
  // Each next way of naming is for those whose name by the one before is not theirs alone.
  const std::function<std::string(const DrafterSpec&)> ways[] = {
      [](const DrafterSpec& spec) {
        return has_random_weights(spec) ? fmt::format("{}:{}", spec.method, kRandom) : spec.method;
      },
      [](const DrafterSpec& spec) { return spec.method + short_argument(spec); },
      [](const DrafterSpec& spec) { return spec.text(); },
  };
  std::vector<std::string> labels(drafters.size());
  for (const auto& way : ways) {
    std::map<std::string, int> uses;
    for (const std::string& label : labels) ++uses[label];
    for (size_t i = 0; i < drafters.size(); ++i) {
      if (labels[i].empty() || uses[labels[i]] > 1) labels[i] = way(drafters[i]);
    }
  }
  std::map<std::string, int> uses;
  for (std::string& label : labels) {
    if (const int before = uses[label]++; before > 0) label += fmt::format(" #{}", before + 1);
  }
  return labels;
}

}  // namespace convoke
