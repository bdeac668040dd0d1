#include "runtime/chat_template/library.h"

#include <algorithm>
#include <unordered_map>

namespace convoke::jinja {

Filter find_filter(std::string_view name) {
  static const auto table = [] {
    std::unordered_map<std::string_view, Filter> out;
    for (const auto* filters :
         {&text_filters(), &number_filters(), &sequence_filters(), &selection_filters()}) {
      for (const NamedFilter& row : *filters) out.emplace(row.name, row.filter);
    }
    return out;
  }();
  const auto it = table.find(name);
  return it == table.end() ? nullptr : it->second;
}

Signature::Signature(std::string_view function, const Arguments& arguments,
                     std::initializer_list<std::string_view> names, size_t required)
    : function_(function), values_(names.size(), nullptr) {
  if (arguments.positional.size() > names.size()) {
    fault("{}() takes at most {} argument(s), {} given", function, names.size(),
          arguments.positional.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto* found = std::find(names.begin(), names.end(), name);
    if (found == names.end() || name.empty()) {
      fault("{}() got an unexpected keyword argument '{}'", function, name);
    }
    const Value*& place = values_[static_cast<size_t>(found - names.begin())];
    if (place != nullptr) fault("{}() got multiple values for argument '{}'", function, name);
    place = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) fault("{}() misses argument {}", function, i + 1);
  }
}

bool Signature::flag(size_t i, bool otherwise) const {
  return given(i) ? truthy(*values_[i]) : otherwise;
}

int64_t Signature::integer(size_t i, int64_t otherwise) const {
  if (!given(i)) return otherwise;
  const Value& value = *values_[i];
  if (value.is(Kind::kUndefined)) fault("{}", value.text());
  if (!value.is_whole()) {
    fault("{}(): argument {} must be an integer, not {}", function_, i + 1, type_name(value));
  }
  return value.whole();
}

const std::string& Signature::text(size_t i) const {
  const Value& value = *values_[i];
  if (value.is(Kind::kUndefined)) fault("{}", value.text());
  if (!value.is(Kind::kText)) {
    fault("{}(): argument {} must be str, not {}", function_, i + 1, type_name(value));
  }
  return value.text();
}

}  // namespace convoke::jinja
