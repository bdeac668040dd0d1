// The `attribute` arguments of filters: "function.name", "items.0", 1.
#pragma once

#include <vector>

#include "runtime/chat_template/value.h"

namespace convoke::jinja {

class AttributePath {
 public:
  explicit AttributePath(std::vector<Value> parts) : parts_(std::move(parts)) {}
  /// The item at the path; `otherwise` (if not null) stands for what is undefined on the way.
  Value of(Heap& heap, Value item, const Value* otherwise = nullptr) const;

 private:
  std::vector<Value> parts_;  ///< names and indices
};

/// nullptr and None mean the item itself.
AttributePath attribute_path(const Value* attribute);
/// Several, with commas between them.
std::vector<AttributePath> attribute_paths(const Value* attribute);

/// A text in lower case, any other value as it is.
Value without_case(Heap& heap, const Value& value);

}  // namespace convoke::jinja
